/* A look at the products before anybody relies on them: 0 if they are right. */
#include <math.h>

#include "tiles.h"

enum { INPUTS = 2 * GROUP, OUTPUTS = PANEL + 5, ROWS = 45 };

void pack_matrix(const matrix_t *matrix, const half_t *weight, int64_t threads);
void unpack_matrix(const matrix_t *matrix, half_t *weight, uint32_t *scratch);
void multiply(const matrix_t *matrix, const half_t *x, int64_t rows, half_t *out, uint32_t *packed,
              uint32_t *scratch, int64_t threads);

static half_t weight[OUTPUTS * INPUTS], x[ROWS * INPUTS], out[ROWS * OUTPUTS];
static uint32_t panels[2 * INPUTS / 2 * PANEL], scratch[2 * INPUTS / 2 * PANEL];
static uint32_t packed[(ROWS + TILE) * INPUTS / 2];

/* Before anything else in a process; 0 if the products can run. */
int prepare(void) { return allow_units(); }

int check(void) {
    if (prepare()) return 2;
    for (int i = 0; i < OUTPUTS * INPUTS; i++) weight[i] = narrowed((float)(i * 7 % 31 - 15) / 16);
    for (int i = 0; i < ROWS * INPUTS; i++) x[i] = narrowed((float)(i * 5 % 23 - 11) / 8);
    for (int bits = 4; bits <= 16; bits += 12) {
        const matrix_t matrix = {
            .panels = panels, .outputs = OUTPUTS, .inputs = INPUTS, .bits = bits};
        pack_matrix(&matrix, weight, 2);
        unpack_matrix(&matrix, weight, scratch); /* what four bits make of the weights */
        for (int rows = 1; rows <= ROWS; rows += 11) {
            multiply(&matrix, x, rows, out, packed, scratch, 2);
            for (int i = 0; i < rows * OUTPUTS; i++) {
                float sum = 0.0f;
                for (int k = 0; k < INPUTS; k++)
                    sum += widened(x[i / OUTPUTS * INPUTS + k]) *
                           widened(weight[i % OUTPUTS * INPUTS + k]);
                if (!(fabsf(sum - widened(out[i])) <= 0.02f * fabsf(sum) + 0.3f)) return 1;
            }
        }
    }
    return 0;
}
