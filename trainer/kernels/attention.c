/* Causal attention over segments of one line of tokens, forward and backward, in bfloat16.
 *
 * A line is [shared beginning | segment 1 | segment 2 ...]. A token attends to the shared beginning,
 * and in its own segment to itself and what comes before it; the shared beginning attends to itself.
 * Queries, keys and values are [head][token][size]; query heads that share a key head follow each
 * other. Scores are not kept: forward leaves the logarithm of each row's sum, from which backward
 * makes the shares again.
 *
 * `size` is a multiple of PANEL. Work goes to threads in a fixed order, so that sums come out the
 * same every time. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "tiles.h"

enum { ROWS = 96 }; /* queries at a time: their scores stay in the core's own cache */

typedef struct {
    int64_t tokens, heads, key_heads, size;
    int64_t shared;        /* tokens of the shared beginning, perhaps none */
    int64_t segments;      /* without the shared beginning */
    const int64_t *starts; /* [segments + 1]: where each begins, and where the last one ends */
    int64_t threads;
    double scale;
} line_t;

/* The keys that a segment sees: the shared ones, then its own. */
typedef struct {
    int64_t shared, start, own, keys, wide; /* wide: keys up to whole panels */
} span_t;

INLINE int64_t up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

/* Span 0 is the shared beginning by itself, where there is one. */
INLINE int64_t spans_of(const line_t *line) { return line->segments + (line->shared > 0); }
INLINE span_t span_at(const line_t *line, int64_t number) {
    span_t span = {.own = line->shared};
    if (!line->shared || number > 0) {
        const int64_t segment = number - (line->shared > 0);
        span.shared = line->shared;
        span.start = line->starts[segment];
        span.own = line->starts[segment + 1] - span.start;
    }
    span.keys = span.shared + span.own;
    span.wide = up(span.keys, PANEL);
    return span;
}

/* Rows of scores lie a cache line further apart than they are long: lengths that are powers of two
 * would put them all into the same few lines of the cache. */
typedef struct {
    int64_t wide, stride;
    uint32_t *keys, *values, *keys_over, *given_over, *queries_over, *share_pairs, *slope_pairs;
    half_t *joined, *shares, *slopes, *given;
    float *scores, *share_slopes, *sums, *key_sums, *value_sums;
    char *memory;
} room_t;

static void *take(char **at, int64_t bytes) {
    void *from = *at;
    if (*at) *at += up(bytes, 64) + 64;
    return from;
}

static int make_room(const line_t *line, int back, room_t *room) {
    const int64_t size = line->size;
    int64_t wide = 0;
    for (int64_t i = 0; i < spans_of(line); i++) {
        const int64_t one = span_at(line, i).wide;
        wide = one > wide ? one : wide;
    }
    const int64_t stride = wide + PANEL, block = ROWS * stride;
    room->wide = wide, room->stride = stride;
    const int64_t total = wide * size * (back ? 16 : 6) + block * (back ? 16 : 6) +
                          ROWS * size * (back ? 10 : 4) + 32 * 128;
    room->memory = aligned_alloc(64, up(total, 64));
    if (!room->memory) return 1;
    char *at = room->memory;
    room->keys = take(&at, 2 * wide * size);
    room->values = take(&at, 2 * wide * size);
    room->joined = take(&at, 2 * wide * size);
    room->scores = take(&at, 4 * block);
    room->shares = take(&at, 2 * block);
    room->sums = take(&at, 4 * ROWS * size);
    if (!back) return 0;
    room->keys_over = take(&at, 2 * wide * size);
    room->key_sums = take(&at, 4 * wide * size);
    room->value_sums = take(&at, 4 * wide * size);
    room->share_slopes = take(&at, 4 * block);
    room->slopes = take(&at, 2 * block);
    room->share_pairs = take(&at, 2 * block);
    room->slope_pairs = take(&at, 2 * block);
    room->given = take(&at, 2 * ROWS * size);
    room->given_over = take(&at, 2 * ROWS * size);
    room->queries_over = take(&at, 2 * ROWS * size);
    return 0;
}

/* A span's keys or values, [keys][size]. */
static const half_t *rows_of(const half_t *all, const span_t *span, int64_t size, half_t *joined) {
    const half_t *own = all + span->start * size;
    if (!span->shared) return own;
    memcpy(joined, all, 2 * span->shared * size);
    memcpy(joined + span->shared * size, own, 2 * span->own * size);
    return joined;
}

/* Panels summed over a span's keys; what is beyond them counts as zeros. */
static void panels_over_keys(const half_t *rows, const span_t *span, int64_t size, uint32_t *to) {
    const int64_t step = span->wide / 2 * PANEL, pairs = (span->keys + 1) / 2;
    panels_over_rows(rows, size, span->keys, size, to, step);
    for (int64_t panel = 0; panel < size / PANEL; panel++)
        memset(to + panel * step + pairs * PANEL, 0, (span->wide / 2 - pairs) * PANEL * 4);
}

/* Scores become e^(score - greatest) in bfloat16, zeros beyond `visible`; returns their sum. */
INLINE float to_shares(const float *scores, int64_t visible, int64_t end, float scale,
                       half_t *shares, float *greatest) {
    float most = -INFINITY, sum = 0.0f;
    for (int64_t i = 0; i < visible; i++) most = scores[i] > most ? scores[i] : most;
    most *= scale;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < visible; i++) {
        const float value = exponential(scores[i] * scale - most);
        shares[i] = narrowed(value);
        sum += value;
    }
    for (int64_t i = visible; i < end; i++) shares[i] = 0;
    *greatest = most;
    return sum;
}

static void attend_span(const line_t *line, const span_t *span, int64_t key_head,
                        const half_t *queries, const half_t *keys, const half_t *values,
                        half_t *out, float *logs, const room_t *room) {
    const int64_t size = line->size, group = line->heads / line->key_heads, stride = room->stride;
    const int64_t step = span->wide / 2 * PANEL, head_tokens = line->tokens * size;
    panels_of_rows(rows_of(keys + key_head * head_tokens, span, size, room->joined), size,
                   span->keys, size, room->keys);
    panels_over_keys(rows_of(values + key_head * head_tokens, span, size, room->joined), span, size,
                     room->values);
    for (int64_t head = key_head * group; head < (key_head + 1) * group; head++)
        for (int64_t first = 0; first < span->own; first += ROWS) {
            const int64_t rows = span->own - first < ROWS ? span->own - first : ROWS;
            const int64_t end = up(span->shared + first + rows, PANEL), at = span->start + first;
            const uint32_t *asked = (const uint32_t *)(queries + head * head_tokens + at * size);
            float totals[ROWS];
            product(asked, size / 2, 1, rows, room->keys, size / 2 * PANEL, size / 2, end,
                    room->scores, stride, 0);
            for (int64_t r = 0; r < rows; r++) {
                float most;
                totals[r] = to_shares(room->scores + r * stride, span->shared + first + r + 1, end,
                                      (float)line->scale, room->shares + r * stride, &most);
                logs[head * line->tokens + at + r] = most + logf(totals[r]);
            }
            product((const uint32_t *)room->shares, stride / 2, 1, rows, room->values, step, end / 2,
                    size, room->sums, size, 0);
            for (int64_t r = 0; r < rows; r++) {
                half_t *to = out + ((at + r) * line->heads + head) * size;
                const float share = 1.0f / totals[r];
                for (int64_t i = 0; i < size; i++)
                    to[i] = narrowed(room->sums[r * size + i] * share);
            }
        }
}

/* `out` [token][head][size], `logs` [head][token]. 0 unless memory is short. */
int attend(const line_t *line, const half_t *queries, const half_t *keys, const half_t *values,
           half_t *out, float *logs) {
    int failed = 0;
#pragma omp parallel num_threads(line->threads) reduction(| : failed)
    {
        room_t room = {0};
        failed = make_room(line, 0, &room);
#pragma omp for schedule(static, 1)
        for (int64_t piece = 0; piece < spans_of(line) * line->key_heads; piece++) {
            if (failed) continue;
            const span_t span = span_at(line, piece / line->key_heads);
            attend_span(line, &span, piece % line->key_heads, queries, keys, values, out, logs,
                        &room);
        }
        free(room.memory);
    }
    return failed;
}

/* One row's shares from its scores, and the slopes of its scores from those of its shares. */
INLINE void to_slopes(const float *scores, const float *share_slopes, int64_t visible, int64_t end,
                      float scale, float log_sum, float level, half_t *shares, half_t *slopes) {
    for (int64_t i = 0; i < visible; i++) {
        const float share = exponential(scores[i] * scale - log_sum);
        shares[i] = narrowed(share);
        slopes[i] = narrowed(share * (share_slopes[i] - level) * scale);
    }
    for (int64_t i = visible; i < end; i++) shares[i] = slopes[i] = 0;
}

static void slopes_of_span(const line_t *line, const span_t *span, int64_t key_head,
                           const half_t *queries, const half_t *keys, const half_t *values,
                           const half_t *out, const float *logs, const half_t *given,
                           half_t *query_slopes, const room_t *room) {
    const int64_t size = line->size, group = line->heads / line->key_heads, stride = room->stride;
    const int64_t step = span->wide / 2 * PANEL, head_tokens = line->tokens * size;
    const int64_t block_step = ROWS / 2 * PANEL;
    const half_t *rows_at = rows_of(keys + key_head * head_tokens, span, size, room->joined);
    panels_of_rows(rows_at, size, span->keys, size, room->keys);
    panels_over_keys(rows_at, span, size, room->keys_over);
    panels_of_rows(rows_of(values + key_head * head_tokens, span, size, room->joined), size,
                   span->keys, size, room->values);
    memset(room->key_sums, 0, 4 * span->wide * size);
    memset(room->value_sums, 0, 4 * span->wide * size);
    for (int64_t head = key_head * group; head < (key_head + 1) * group; head++)
        for (int64_t first = 0; first < span->own; first += ROWS) {
            const int64_t rows = span->own - first < ROWS ? span->own - first : ROWS;
            const int64_t end = up(span->shared + first + rows, PANEL), at = span->start + first;
            const half_t *asked = queries + head * head_tokens + at * size;
            float levels[ROWS];
            for (int64_t r = 0; r < rows; r++) {
                const int64_t from = ((at + r) * line->heads + head) * size;
                float level = 0.0f;
                memcpy(room->given + r * size, given + from, 2 * size);
#pragma omp simd reduction(+ : level)
                for (int64_t i = 0; i < size; i++)
                    level += widened(given[from + i]) * widened(out[from + i]);
                levels[r] = level;
            }
            product((const uint32_t *)asked, size / 2, 1, rows, room->keys, size / 2 * PANEL,
                    size / 2, end, room->scores, stride, 0);
            product((const uint32_t *)room->given, size / 2, 1, rows, room->values,
                    size / 2 * PANEL, size / 2, end, room->share_slopes, stride, 0);
            for (int64_t r = 0; r < rows; r++)
                to_slopes(room->scores + r * stride, room->share_slopes + r * stride,
                          span->shared + first + r + 1, end, (float)line->scale,
                          logs[head * line->tokens + at + r], levels[r], room->shares + r * stride,
                          room->slopes + r * stride);
            product((const uint32_t *)room->slopes, stride / 2, 1, rows, room->keys_over, step,
                    end / 2, size, room->sums, size, 0);
            half_t *to = query_slopes + head * head_tokens + at * size;
            for (int64_t i = 0; i < rows * size; i++) to[i] = narrowed(room->sums[i]);
            for (int64_t r = 0; r < rows; r += 2) {
                const int64_t from = r * stride;
                const int64_t next = r + 1 < rows ? from + stride : -1;
                interleave(room->shares + from, next < 0 ? 0 : room->shares + next, end,
                           room->share_pairs + r / 2 * stride);
                interleave(room->slopes + from, next < 0 ? 0 : room->slopes + next, end,
                           room->slope_pairs + r / 2 * stride);
            }
            panels_over_rows(room->given, size, rows, size, room->given_over, block_step);
            panels_over_rows(asked, size, rows, size, room->queries_over, block_step);
            product(room->share_pairs, 1, stride, end, room->given_over, block_step, (rows + 1) / 2,
                    size, room->value_sums, size, 1);
            product(room->slope_pairs, 1, stride, end, room->queries_over, block_step,
                    (rows + 1) / 2, size, room->key_sums, size, 1);
        }
}

/* From `given`, the slopes of `out`, those of queries, keys and values in their own layout. */
int attend_back(const line_t *line, const half_t *queries, const half_t *keys, const half_t *values,
                const half_t *out, const float *logs, const half_t *given, half_t *query_slopes,
                half_t *key_slopes, half_t *value_slopes) {
    const int64_t size = line->size, part = line->shared * size, all = line->key_heads * part;
    /* Every segment adds to the shared beginning's slopes: each thread on its own, then in order. */
    float *joint = part ? calloc((size_t)(2 * all * line->threads), sizeof(float)) : 0;
    int failed = part && !joint;
#pragma omp parallel num_threads(line->threads) reduction(| : failed)
    {
        room_t room = {0};
        failed |= make_room(line, 1, &room);
        float *mine = joint ? joint + 2 * all * omp_get_thread_num() : 0;
#pragma omp for schedule(static, 1)
        for (int64_t piece = 0; piece < spans_of(line) * line->key_heads; piece++) {
            if (failed || (part && !joint)) continue;
            const int64_t key_head = piece % line->key_heads;
            const span_t span = span_at(line, piece / line->key_heads);
            slopes_of_span(line, &span, key_head, queries, keys, values, out, logs, given,
                           query_slopes, &room);
            const int64_t alone = line->shared && piece < line->key_heads;
            const int64_t before = alone ? span.own : span.shared;
            for (int64_t i = 0; i < before * size; i++) {
                mine[key_head * part + i] += room.key_sums[i];
                mine[all + key_head * part + i] += room.value_sums[i];
            }
            if (alone) continue;
            const int64_t at = (key_head * line->tokens + span.start) * size;
            for (int64_t i = 0; i < span.own * size; i++) {
                key_slopes[at + i] = narrowed(room.key_sums[before * size + i]);
                value_slopes[at + i] = narrowed(room.value_sums[before * size + i]);
            }
        }
        free(room.memory);
    }
    for (int64_t i = 0; joint && i < all; i++) {
        float key = 0.0f, value = 0.0f;
        for (int64_t thread = 0; thread < line->threads; thread++) {
            key += joint[2 * all * thread + i];
            value += joint[2 * all * thread + all + i];
        }
        const int64_t to = i / part * line->tokens * size + i % part;
        key_slopes[to] = narrowed(key);
        value_slopes[to] = narrowed(value);
    }
    free(joint);
    return failed;
}
