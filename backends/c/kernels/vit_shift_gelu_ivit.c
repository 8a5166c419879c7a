/* kernel: ShiftGELU as published (I-ViT), exponentials relative to the row maximum
 * layout: x[rows][cols] of any type up to 16 bits, y[rows][cols]
 * in:     codes; step = ceil(1 / (1.702 scale)), n = 23 octaves
 * out:    x * sigmoid, 7 more fractional bits
 * method: one division per element
 * scratch: cols * 4 bytes
 */
#include "vit_arith.h"

void vit_shift_gelu_ivit(const vit_shift_gelu_shape *p, const void *x, void *y, void *scratch)
{
    int32_t *row = (int32_t *)scratch;
    const int32_t log2_step = vit_exact_log2(p->step);
    for (int32_t r = 0; r < p->rows; ++r) {
        const size_t first = (size_t)r * (size_t)p->cols;
        vit_load_s32(x, p->x_type, first, p->cols, row);
        const int64_t largest = (int64_t)vit_max_of(row, p->cols) - p->x_zp;
        const int64_t at_zero = vit_exp_shift(-largest, p->step, log2_step, p->n);
        const int64_t second = vit_clamp64(at_zero, 0, INT32_MAX);
        for (int32_t c = 0; c < p->cols; ++c) {
            const int64_t value = (int64_t)row[c] - p->x_zp;
            const int64_t e = vit_exp_shift(value - largest, p->step, log2_step, p->n);
            const int64_t factor = p->numerator / vit_clamp64(e + second, 1, INT32_MAX);
            row[c] = (int32_t)(value * ((e * factor) >> 24));
        }
        vit_store_s32(row, p->cols, y, p->y_type, first);
    }
}
