/* kernel: softmax that keeps the exponent of every probability
 * layout: x[rows][cols] of any type up to 32 bits, y[rows][cols] codes in bytes
 * in:     codes; step = codes per unit
 * out:    the number of j in 0..14 with 2 S >= 3 * 2^j * E; the value is 2^-code, 15 means 0
 * method: a ladder of comparators; no division
 * scratch: cols * 4 + cols * 8 bytes, the first part rounded up to 64
 */
#include "vit_arith.h"

void vit_log2_softmax_u8(const vit_shiftmax_shape *p, const void *x, uint8_t *y, void *scratch)
{
    int32_t *row = (int32_t *)scratch;
    int64_t *e = (int64_t *)(void *)((char *)scratch + vit_align64((size_t)p->cols * 4));
    const int32_t log2_step = vit_exact_log2(p->step);
    for (int32_t r = 0; r < p->rows; ++r) {
        const size_t first = (size_t)r * (size_t)p->cols;
        vit_load_s32(x, p->x_type, first, p->cols, row);
        const int64_t largest = vit_max_of(row, p->cols);
        int64_t sum = 0;
        for (int32_t c = 0; c < p->cols; ++c) {
            e[c] = vit_exp_shift(row[c] - largest, p->step, log2_step, p->n);
            sum += e[c];
        }
        for (int32_t c = 0; c < p->cols; ++c) {
            uint8_t code = 0;
            for (int32_t j = 0; j < 15; ++j) {
                code = (uint8_t)(code + (2 * sum >= (3 * e[c]) << j));
            }
            y[first + (size_t)c] = code;
        }
    }
}
