/* Products by a processor's matrix units (Intel's AMX), where it has them.
 *
 * A unit holds sixteen rows of sixteen words. Two of them take rows (32 at most), two a panel's width,
 * four the sums. The panels are the same as for vectors. */
#ifndef UNITS_H
#define UNITS_H

#include <stdint.h>

enum { PANEL = 32, UNIT_ROWS = 32 };

#if defined(__AMX_BF16__) && defined(__linux__)
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LEAST_UNIT_ROWS = 5, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

static inline int by_units(int64_t rows, int64_t inputs) {
    return rows >= LEAST_UNIT_ROWS && inputs % 32 == 0;
}

/* Asks the kernel for the units' registers, once in a process; 0 if it grants them. */
static inline int allow_units(void) {
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) ? 1 : 0;
}

static inline void leave_units(void) { _tile_release(); }

/* sums[row][output] of `count` rows that lie `pairs` words apart. Meanwhile `pace` bytes from `ahead`
 * on are fetched for each pair. */
static void unit_product(const uint32_t *rows, int64_t pairs, int64_t count, const uint32_t *panel,
                         const char *ahead, int64_t pace, float *sums) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((packed, aligned(64))) shape;
    const int upper = count < 16 ? (int)count : 16, lower = (int)count - upper;
    const int heights[8] = {upper, upper, lower, lower, upper, lower, 16, 16};
    memset(&shape, 0, sizeof(shape));
    shape.palette = 1;
    for (int unit = 0; unit < 8; unit++) {
        if (!heights[unit]) continue;
        shape.row_bytes[unit] = 64;
        shape.rows[unit] = (uint8_t)heights[unit];
    }
    _tile_loadconfig(&shape);
    _tile_zero(0);
    _tile_zero(1);
    if (lower) {
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t pair = 0; pair < pairs; pair += 16) {
        _tile_loadd(4, rows + pair, 4 * pairs);
        _tile_loadd(6, panel + pair * PANEL, 4 * PANEL);
        _tile_loadd(7, panel + pair * PANEL + 16, 4 * PANEL);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (lower) {
            _tile_loadd(5, rows + 16 * pairs + pair, 4 * pairs);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        for (int64_t at = 0; at < 16 * pace; at += 64) __builtin_prefetch(ahead + at, 0, 2);
        ahead += 16 * pace;
    }
    _tile_stored(0, sums, 4 * PANEL);
    _tile_stored(1, sums + 16, 4 * PANEL);
    if (lower) {
        _tile_stored(2, sums + 16 * PANEL, 4 * PANEL);
        _tile_stored(3, sums + 16 * PANEL + 16, 4 * PANEL);
    }
}

#else

static inline int by_units(int64_t rows, int64_t inputs) {
    (void)rows, (void)inputs;
    return 0;
}
static inline int allow_units(void) { return 0; }
static inline void leave_units(void) {}
static void unit_product(const uint32_t *rows, int64_t pairs, int64_t count, const uint32_t *panel,
                         const char *ahead, int64_t pace, float *sums) {
    (void)rows, (void)pairs, (void)count, (void)panel, (void)ahead, (void)pace, (void)sums;
}

#endif
#endif
