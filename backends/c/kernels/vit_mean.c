/* kernel: mean over any axes
 * layout: x read with strides, kept dimensions first; y dense over the kept dimensions
 * in:     codes with zero point
 * out:    sat(rdiv(sum << max(0, s), N << max(0, -s)) + zp), s = e_out - e_in
 * method: 64-bit sums of neighbouring results together, and one rounded division each
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

/* Results at a time. */
enum { BLOCK = 256 };

/* Sums of n neighbours in the last kept dimension over all reduced ones. */
static void sums_of(const vit_mean_shape *p, const void *x, size_t first, size_t count, int32_t n,
                    int64_t *restrict sums)
{
    const int32_t kept = p->rank - p->reduced;
    const size_t step = kept > 0 ? (size_t)p->x_strides[kept - 1] : 0;
    for (int32_t c = 0; c < n; ++c) {
        sums[c] = 0;
    }
    for (size_t j = 0; j < count; ++j) {
        const size_t at = first + offset_of(p, j, kept, p->reduced);
        int32_t row[BLOCK];
        if (step == 1 && p->x_type != VIT_U32 && p->x_type != VIT_S64) {
            vit_load_s32(x, p->x_type, at, n, row);
            for (int32_t c = 0; c < n; ++c) {
                sums[c] += row[c];
            }
            continue;
        }
        for (int32_t c = 0; c < n; ++c) {
            sums[c] += vit_load_one(x, p->x_type, at + (size_t)c * step);
        }
    }
}

void vit_mean(const vit_mean_shape *p, const void *x, void *y)
{
    const int32_t kept = p->rank - p->reduced;
    const int32_t last = kept > 0 ? p->dims[kept - 1] : 1;
    size_t results = 1, count = 1;
    for (int32_t d = 0; d < p->rank; ++d) {
        if (d < kept) {
            results *= (size_t)p->dims[d];
        } else {
            count *= (size_t)p->dims[d];
        }
    }
    const vit_range range = vit_share((int32_t)results, 64, p->part, p->parts);
    const int64_t divisor = vit_shl((int64_t)count, p->shift < 0 ? -p->shift : 0);
    for (int32_t i = range.first; i < range.last;) {
        const int32_t left = vit_min32(last - i % last, range.last - i);
        const int32_t n = vit_min32(BLOCK, left);
        int64_t sums[BLOCK];
        sums_of(p, x, offset_of(p, (size_t)i, 0, kept), count, n, sums);
        for (int32_t c = 0; c < n; ++c) {
            const int64_t sum = sums[c] - (int64_t)count * p->x_zp;
            const int64_t mean = vit_rdiv(vit_shl(sum, p->shift > 0 ? p->shift : 0), divisor);
            vit_store_one(vit_code(mean, p->zp, p->lo, p->hi), y, p->y_type, (size_t)(i + c));
        }
        i += n;
    }
}
