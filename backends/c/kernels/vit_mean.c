/* kernel: mean over any axes
 * layout: x read with strides, kept dimensions first; y dense over the kept dimensions
 * in:     codes with zero point
 * out:    sat(rdiv(sum << max(0, s), N << max(0, -s)) + zp), s = e_out - e_in
 * method: one 64-bit sum and one rounded division per result
 * scratch: none
 */
#include "vit_arith.h"

/* Offset of element `index` of the dimensions first .. first + count - 1. */
static size_t offset_of(const vit_mean_shape *p, size_t index, int32_t first, int32_t count)
{
    size_t offset = 0;
    for (int32_t d = first + count - 1; d >= first; --d) {
        offset += index % (size_t)p->dims[d] * (size_t)p->x_strides[d];
        index /= (size_t)p->dims[d];
    }
    return offset;
}

void vit_mean(const vit_mean_shape *p, const void *x, void *y)
{
    const int32_t kept = p->rank - p->reduced;
    size_t results = 1, count = 1;
    for (int32_t d = 0; d < p->rank; ++d) {
        if (d < kept) {
            results *= (size_t)p->dims[d];
        } else {
            count *= (size_t)p->dims[d];
        }
    }
    const vit_range range = vit_share((int32_t)results, 1, p->part, p->parts);
    for (size_t i = (size_t)range.first; i < (size_t)range.last; ++i) {
        const size_t base = offset_of(p, i, 0, kept);
        int64_t sum = 0;
        for (size_t j = 0; j < count; ++j) {
            sum += vit_load_one(x, p->x_type, base + offset_of(p, j, kept, p->reduced)) - p->x_zp;
        }
        const int64_t mean = vit_rdiv(vit_shl(sum, p->shift > 0 ? p->shift : 0),
                                      vit_shl((int64_t)count, p->shift < 0 ? -p->shift : 0));
        vit_store_one(vit_code(mean, p->zp, p->lo, p->hi), y, p->y_type, i);
    }
}
