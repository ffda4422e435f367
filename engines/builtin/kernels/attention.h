/* Attention over a cache of blocks: each row looks at its sequence's positions up to its own.
 *
 * Rows of one sequence that follow each other are read together (`many`), a single one by itself
 * (`one`). Queries that share a key head share what is read of the cache. */
#ifndef ATTENTION_H
#define ATTENTION_H

#include <math.h>

#include "tiles.h"

enum { KEYS = 2 * PANEL, VECTORS = 4 * TILE, LARGEST_HEAD = 256, AHEAD = 32 };

typedef struct {
    const half_t *queries; /* of one row; heads lie behind each other */
    const half_t *keys, *values; /* of one layer and key head, in the first block */
    const int64_t *table; /* which blocks hold the sequence, in order */
    int64_t block_stride; /* values from one block to the next */
    int64_t block_tokens; /* a multiple of 16; a position is head_size values */
    int64_t length; /* positions to look at */
    int64_t head_size;
    float scale;
} attention_t;

/* Where the keys, or values, of a position and those after it in its block begin. */
INLINE const half_t *place_of(const attention_t *a, const half_t *from, int64_t position) {
    return from + a->table[position / a->block_tokens] * a->block_stride +
           position % a->block_tokens * a->head_size;
}

/* Asks for the sixteen positions from `position` on. Blocks lie anywhere in memory, so the machine
 * cannot guess which one comes next. */
INLINE void fetch(const attention_t *a, const half_t *from, int64_t position, int size) {
    if (position >= a->length) return;
    const char *at = (const char *)place_of(a, from, position);
    for (int line = 0; line < 16 * size * 2; line += 64) __builtin_prefetch(at + line, 0, 2);
}

/* scores[i] = scale * query . key i, for whole sixteens (the last ones repeat the last key). */
INLINE void score_keys(const attention_t *a, const half_t *query, int size, int is_first,
                       float *scores) {
    words_t own[LARGEST_HEAD / 32];
    _Pragma("GCC unroll 8") for (int i = 0; i < size / 32; i++) own[i] = load_words(query + 32 * i);
    for (int64_t first = 0; first < a->length; first += 16) {
        const half_t *keys = place_of(a, a->keys, first);
        if (is_first) {
            fetch(a, a->keys, first + AHEAD, size);
            fetch(a, a->values, first, size);
        }
        const int64_t last = a->length - 1 - first;
        floats_t sums[16];
        _Pragma("GCC unroll 16") for (int k = 0; k < 16; k++) {
            const half_t *key = keys + (k < last ? k : last) * size;
            floats_t sum = {};
            _Pragma("GCC unroll 8") for (int i = 0; i < size / 32; i++)
                sum = dot(sum, own[i], load_words(key + 32 * i));
            sums[k] = sum;
        }
        store_floats(scores + first, sums_of(sums) * a->scale);
    }
}

/* Turns scores into weights that are e^(score - best); the sum of them. */
INLINE float weigh(float *scores, int64_t count) {
    float best = scores[0], sum = 0.0f;
#pragma omp simd reduction(max : best)
    for (int64_t i = 0; i < count; i++) best = scores[i] > best ? scores[i] : best;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) {
        scores[i] = exponential(scores[i] - best);
        sum += scores[i];
    }
    return sum;
}

/* out = the values' mean by each of `COUNT` queries' weights. */
INLINE void mix_values(const attention_t *a, const float *weights, int64_t weights_stride,
                       const float *totals, int size, int count, half_t *out) {
    floats_t first[2][LARGEST_HEAD / 32] = {}, second[2][LARGEST_HEAD / 32] = {};
    const half_t *value = a->values;
    for (int64_t at = 0; at < a->length; at++, value += size) {
        if (at % 16 == 0) value = place_of(a, a->values, at);
        _Pragma("GCC unroll 8") for (int i = 0; i < size / 32; i++) {
            words_t pairs = load_words(value + 32 * i);
            _Pragma("GCC unroll 2") for (int q = 0; q < count; q++) {
                floats_t weight = all_floats(weights[q * weights_stride + at]);
                first[q][i] += weight * earlier(pairs);
                second[q][i] += weight * later(pairs);
            }
        }
    }
    _Pragma("GCC unroll 2") for (int q = 0; q < count; q++)
        _Pragma("GCC unroll 8") for (int i = 0; i < size / 32; i++) store_words(
            out + q * size + 32 * i, paired(first[q][i] / totals[q], second[q][i] / totals[q]));
}

INLINE void attend_sized(const attention_t *a, int64_t queries, int size, half_t *out,
                         float *scores) {
    const int64_t stride = (a->length + 15) & ~15;
    for (int64_t q = 0; q < queries; q += 2) {
        const int count = queries - q < 2 ? 1 : 2;
        float totals[2];
        for (int i = 0; i < count; i++) {
            score_keys(a, a->queries + (q + i) * size, size, q + i == 0, scores + i * stride);
            totals[i] = weigh(scores + i * stride, a->length);
        }
        if (count == 2)
            mix_values(a, scores, stride, totals, size, 2, out + q * size);
        else
            mix_values(a, scores, stride, totals, size, 1, out + q * size);
    }
}

/* One row's queries of one key head. `scores` holds two rows of the context, in whole sixteens. */
static void attend_one(const attention_t *a, int64_t queries, half_t *out, float *scores) {
    switch (a->head_size) {
        case 32: attend_sized(a, queries, 32, out, scores); break;
        case 64: attend_sized(a, queries, 64, out, scores); break;
        case 128: attend_sized(a, queries, 128, out, scores); break;
        case 256: attend_sized(a, queries, 256, out, scores); break;
    }
}

/* What several rows of one sequence need: 330 KiB of a thread's own for heads of 256. */
typedef struct {
    uint32_t rows[VECTORS * LARGEST_HEAD / 2]; /* queries, packed in tiles */
    uint32_t keys[2][LARGEST_HEAD / 2 * PANEL]; /* KEYS of them as two panels */
    uint32_t values[LARGEST_HEAD / PANEL][KEYS / 2 * PANEL];
    uint32_t weights[VECTORS * KEYS / 2]; /* packed in tiles */
    float scores[VECTORS][KEYS];
    float mixed[VECTORS][LARGEST_HEAD];
    float best[VECTORS], total[VECTORS];
} block_t;

/* The keys and values of KEYS positions from `first` on, as panels; past the end there are zeros. */
static void pack_positions(const attention_t *a, int64_t first, int64_t end, block_t *b) {
    const int64_t words = a->head_size / 2;
    for (int64_t side = 0; side < KEYS / 16; side++) {
        const int64_t from = first + 16 * side;
        uint32_t *to = b->keys[side / 2] + 16 * (side % 2);
        if (from + 16 <= end) {
            const uint32_t *keys = (const uint32_t *)place_of(a, a->keys, from);
            for (int64_t word = 0; word < words; word += 16)
                transpose(keys + word, words, to + word * PANEL, PANEL);
        } else {
            for (int64_t word = 0; word < words; word++)
                for (int64_t k = 0; k < 16; k++) {
                    uint32_t pair = 0;
                    if (from + k < end)
                        memcpy(&pair, place_of(a, a->keys, from + k) + 2 * word, 4);
                    to[word * PANEL + k] = pair;
                }
        }
    }
    for (int64_t pair = 0; pair < KEYS / 2; pair++) {
        const int64_t at = first + 2 * pair;
        const half_t *one = place_of(a, a->values, at < end ? at : 0), *two = one + a->head_size;
        for (int64_t panel = 0; panel < a->head_size / PANEL; panel++) {
            uint32_t *to = b->values[panel] + pair * PANEL;
            const half_t *lower = one + panel * PANEL, *upper = two + panel * PANEL;
            if (at + 1 < end)
                for (int i = 0; i < PANEL; i++) to[i] = lower[i] | (uint32_t)upper[i] << 16;
            else if (at < end)
                for (int i = 0; i < PANEL; i++) to[i] = lower[i];
            else
                memset(to, 0, 4 * PANEL);
        }
    }
}

/* Folds the scores of one query at KEYS positions into its running best, sum and mean. */
static void fold_scores(block_t *b, int64_t v, int64_t seen, int64_t head_size, float scale) {
    float *scores = b->scores[v];
    float best = b->best[v], sum = 0.0f;
    for (int64_t i = seen; i < KEYS; i++) scores[i] = -INFINITY;
#pragma omp simd reduction(max : best)
    for (int i = 0; i < KEYS; i++) {
        scores[i] *= scale;
        best = scores[i] > best ? scores[i] : best;
    }
    const float fade = exponential(b->best[v] - best);
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < KEYS; i++) {
        float weight = i < seen ? exponential(scores[i] - best) : 0.0f;
        sum += weight;
        scores[i] = weight;
    }
    b->best[v] = best;
    b->total[v] = b->total[v] * fade + sum;
    for (int64_t i = 0; i < head_size; i++) b->mixed[v][i] *= fade;
    uint32_t *to = b->weights + v / TILE * TILE * (KEYS / 2) + v % TILE;
    for (int pair = 0; pair < KEYS / 2; pair++)
        to[pair * TILE] = narrowed(scores[2 * pair]) | (uint32_t)narrowed(scores[2 * pair + 1]) << 16;
}

/* `count` rows of one sequence, `group` queries each, at most VECTORS together; row i is at
 * position `a->length - count + i`. Their queries lie `row_stride` apart, and so do the answers in
 * `out`, `out_stride` apart. */
static void attend_many(const attention_t *a, int64_t count, int64_t group, int64_t row_stride,
                        half_t *out, int64_t out_stride, block_t *b) {
    const int64_t vectors = count * group, size = a->head_size, words = size / 2;
    for (int64_t v = 0; v < vectors; v++) {
        const half_t *query = a->queries + v / group * row_stride + v % group * size;
        uint32_t *to = b->rows + v / TILE * TILE * words + v % TILE;
        for (int64_t word = 0; word < words; word++) memcpy(to + word * TILE, query + 2 * word, 4);
        b->best[v] = -1e30f;
        b->total[v] = 0.0f;
        memset(b->mixed[v], 0, sizeof(float) * size);
    }
    float sums[TILE * PANEL] __attribute__((aligned(64)));
    for (int64_t first = 0; first < a->length; first += KEYS) {
        pack_positions(a, first, a->length, b);
        for (int64_t v = 0; v < vectors; v += TILE) {
            const int64_t some = vectors - v < TILE ? vectors - v : TILE;
            for (int side = 0; side < 2; side++) {
                const uint32_t *panel = b->keys[side];
                TILES[some](b->rows + v * words, TILE, panel, words, (const char *)panel, 0, sums);
                for (int64_t r = 0; r < some; r++)
                    memcpy(b->scores[v + r] + side * PANEL, sums + r * PANEL, 4 * PANEL);
            }
            for (int64_t r = v; r < v + some; r++) {
                int64_t seen = a->length - count + r / group + 1 - first;
                fold_scores(b, r, seen < 0 ? 0 : seen < KEYS ? seen : KEYS, size, a->scale);
            }
            for (int64_t p = 0; p < size / PANEL; p++) {
                const uint32_t *panel = b->values[p];
                TILES[some](b->weights + v * (KEYS / 2), TILE, panel, KEYS / 2, (const char *)panel,
                            0, sums);
                for (int64_t r = 0; r < some; r++)
                    for (int i = 0; i < PANEL; i++)
                        b->mixed[v + r][p * PANEL + i] += sums[r * PANEL + i];
            }
        }
    }
    for (int64_t v = 0; v < vectors; v++) {
        half_t *to = out + v / group * out_stride + v % group * size;
        const float share = 1.0f / b->total[v];
        for (int64_t i = 0; i < size; i++) to[i] = narrowed(b->mixed[v][i] * share);
    }
}

#endif
