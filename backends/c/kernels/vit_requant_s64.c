/* kernel: requantisation between any two storage types, along any channel axis
 * layout: x[outer][channels][inner], y alike
 * in:     codes with zero point
 * out:    y = sat(round((x - zp_in) * multiplier / 2^shift) + zp), in 64 bits
 * method: element by element in 64 bits
 * scratch: none
 */
#include "vit_arith.h"

void vit_requant_s64(const vit_requant_shape *p, const void *x, void *y)
{
    size_t at = 0;
    for (int32_t o = 0; o < p->outer; ++o) {
        for (int32_t c = 0; c < p->channels; ++c) {
            const int32_t shift = p->shift_c == NULL ? p->shift : p->shift_c[c];
            const int32_t multiplier = p->multiplier_c == NULL ? p->multiplier : p->multiplier_c[c];
            for (int32_t i = 0; i < p->inner; ++i, ++at) {
                const int64_t scaled = (vit_load_one(x, p->x_type, at) - p->zp_in) * multiplier;
                const int64_t code = vit_round_shift(scaled, shift, p->rounding);
                const int64_t value = vit_code(code, p->zp, p->lo, p->hi);
                vit_store_one(value, y, p->y_type, at);
            }
        }
    }
}
