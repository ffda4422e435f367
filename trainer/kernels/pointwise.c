/* What lies between a layer's products, forward and backward: bfloat16 in memory, float32 inside,
 * one rounding each. Slopes of weights come as one sum for each thread. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "vectors.h"

/* sum = x + added (where there is something to add); out = sum / rms(sum) * weight. */
void add_norm(const half_t *x, const half_t *added, const half_t *weight, half_t *sum, half_t *out,
              float *inverse, int64_t rows, int64_t width, double epsilon, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const half_t *from = x + row * width;
        half_t *to = out + row * width;
        float squares = 0.0f;
        if (added) {
            const half_t *more = added + row * width;
            half_t *kept = sum + row * width;
#pragma omp simd reduction(+ : squares)
            for (int64_t i = 0; i < width; i++) {
                const half_t both = narrowed(widened(from[i]) + widened(more[i]));
                kept[i] = both;
                squares += widened(both) * widened(both);
            }
            from = kept;
        } else {
#pragma omp simd reduction(+ : squares)
            for (int64_t i = 0; i < width; i++) squares += widened(from[i]) * widened(from[i]);
        }
        const float by = 1.0f / sqrtf(squares / (float)width + (float)epsilon);
        inverse[row] = by;
        for (int64_t i = 0; i < width; i++)
            to[i] = narrowed(widened(from[i]) * by * widened(weight[i]));
    }
}

/* Slopes of x (and of what was added) from those of `out` and, where not null, of `sum`. */
void add_norm_back(const half_t *sum, const half_t *weight, const float *inverse,
                   const half_t *out_slopes, const half_t *sum_slopes, half_t *slopes,
                   float *weight_slopes, int64_t rows, int64_t width, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        float *mine = weight_slopes ? weight_slopes + omp_get_thread_num() * width : 0;
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; row++) {
            const half_t *from = sum + row * width, *given = out_slopes + row * width;
            half_t *to = slopes + row * width;
            const float by = inverse[row];
            float level = 0.0f;
#pragma omp simd reduction(+ : level)
            for (int64_t i = 0; i < width; i++)
                level += widened(given[i]) * widened(weight[i]) * widened(from[i]);
            level *= by * by / (float)width;
            if (mine)
                for (int64_t i = 0; i < width; i++)
                    mine[i] += widened(given[i]) * widened(from[i]) * by;
            if (sum_slopes) {
                const half_t *past = sum_slopes + row * width;
                for (int64_t i = 0; i < width; i++)
                    to[i] = narrowed(
                        by * (widened(given[i]) * widened(weight[i]) - widened(from[i]) * level) +
                        widened(past[i]));
            } else {
                for (int64_t i = 0; i < width; i++)
                    to[i] = narrowed(
                        by * (widened(given[i]) * widened(weight[i]) - widened(from[i]) * level));
            }
        }
    }
}

/* out = silu(gate) * up, of rows [gate | up]. */
void gated(const half_t *both, half_t *out, int64_t rows, int64_t width, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const half_t *gate = both + row * 2 * width, *up = gate + width;
        half_t *to = out + row * width;
        for (int64_t i = 0; i < width; i++) {
            const float g = widened(gate[i]);
            to[i] = narrowed(g / (1.0f + exponential(-g)) * widened(up[i]));
        }
    }
}

void gated_back(const half_t *both, const half_t *given, half_t *slopes, int64_t rows,
                int64_t width, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const half_t *gate = both + row * 2 * width, *up = gate + width;
        const half_t *from = given + row * width;
        half_t *gate_slopes = slopes + row * 2 * width, *up_slopes = gate_slopes + width;
        for (int64_t i = 0; i < width; i++) {
            const float g = widened(gate[i]), slope = widened(from[i]);
            const float share = 1.0f / (1.0f + exponential(-g));
            up_slopes[i] = narrowed(slope * g * share);
            gate_slopes[i] =
                narrowed(slope * widened(up[i]) * share * (1.0f + g * (1.0f - share)));
        }
    }
}

typedef struct {
    int64_t tokens, heads, key_heads, size;
    const half_t *query_weight, *key_weight; /* of the norms of heads, or null */
    const float *cos, *sin;                  /* [tokens][size / 2] */
    double epsilon;
    int64_t threads;
} heads_t;

INLINE float inverse_of(const half_t *x, int64_t size, double epsilon) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < size; i++) squares += widened(x[i]) * widened(x[i]);
    return 1.0f / sqrtf(squares / (float)size + (float)epsilon);
}

static void turn(const half_t *x, const half_t *weight, const float *cos, const float *sin,
                 int64_t size, double epsilon, half_t *to) {
    const int64_t half = size / 2;
    const float by = weight ? inverse_of(x, size, epsilon) : 1.0f;
    for (int64_t i = 0; i < half; i++) {
        float low = widened(x[i]) * by, high = widened(x[half + i]) * by;
        if (weight) low *= widened(weight[i]), high *= widened(weight[half + i]);
        to[i] = narrowed(low * cos[i] - high * sin[i]);
        to[half + i] = narrowed(high * cos[i] + low * sin[i]);
    }
}

/* Rows [queries | keys | values] of tokens become [head][token][size], normed and turned. */
void split_heads(const heads_t *of, const half_t *joined, half_t *queries, half_t *keys,
                 half_t *values) {
    const int64_t size = of->size, part = of->tokens * size, all = of->heads + 2 * of->key_heads;
#pragma omp parallel for num_threads(of->threads) schedule(static)
    for (int64_t token = 0; token < of->tokens; token++) {
        const half_t *from = joined + token * all * size;
        const float *cos = of->cos + token * size / 2, *sin = of->sin + token * size / 2;
        const int64_t at = token * size;
        for (int64_t head = 0; head < of->heads; head++, from += size)
            turn(from, of->query_weight, cos, sin, size, of->epsilon, queries + head * part + at);
        for (int64_t head = 0; head < of->key_heads; head++, from += size)
            turn(from, of->key_weight, cos, sin, size, of->epsilon, keys + head * part + at);
        for (int64_t head = 0; head < of->key_heads; head++, from += size)
            memcpy(values + head * part + at, from, 2 * size);
    }
}

static void turn_back(const half_t *x, const half_t *weight, const float *cos, const float *sin,
                      int64_t size, double epsilon, const half_t *given, half_t *to,
                      float *weight_slopes) {
    const int64_t half = size / 2;
    float slopes[size];
    for (int64_t i = 0; i < half; i++) {
        const float low = widened(given[i]), high = widened(given[half + i]);
        slopes[i] = low * cos[i] + high * sin[i];
        slopes[half + i] = high * cos[i] - low * sin[i];
    }
    if (!weight) {
        for (int64_t i = 0; i < size; i++) to[i] = narrowed(slopes[i]);
        return;
    }
    const float by = inverse_of(x, size, epsilon);
    float level = 0.0f;
#pragma omp simd reduction(+ : level)
    for (int64_t i = 0; i < size; i++) level += slopes[i] * widened(weight[i]) * widened(x[i]);
    level *= by * by / (float)size;
    if (weight_slopes)
        for (int64_t i = 0; i < size; i++) weight_slopes[i] += slopes[i] * widened(x[i]) * by;
    for (int64_t i = 0; i < size; i++)
        to[i] = narrowed(by * (slopes[i] * widened(weight[i]) - widened(x[i]) * level));
}

/* `weight_slopes` [threads][2][size], or null. */
void join_heads_back(const heads_t *of, const half_t *joined, const half_t *query_slopes,
                     const half_t *key_slopes, const half_t *value_slopes, half_t *slopes,
                     float *weight_slopes) {
    const int64_t size = of->size, part = of->tokens * size, all = of->heads + 2 * of->key_heads;
#pragma omp parallel num_threads(of->threads)
    {
        float *mine = weight_slopes ? weight_slopes + omp_get_thread_num() * 2 * size : 0;
        float *keys_mine = mine ? mine + size : 0;
#pragma omp for schedule(static)
        for (int64_t token = 0; token < of->tokens; token++) {
            const half_t *from = joined + token * all * size;
            half_t *to = slopes + token * all * size;
            const float *cos = of->cos + token * size / 2, *sin = of->sin + token * size / 2;
            const int64_t at = token * size;
            for (int64_t head = 0; head < of->heads; head++, from += size, to += size)
                turn_back(from, of->query_weight, cos, sin, size, of->epsilon,
                          query_slopes + head * part + at, to, mine);
            for (int64_t head = 0; head < of->key_heads; head++, from += size, to += size)
                turn_back(from, of->key_weight, cos, sin, size, of->epsilon,
                          key_slopes + head * part + at, to, keys_mine);
            for (int64_t head = 0; head < of->key_heads; head++, to += size)
                memcpy(to, value_slopes + head * part + at, 2 * size);
        }
    }
}

/* Cross entropies of rows of logits; a hit where no other token is likelier than the target. With
 * `factors`, one a row, the logits become their slopes: factor times the share, less the factor at the
 * target. */
void cross_entropies(half_t *logits, const int64_t *targets, const float *factors,
                     float *losses, uint8_t *hits, int64_t rows, int64_t width, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        half_t *at = logits + row * width;
        float most = -INFINITY, sum = 0.0f;
        for (int64_t i = 0; i < width; i++) {
            const float value = widened(at[i]);
            most = value > most ? value : most;
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < width; i++) sum += exponential(widened(at[i]) - most);
        const float log_sum = most + logf(sum), target = widened(at[targets[row]]);
        losses[row] = log_sum - target;
        hits[row] = target >= most;
        if (!factors) continue;
        const float by = factors[row];
        for (int64_t i = 0; i < width; i++)
            at[i] = narrowed(exponential(widened(at[i]) - log_sum) * by);
        at[targets[row]] = narrowed((expf(target - log_sum) - 1.0f) * by);
    }
}

/* A look at the processor before anybody relies on it; 0 if all is right. */
int check(void) {
    for (int i = 0; i < 16; i++) {
        floats_t sum = all_floats((float)i);
        words_t left = all_words(0x40004040u), right = all_words(0x3f8040a0u); /* (3, 2), (5, 1) */
        sum = dot(sum, left, right);
        if (sum[i] != (float)i + 17.0f) return 1;
    }
    return fabsf(exponential(1.0f) - 2.7182817f) < 1e-5f ? 0 : 1;
}
