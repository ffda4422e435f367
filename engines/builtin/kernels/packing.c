/* Weights as they are stored into panels, and single products over them. */
#include <math.h>
#include <omp.h>

#include "tiles.h"

int64_t packed_bytes(const matrix_t *matrix) {
    return panels_of(matrix->outputs) * panel_bytes(matrix);
}

static void pack_panel(const half_t *weight, int64_t outputs, int64_t inputs, int64_t first,
                       uint32_t *to) {
    for (int64_t side = 0; side < PANEL; side += 16) {
        const int64_t from = first + side;
        int64_t pair = 0;
        if (from + 16 <= outputs)
            for (; pair + 16 <= inputs / 2; pair += 16)
                transpose((const uint32_t *)(weight + from * inputs) + pair, inputs / 2,
                          to + pair * PANEL + side, PANEL);
        for (; pair < inputs / 2; pair++)
            for (int64_t i = 0; i < 16; i++) {
                uint32_t both = 0;
                if (from + i < outputs) memcpy(&both, weight + (from + i) * inputs + 2 * pair, 4);
                to[pair * PANEL + side + i] = both;
            }
    }
}

/* The scale, of a few that are tried, by which the values lose least as whole numbers of -8 to 7. */
static float best_scale(const float *values) {
    float extreme = 0.0f, best = 0.0f, least = INFINITY;
    for (int i = 0; i < GROUP; i++)
        if (fabsf(values[i]) > fabsf(extreme)) extreme = values[i];
    if (extreme == 0.0f) return 0.0f;
    for (int attempt = 0; attempt < 8; attempt++) { /* -8 has no counterpart: the extreme takes it */
        const float scale = extreme / (-8.0f + 0.25f * attempt), inverse = 1.0f / scale;
        float loss = 0.0f;
#pragma omp simd reduction(+ : loss)
        for (int i = 0; i < GROUP; i++) {
            float whole = rintf(values[i] * inverse);
            whole = whole > 7.0f ? 7.0f : whole < -8.0f ? -8.0f : whole;
            const float error = values[i] - whole * scale;
            loss += error * error;
        }
        if (loss < least) least = loss, best = scale;
    }
    return best;
}

static void pack_four_bit_panel(const half_t *weight, int64_t outputs, int64_t inputs,
                                int64_t first, char *to) {
    for (int64_t group = 0; group < inputs / GROUP; group++, to += GROUP_BYTES) {
        float *scales = (float *)to;
        uint8_t *bytes = (uint8_t *)to + 4 * PANEL;
        memset(to, 0, GROUP_BYTES);
        for (int64_t i = 0; i < PANEL && first + i < outputs; i++) {
            float values[GROUP];
            const half_t *from = weight + (first + i) * inputs + group * GROUP;
            for (int k = 0; k < GROUP; k++) values[k] = widened(from[k]);
            const float scale = scales[i] = best_scale(values);
            const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
            for (int k = 0; k < GROUP; k++) {
                float whole = rintf(values[k] * inverse);
                whole = whole > 7.0f ? 7.0f : whole < -8.0f ? -8.0f : whole;
                const uint8_t code = (uint8_t)(whole + 8.0f);
                bytes[k / 2 * PANEL + 2 * (i % 16) + k % 2] |= code << (i < 16 ? 0 : 4);
            }
        }
    }
}

/* Fills the matrix's panels from [outputs, inputs] in bfloat16. */
void pack_matrix(const matrix_t *matrix, const half_t *weight, int64_t threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t panel = 0; panel < panels_of(matrix->outputs); panel++) {
        char *to = (char *)panel_at(matrix, panel);
        if (matrix->bits == 4)
            pack_four_bit_panel(weight, matrix->outputs, matrix->inputs, panel * PANEL, to);
        else
            pack_panel(weight, matrix->outputs, matrix->inputs, panel * PANEL, (uint32_t *)to);
    }
}

/* The weights back as [outputs, inputs] in bfloat16. `scratch` holds one panel of 16 bits. */
void unpack_matrix(const matrix_t *matrix, half_t *weight, uint32_t *scratch) {
    for (int64_t panel = 0; panel < panels_of(matrix->outputs); panel++) {
        const uint32_t *words = (const uint32_t *)panel_at(matrix, panel);
        if (matrix->bits == 4) {
            widen_panel((const char *)words, matrix->inputs, scratch);
            words = scratch;
        }
        for (int64_t i = 0; i < PANEL && panel * PANEL + i < matrix->outputs; i++)
            for (int64_t pair = 0; pair < matrix->inputs / 2; pair++)
                memcpy(weight + (panel * PANEL + i) * matrix->inputs + 2 * pair,
                       words + pair * PANEL + i, 4);
    }
}

/* out [rows, outputs] = x [rows, inputs] by the matrix. `packed` has room for the rows, `scratch`
 * for one panel of 16 bits a thread. */
void multiply(const matrix_t *matrix, const half_t *x, int64_t rows, half_t *out, uint32_t *packed,
              uint32_t *scratch, int64_t threads) {
    int64_t counter = 0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t row = 0; row < rows; row++)
            pack_values(packed, rows, matrix->inputs, row, 0, x + row * matrix->inputs,
                        matrix->inputs);
        uint32_t *own = scratch + omp_get_thread_num() * matrix->inputs / 2 * PANEL;
        product(matrix, packed, rows, out, 0, own, &counter);
    }
}
