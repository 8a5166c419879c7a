/* kernel: x * sigmoid(1.702 x) by shifts, standard form
 * layout: rows * cols elements, any type up to 16 bits
 * in:     codes with `frac` fractional bits (a negative frac scales the argument up, exactly)
 * out:    frac + 7 fractional bits
 * method: u = 2.453125 |x|, E = 2^-u with a linear mantissa, one division per element
 * scratch: none
 */
#include "vit_arith.h"

static int32_t gelu_one(int64_t x, int32_t frac)
{
    const int32_t e = frac < 0 ? 0 : frac;
    const int64_t step = (int64_t)1 << e;
    const int64_t magnitude = vit_shl(x < 0 ? -x : x, frac < 0 ? -frac : 0);
    const int64_t a = magnitude < 15 * step ? magnitude : 15 * step; /* u is clamped there anyway */
    const int64_t full = 2 * a + (a >> 1) - (a >> 4) + (a >> 6);
    const int64_t u = full < 15 * step ? full : 15 * step;
    const int64_t mantissa = 2 * step - (u & (step - 1));
    const int64_t exponential = (mantissa << (15 - (u >> e))) >> 1;
    const int64_t one = step << 15;
    const int64_t factor = INT32_MAX / (one + exponential);
    const int64_t numerator = x >= 0 ? one : exponential;
    return (int32_t)(x * ((numerator * factor + (1 << 23)) >> 24));
}

void vit_shift_gelu(const vit_shift_gelu_shape *p, const void *x, void *y)
{
    int32_t block[256];
    const size_t total = (size_t)p->rows * (size_t)p->cols;
    for (size_t first = 0; first < total; first += 256) {
        const int32_t n = total - first < 256 ? (int32_t)(total - first) : 256;
        vit_load_s32(x, p->x_type, first, n, block);
        for (int32_t i = 0; i < n; ++i) {
            block[i] = gelu_one((int64_t)block[i] - p->x_zp, p->frac);
        }
        vit_store_s32(block, n, y, p->y_type, first);
    }
}
