/* Sixteen lanes at a time, and bfloat16 in its halves.
 *
 * A word holds two bfloat16 values, the earlier in its lower half. Everything but `dot` is written
 * in the compilers' portable vectors; where the machine multiplies bfloat16 itself, `dot` does. */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#endif

typedef uint16_t half_t; /* bfloat16 */
typedef float floats_t __attribute__((vector_size(64)));
typedef uint32_t words_t __attribute__((vector_size(64)));
typedef float loose_floats_t __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t loose_words_t __attribute__((vector_size(64), aligned(2), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE floats_t load_floats(const void *from) { return *(const loose_floats_t *)from; }
INLINE words_t load_words(const void *from) { return *(const loose_words_t *)from; }
INLINE void store_floats(void *to, floats_t values) { *(loose_floats_t *)to = values; }
INLINE void store_words(void *to, words_t values) { *(loose_words_t *)to = values; }
INLINE floats_t all_floats(float value) { return value - (floats_t){}; }
INLINE words_t all_words(uint32_t value) { return value - (words_t){}; }

/* The earlier and the later of each word's two values. */
INLINE floats_t earlier(words_t pairs) { return (floats_t)(pairs << 16); }
INLINE floats_t later(words_t pairs) { return (floats_t)(pairs & 0xffff0000u); }

/* Rounds to nearest, ties to even, as torch does. */
INLINE words_t rounded(floats_t values) {
    words_t bits = (words_t)values;
    return bits + 0x7fffu + ((bits >> 16) & 1u);
}
INLINE words_t paired(floats_t first, floats_t second) {
    return (rounded(first) >> 16) | (rounded(second) & 0xffff0000u);
}

/* sum + a.earlier * b.earlier + a.later * b.later */
INLINE floats_t dot(floats_t sum, words_t a, words_t b) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
    return (floats_t)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    return sum + earlier(a) * earlier(b) + later(a) * later(b);
#endif
}

/* The same for one value, in loops that the compiler makes vectors of. */
INLINE float widened(half_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}
INLINE half_t narrowed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (half_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
INLINE float at_half(float value) { return widened(narrowed(value)); }

/* e^x, relative error below 3e-7; 0 far below and large far above, never infinite. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f; /* the integer part in the lowest bits */
    float whole = shifted - 12582912.0f;
    float rest = x - whole * 0.693145752f - whole * 1.42860677e-6f;
    float value = 1.98756915e-4f;
    value = value * rest + 1.39819995e-3f;
    value = value * rest + 8.33345205e-3f;
    value = value * rest + 4.16657962e-2f;
    value = value * rest + 1.66666657e-1f;
    value = value * rest + 0.5f;
    value = value * rest * rest + rest + 1.0f;
    uint32_t bits, power;
    memcpy(&bits, &shifted, 4);
    memcpy(&power, &value, 4);
    power += bits << 23;
    memcpy(&value, &power, 4);
    return value;
}

#define UNPACK(a, b, high)                                                                        \
    __builtin_shufflevector(a, b, 0 + high, 16 + high, 1 + high, 17 + high, 4 + high, 20 + high,  \
                            5 + high, 21 + high, 8 + high, 24 + high, 9 + high, 25 + high,        \
                            12 + high, 28 + high, 13 + high, 29 + high)
#define UNPACK_PAIRS(a, b, high)                                                                  \
    __builtin_shufflevector(a, b, 0 + high, 1 + high, 16 + high, 17 + high, 4 + high, 5 + high,   \
                            20 + high, 21 + high, 8 + high, 9 + high, 24 + high, 25 + high,       \
                            12 + high, 13 + high, 28 + high, 29 + high)
/* Quarters w and x of a, then y and z of b. */
#define QUARTERS(a, b, w, x, y, z)                                                                \
    __builtin_shufflevector(a, b, 4 * w, 4 * w + 1, 4 * w + 2, 4 * w + 3, 4 * x, 4 * x + 1,       \
                            4 * x + 2, 4 * x + 3, 16 + 4 * y, 17 + 4 * y, 18 + 4 * y, 19 + 4 * y, \
                            16 + 4 * z, 17 + 4 * z, 18 + 4 * z, 19 + 4 * z)

/* The sums of sixteen vectors, each over its lanes, in order. */
INLINE floats_t sums_of(const floats_t from[16]) {
    floats_t four[4];
    for (int i = 0; i < 4; i++) {
        floats_t a = from[4 * i], b = from[4 * i + 1], c = from[4 * i + 2], d = from[4 * i + 3];
        floats_t ab = UNPACK(a, b, 0) + UNPACK(a, b, 2);
        floats_t cd = UNPACK(c, d, 0) + UNPACK(c, d, 2);
        four[i] = UNPACK_PAIRS(ab, cd, 0) + UNPACK_PAIRS(ab, cd, 2);
    }
    floats_t low = QUARTERS(four[0], four[1], 0, 2, 0, 2) + QUARTERS(four[0], four[1], 1, 3, 1, 3);
    floats_t high = QUARTERS(four[2], four[3], 0, 2, 0, 2) + QUARTERS(four[2], four[3], 1, 3, 1, 3);
    return QUARTERS(low, high, 0, 2, 0, 2) + QUARTERS(low, high, 1, 3, 1, 3);
}

/* Turns sixteen rows of sixteen words, `stride` words apart, into columns. */
INLINE void transpose(const uint32_t *from, int64_t stride, uint32_t *to, int64_t to_stride) {
    words_t row[16], mixed[16];
    for (int i = 0; i < 16; i++) row[i] = load_words(from + i * stride);
    for (int i = 0; i < 16; i += 4) {
        words_t a = UNPACK(row[i], row[i + 1], 0), b = UNPACK(row[i], row[i + 1], 2);
        words_t c = UNPACK(row[i + 2], row[i + 3], 0), d = UNPACK(row[i + 2], row[i + 3], 2);
        mixed[i] = UNPACK_PAIRS(a, c, 0);
        mixed[i + 1] = UNPACK_PAIRS(a, c, 2);
        mixed[i + 2] = UNPACK_PAIRS(b, d, 0);
        mixed[i + 3] = UNPACK_PAIRS(b, d, 2);
    }
    for (int i = 0; i < 4; i++) { /* column 4q + i is quarter q of mixed i, i + 4, i + 8, i + 12 */
        words_t a = QUARTERS(mixed[i], mixed[i + 4], 0, 2, 0, 2);
        words_t b = QUARTERS(mixed[i], mixed[i + 4], 1, 3, 1, 3);
        words_t c = QUARTERS(mixed[i + 8], mixed[i + 12], 0, 2, 0, 2);
        words_t d = QUARTERS(mixed[i + 8], mixed[i + 12], 1, 3, 1, 3);
        store_words(to + i * to_stride, QUARTERS(a, c, 0, 2, 0, 2));
        store_words(to + (4 + i) * to_stride, QUARTERS(b, d, 0, 2, 0, 2));
        store_words(to + (8 + i) * to_stride, QUARTERS(a, c, 1, 3, 1, 3));
        store_words(to + (12 + i) * to_stride, QUARTERS(b, d, 1, 3, 1, 3));
    }
}

#endif
