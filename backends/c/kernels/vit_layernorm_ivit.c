/* kernel: LayerNorm as published by I-ViT, for conformance
 * layout: x[rows][cols] up to 32 bits, bias[cols] s64, y[rows][cols]
 * in:     codes
 * out:    y = floor((x - mean) * floor((2^31 - 1) / k) / 2) + bias
 * method: mean rounded half to even; k from exactly ten Newton steps starting at 2^16
 * scratch: cols * 4 bytes
 */
#include "vit_arith.h"

static int64_t divide_half_even(int64_t a, int64_t b)
{
    int64_t quotient = a / b;
    int64_t remainder = a % b;
    if (remainder < 0) {
        remainder += b;
        quotient -= 1;
    }
    const int64_t rest = b - remainder;
    return quotient + (remainder > rest || (remainder == rest && (quotient & 1) != 0) ? 1 : 0);
}

void vit_layernorm_ivit(const vit_layernorm_shape *p, const void *x, const int64_t *bias, void *y,
                        void *scratch)
{
    int32_t *row = (int32_t *)scratch;
    for (int32_t r = 0; r < p->rows; ++r) {
        const size_t first = (size_t)r * (size_t)p->cols;
        vit_load_s32(x, p->x_type, first, p->cols, row);
        int64_t sum = 0;
        for (int32_t c = 0; c < p->cols; ++c) {
            sum += (int64_t)row[c] - p->x_zp;
        }
        const int64_t mean = divide_half_even(sum, p->cols) + p->x_zp;
        int64_t variance = 0;
        for (int32_t c = 0; c < p->cols; ++c) {
            variance += (row[c] - mean) * (row[c] - mean);
        }
        int64_t k = 1 << 16;
        for (int32_t i = 0; i < 10; ++i) {
            k = (k + variance / k) >> 1;
        }
        const int64_t factor = INT32_MAX / k;
        for (int32_t c = 0; c < p->cols; ++c) {
            const int64_t value = (((row[c] - mean) * factor) >> 1) + bias[c];
            row[c] = (int32_t)vit_clamp64(value, p->lo, p->hi);
        }
        vit_store_s32(row, p->cols, y, p->y_type, first);
    }
}
