/* kernel: exact data movement (transpose, slice, concat, pad, gather)
 * layout: [dims] elements of `size` bytes, read and written with strides
 * in:     anything
 * out:    the same bytes
 * method: runs of consecutive elements are copied as bytes, others element by element
 * scratch: none
 */
#include <string.h>

#include "vit_arith.h"

static void copy_row(const vit_copy_shape *p, const char *x, char *y)
{
    const int32_t last = p->rank - 1;
    const ptrdiff_t size = p->size;
    const ptrdiff_t x_step = p->x_strides[last] * size, y_step = p->y_strides[last] * size;
    if (x_step == size && y_step == size) {
        memcpy(y, x, (size_t)p->dims[last] * (size_t)size);
        return;
    }
    for (int32_t i = 0; i < p->dims[last]; ++i, x += x_step, y += y_step) {
        switch (p->size) {
        case 1:
            *y = *x;
            break;
        case 2:
            memcpy(y, x, 2);
            break;
        case 4:
            memcpy(y, x, 4);
            break;
        default:
            memcpy(y, x, 8);
            break;
        }
    }
}

void vit_copy(const vit_copy_shape *p, const void *x, void *y)
{
    const int32_t last = p->rank - 1;
    int32_t index[VIT_MAX_RANK] = {0};
    ptrdiff_t from = 0, to = 0;
    for (int32_t d = 0; d >= 0;) {
        copy_row(p, (const char *)x + from * p->size, (char *)y + to * p->size);
        d = vit_next_index(p->dims, last, index);
        for (int32_t i = d; i >= 0 && i < last; ++i) {
            const ptrdiff_t step = i == d ? 1 : 1 - p->dims[i];
            from += step * p->x_strides[i];
            to += step * p->y_strides[i];
        }
    }
}

void vit_fill(int32_t value, vit_type type, int32_t n, void *y)
{
    for (int32_t i = 0; i < n; ++i) {
        vit_store_one(value, y, type, (size_t)i);
    }
}

void vit_gather(const vit_gather_shape *p, const int32_t *indices, const void *x, void *y)
{
    const size_t inner = (size_t)p->inner;
    char *out = (char *)y;
    for (int32_t o = 0; o < p->outer; ++o) {
        const char *base = (const char *)x + (size_t)o * (size_t)p->length * inner;
        for (int32_t i = 0; i < p->count; ++i, out += inner) {
            memcpy(out, base + (size_t)indices[i] * inner, inner);
        }
    }
}
