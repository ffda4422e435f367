/* Small products in bfloat16 with sums in float32, as attention needs them.
 *
 * The right side is a panel: PANEL outputs wide, for each pair of the summed index a word of both
 * values for every output. The left side is words of such pairs at any distance: `row_step` words
 * from one row to the next, `pair_step` from one pair to the next. */
#ifndef TILES_H
#define TILES_H

#include "vectors.h"

enum { PANEL = 32, TILE = 12 };

/* to[row][output] = or += sum over pairs of left * panel. */
#define TILE_OF(ROWS)                                                                             \
    static void tile_##ROWS(const uint32_t *left, int64_t row_step, int64_t pair_step,            \
                            const uint32_t *panel, int64_t pairs, float *to, int64_t to_stride,   \
                            int add) {                                                            \
        floats_t sum[ROWS][2];                                                                    \
        _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) {                                 \
            sum[r][0] = add ? load_floats(to + r * to_stride) : (floats_t){};                     \
            sum[r][1] = add ? load_floats(to + r * to_stride + 16) : (floats_t){};                \
        }                                                                                         \
        for (int64_t pair = 0; pair < pairs; pair++) {                                            \
            words_t first = load_words(panel), second = load_words(panel + 16);                   \
            _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) {                             \
                words_t value = all_words(left[r * row_step]);                                    \
                sum[r][0] = dot(sum[r][0], value, first);                                         \
                sum[r][1] = dot(sum[r][1], value, second);                                        \
            }                                                                                     \
            panel += PANEL;                                                                       \
            left += pair_step;                                                                    \
        }                                                                                         \
        _Pragma("GCC unroll 12") for (int r = 0; r < ROWS; r++) {                                 \
            store_floats(to + r * to_stride, sum[r][0]);                                          \
            store_floats(to + r * to_stride + 16, sum[r][1]);                                     \
        }                                                                                         \
    }

TILE_OF(1) TILE_OF(2) TILE_OF(3) TILE_OF(4) TILE_OF(5) TILE_OF(6)
TILE_OF(7) TILE_OF(8) TILE_OF(9) TILE_OF(10) TILE_OF(11) TILE_OF(12)

typedef void (*tile_t)(const uint32_t *, int64_t, int64_t, const uint32_t *, int64_t, float *,
                       int64_t, int);
static const tile_t TILES[TILE + 1] = {0,      tile_1, tile_2, tile_3, tile_4,  tile_5, tile_6,
                                       tile_7, tile_8, tile_9, tile_10, tile_11, tile_12};

/* Panels lie `panel_step` words apart. `outputs` is a multiple of PANEL. */
static void product(const uint32_t *left, int64_t row_step, int64_t pair_step, int64_t rows,
                    const uint32_t *panels, int64_t panel_step, int64_t pairs, int64_t outputs,
                    float *to, int64_t to_stride, int add) {
    for (int64_t at = 0; at < outputs; at += PANEL, panels += panel_step)
        for (int64_t row = 0; row < rows; row += TILE) {
            const int64_t count = rows - row < TILE ? rows - row : TILE;
            TILES[count](left + row * row_step, row_step, pair_step, panels, pairs,
                         to + row * to_stride + at, to_stride, add);
        }
}

/* Panels whose outputs are the given rows and whose summed index runs along them: rows [count,
 * width], `stride` values apart, become count / PANEL panels of width / 2 pairs. Rows from `count`
 * to the end of the last panel are zeros. `width` is a multiple of 32. */
static void panels_of_rows(const half_t *rows, int64_t stride, int64_t count, int64_t width,
                           uint32_t *panels) {
    const int64_t pairs = width / 2;
    for (int64_t first = 0; first < count; first += 16) {
        uint32_t *to = panels + first / PANEL * (pairs * PANEL) + first % PANEL;
        if (count - first >= 16) {
            for (int64_t pair = 0; pair < pairs; pair += 16)
                transpose((const uint32_t *)(rows + first * stride) + pair, stride / 2,
                          to + pair * PANEL, PANEL);
        } else {
            for (int64_t pair = 0; pair < pairs; pair++)
                for (int64_t i = 0; i < 16; i++) {
                    uint32_t both = 0;
                    if (first + i < count) memcpy(&both, rows + (first + i) * stride + 2 * pair, 4);
                    to[pair * PANEL + i] = both;
                }
        }
    }
    const int64_t end = (count + 15) / 16 * 16;
    if (end % PANEL) {
        uint32_t *to = panels + end / PANEL * (pairs * PANEL) + end % PANEL;
        for (int64_t pair = 0; pair < pairs; pair++) memset(to + pair * PANEL, 0, 64);
    }
}

/* Two rows as words of pairs: to[i] = (first[i], second[i]); `second` null stands for zeros. */
INLINE void interleave(const half_t *first, const half_t *second, int64_t width, uint32_t *to) {
    if (second)
        for (int64_t i = 0; i < width; i++) to[i] = (uint32_t)first[i] | (uint32_t)second[i] << 16;
    else
        for (int64_t i = 0; i < width; i++) to[i] = (uint32_t)first[i];
}

/* Panels whose summed index runs over the given rows: rows [count, width] become width / PANEL
 * panels, `panel_step` words apart. An odd last row has zeros beside it. */
static void panels_over_rows(const half_t *rows, int64_t stride, int64_t count, int64_t width,
                             uint32_t *panels, int64_t panel_step) {
    for (int64_t row = 0; row < count; row += 2)
        for (int64_t at = 0; at < width; at += PANEL) {
            const half_t *first = rows + row * stride + at;
            interleave(first, row + 1 < count ? first + stride : 0, PANEL,
                       panels + at / PANEL * panel_step + row / 2 * PANEL);
        }
}

#endif
