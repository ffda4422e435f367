/* Matrix products of few rows by packed weights.
 *
 * Weights lie in panels of PANEL outputs: for each pair of inputs, a word of both for every output.
 * A four-bit panel holds, for every GROUP inputs, PANEL scales (float) and then two outputs' pairs a
 * word-sized eight values: byte i of a pair's PANEL bytes has value i in its lower half and value
 * PANEL + i in its upper half, each eight more than it means.
 *
 * Rows are packed too: in blocks of equally many rows, for each pair of inputs a word of every row.
 * A block is what fits into registers together with a panel's width. For processors with matrix
 * units (units.h) rows stay as they are. */
#ifndef TILES_H
#define TILES_H

#include "units.h"
#include "vectors.h"

enum { TILE = 12, GROUP = 128, GROUP_BYTES = 4 * PANEL + GROUP / 2 * PANEL };

typedef struct {
    const void *panels;
    const half_t *bias; /* or null */
    int64_t outputs, inputs;
    int64_t bits; /* 16 or 4 */
} matrix_t;

INLINE int64_t panels_of(int64_t outputs) { return (outputs + PANEL - 1) / PANEL; }
INLINE int64_t blocks_of(int64_t rows, int64_t inputs) {
    const int64_t most = by_units(rows, inputs) ? UNIT_ROWS : TILE;
    return rows ? (rows + most - 1) / most : 1;
}
/* How many rows each block has, the last one perhaps fewer. */
INLINE int64_t block_rows(int64_t rows, int64_t inputs) {
    const int64_t blocks = blocks_of(rows, inputs);
    return rows ? (rows + blocks - 1) / blocks : 1;
}

INLINE int64_t panel_bytes(const matrix_t *matrix) {
    return matrix->bits == 4 ? matrix->inputs / GROUP * GROUP_BYTES : matrix->inputs * PANEL * 2;
}
INLINE const char *panel_at(const matrix_t *matrix, int64_t panel) {
    return (const char *)matrix->panels + panel * panel_bytes(matrix);
}

/* Puts values of row `row` of `rows`, from input `first` on, where the products look for them. */
INLINE void pack_values(uint32_t *packed, int64_t rows, int64_t inputs, int64_t row, int64_t first,
                        const half_t *values, int64_t count) {
    if (by_units(rows, inputs)) {
        memcpy(packed + row * (inputs / 2) + first / 2, values, 2 * count);
        return;
    }
    const int64_t size = block_rows(rows, inputs), block = row / size;
    uint32_t *to = packed + block * size * (inputs / 2) + first / 2 * size + row % size;
    for (int64_t pair = 0; pair < count / 2; pair++) memcpy(to + pair * size, values + 2 * pair, 4);
}

/* sums[row][output] over `pairs` of inputs. Meanwhile `pace` bytes from `ahead` on are fetched for
 * each pair: what comes next, so that no product waits for memory. */
#define TILE_BODY(ROWS)                                                                           \
    floats_t sum[ROWS][2];                                                                        \
    _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) sum[r][0] = sum[r][1] = (floats_t){}; \
    for (int64_t pair = 0; pair < pairs; pair++) {                                                \
        words_t left = load_words(panel), right = load_words(panel + 16);                         \
        __builtin_prefetch(ahead, 0, 2);                                                          \
        __builtin_prefetch(ahead + pace / 2, 0, 2);                                               \
        _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) {                                 \
            words_t value = all_words(rows[r]);                                                   \
            sum[r][0] = dot(sum[r][0], value, left);                                              \
            sum[r][1] = dot(sum[r][1], value, right);                                             \
        }                                                                                         \
        panel += PANEL;                                                                           \
        rows += stride;                                                                           \
        ahead += pace;                                                                            \
    }                                                                                             \
    _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) {                                     \
        store_floats(sums + r * PANEL, sum[r][0]);                                                \
        store_floats(sums + r * PANEL + 16, sum[r][1]);                                           \
    }

#define TILE_OF(ROWS)                                                                             \
    static void tile_##ROWS(const uint32_t *rows, int64_t stride, const uint32_t *panel,          \
                            int64_t pairs, const char *ahead, int64_t pace, float *sums) {        \
        TILE_BODY(ROWS)                                                                           \
    }

TILE_OF(2) TILE_OF(3) TILE_OF(4) TILE_OF(5) TILE_OF(6) TILE_OF(7)
TILE_OF(8) TILE_OF(9) TILE_OF(10) TILE_OF(11) TILE_OF(12)

/* One row: four pairs at a time, so that no sum waits for the one before. */
static void tile_1(const uint32_t *rows, int64_t stride, const uint32_t *panel, int64_t pairs,
                   const char *ahead, int64_t pace, float *sums) {
    floats_t sum[4][2] = {};
    int64_t pair = 0;
    for (; pair + 4 <= pairs; pair += 4) {
        _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
            words_t value = all_words(rows[i * stride]);
            __builtin_prefetch(ahead + i * pace, 0, 2);
            __builtin_prefetch(ahead + i * pace + pace / 2, 0, 2);
            sum[i][0] = dot(sum[i][0], value, load_words(panel + i * PANEL));
            sum[i][1] = dot(sum[i][1], value, load_words(panel + i * PANEL + 16));
        }
        panel += 4 * PANEL;
        rows += 4 * stride;
        ahead += 4 * pace;
    }
    for (; pair < pairs; pair++, panel += PANEL, rows += stride) {
        sum[0][0] = dot(sum[0][0], all_words(*rows), load_words(panel));
        sum[0][1] = dot(sum[0][1], all_words(*rows), load_words(panel + 16));
    }
    store_floats(sums, sum[0][0] + sum[1][0] + (sum[2][0] + sum[3][0]));
    store_floats(sums + 16, sum[0][1] + sum[1][1] + (sum[2][1] + sum[3][1]));
}

typedef void (*tile_t)(const uint32_t *, int64_t, const uint32_t *, int64_t, const char *, int64_t,
                       float *);
static const tile_t TILES[TILE + 1] = {0,      tile_1, tile_2, tile_3, tile_4,  tile_5, tile_6,
                                       tile_7, tile_8, tile_9, tile_10, tile_11, tile_12};

/* The sixteen words of the lower or the upper halves of 32 bytes of four-bit values. */
INLINE words_t wide_nibbles(const uint8_t *bytes, int upper) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
    static const half_t VALUES[32] = { /* -8 to 7, twice: the fifth bit of an index is noise */
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,
        0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,
        0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
    __m512i index = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)bytes));
    if (upper) index = _mm512_srli_epi16(index, 4);
    return (words_t)_mm512_permutexvar_epi16(index, _mm512_loadu_si512(VALUES));
#else
    half_t values[32];
    for (int i = 0; i < 32; i++) values[i] = narrowed((float)((bytes[i] >> (4 * upper)) & 15) - 8.0f);
    return load_words(values);
#endif
}

/* One row by a four-bit panel, without unpacking it first. */
static void tile_four_bits(const uint32_t *rows, int64_t stride, const char *panel, int64_t inputs,
                           float *sums) {
    floats_t left = {}, right = {};
    for (int64_t group = 0; group < inputs / GROUP; group++, panel += GROUP_BYTES) {
        const uint8_t *bytes = (const uint8_t *)panel + 4 * PANEL;
        floats_t sum[4][2] = {};
        for (int pair = 0; pair < GROUP / 2; pair += 4) {
            _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
                words_t value = all_words(rows[i * stride]);
                sum[i][0] = dot(sum[i][0], value, wide_nibbles(bytes + i * PANEL, 0));
                sum[i][1] = dot(sum[i][1], value, wide_nibbles(bytes + i * PANEL, 1));
            }
            __builtin_prefetch(bytes + 2 * GROUP_BYTES);
            __builtin_prefetch(bytes + 2 * GROUP_BYTES + 64);
            bytes += 4 * PANEL;
            rows += 4 * stride;
        }
        left += load_floats(panel) * (sum[0][0] + sum[1][0] + (sum[2][0] + sum[3][0]));
        right += load_floats(panel + 64) * (sum[0][1] + sum[1][1] + (sum[2][1] + sum[3][1]));
    }
    store_floats(sums, left);
    store_floats(sums + 16, right);
}

/* A four-bit panel as a sixteen-bit one. */
static void widen_panel(const char *panel, int64_t inputs, uint32_t *wide) {
    for (int64_t group = 0; group < inputs / GROUP; group++, panel += GROUP_BYTES) {
        const uint8_t *bytes = (const uint8_t *)panel + 4 * PANEL;
        floats_t scale[2] = {load_floats(panel), load_floats(panel + 64)};
        for (int pair = 0; pair < GROUP / 2; pair++, bytes += PANEL, wide += PANEL) {
            for (int side = 0; side < 2; side++) {
                words_t values = wide_nibbles(bytes, side);
                store_words(wide + 16 * side,
                            paired(earlier(values) * scale[side], later(values) * scale[side]));
            }
        }
    }
}

/* Takes the next piece of work that no thread has begun. */
INLINE int64_t claim(int64_t *counter) { return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED); }

/* One row's sums of a panel, with bias and rounded, to one of the two places. */
INLINE void finish(float *sum, const half_t *bias, int64_t width, half_t *out, float *wide_out) {
    if (bias)
        for (int64_t i = 0; i < width; i++) sum[i] += widened(bias[i]);
    if (width == PANEL) { /* nearly always: loops of a known length become a few vectors */
        if (out)
            for (int64_t i = 0; i < PANEL; i++) out[i] = narrowed(sum[i]);
        else
            for (int64_t i = 0; i < PANEL; i++) wide_out[i] = at_half(sum[i]);
    } else {
        if (out)
            for (int64_t i = 0; i < width; i++) out[i] = narrowed(sum[i]);
        else
            for (int64_t i = 0; i < width; i++) wide_out[i] = at_half(sum[i]);
    }
}

/* out = packed rows by the matrix, plus bias; every thread of the team calls it and does its share.
 *
 * `out` holds bfloat16, `outputs` apart; `wide_out` in its place takes the same values as floats.
 * `scratch` is this thread's own: a widened panel. */
static void product(const matrix_t *matrix, const uint32_t *packed, int64_t rows, half_t *out,
                    float *wide_out, uint32_t *scratch, int64_t *counter) {
    const int64_t pairs = matrix->inputs / 2, outputs = matrix->outputs;
    const int64_t panels = panels_of(outputs), size = block_rows(rows, matrix->inputs);
    const int64_t pace = 4 * PANEL / blocks_of(rows, matrix->inputs);
    const int units = by_units(rows, matrix->inputs);
    float sums[UNIT_ROWS * PANEL] __attribute__((aligned(64)));
    int64_t next = claim(counter);
    while (next < panels) {
        const int64_t panel = next;
        next = claim(counter);
        const char *weights = panel_at(matrix, panel);
        const char *ahead = panel_at(matrix, next < panels ? next : panel);
        const int narrow = matrix->bits == 4;
        if (narrow && rows > 1) { /* what is fetched ahead then is a quarter too far, no harm */
            widen_panel(weights, matrix->inputs, scratch);
            weights = (const char *)scratch;
        }
        const int64_t first = panel * PANEL;
        const int64_t width = outputs - first < PANEL ? outputs - first : PANEL;
        for (int64_t row = 0; row < rows; row += size) {
            const int64_t count = rows - row < size ? rows - row : size;
            const uint32_t *block = packed + row * pairs;
            const char *part = ahead + row / size * pairs * pace;
            if (narrow && rows == 1)
                tile_four_bits(block, size, weights, matrix->inputs, sums);
            else if (units)
                unit_product(block, pairs, count, (const uint32_t *)weights, part, pace, sums);
            else
                TILES[count](block, size, (const uint32_t *)weights, pairs, part, pace, sums);
            for (int64_t r = 0; r < count; r++) {
                const int64_t at = (row + r) * outputs + first;
                finish(sums + r * PANEL, matrix->bias ? matrix->bias + first : 0, width,
                       out ? out + at : 0, wide_out ? wide_out + at : 0);
            }
        }
    }
    if (units) leave_units();
}

#endif
