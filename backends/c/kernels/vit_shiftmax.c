/* kernel: Shiftmax, softmax with exponentials by shifts (I-ViT)
 * layout: x[rows][cols] of any type up to 32 bits, y[rows][cols]
 * in:     codes; step = codes per unit (2^frac, or I-ViT's ceil(1 / scale))
 * out:    y = sat(round(E * floor(numerator / S) / 2^(32 - bits))), codes of frac bits - 1
 * method: one unsigned division a row
 * scratch: cols * 4 + cols * 8 bytes, the first part rounded up to 64
 */
#include "vit_arith.h"

void vit_shiftmax(const vit_shiftmax_shape *p, const void *x, void *y, void *scratch)
{
    int32_t *row = (int32_t *)scratch;
    int64_t *e = (int64_t *)(void *)((char *)scratch + vit_align64((size_t)p->cols * 4));
    const int32_t log2_step = vit_exact_log2(p->step);
    const int64_t top = ((int64_t)1 << (p->bits - 1)) - 1;
    for (int32_t r = 0; r < p->rows; ++r) {
        const size_t first = (size_t)r * (size_t)p->cols;
        vit_load_s32(x, p->x_type, first, p->cols, row);
        const int64_t largest = vit_max_of(row, p->cols);
        int64_t sum = 0;
        for (int32_t c = 0; c < p->cols; ++c) {
            e[c] = vit_exp_shift(row[c] - largest, p->step, log2_step, p->n);
            sum += e[c];
        }
        const int64_t factor = p->numerator / vit_clamp64(sum, 1, INT32_MAX);
        for (int32_t c = 0; c < p->cols; ++c) {
            const int64_t code = vit_round_shift(e[c] * factor, 32 - p->bits, p->rounding);
            row[c] = (int32_t)vit_clamp64(code, 0, top);
        }
        vit_store_s32(row, p->cols, y, p->y_type, first);
    }
}
