/* kernel: exact data movement (transpose, slice, concat, pad, gather)
 * layout: [dims] elements of `size` bytes, read and written with strides
 * in:     anything
 * out:    the same bytes
 * method: runs of consecutive elements are copied as bytes, transposes in squares, others element
 *         by element
 * scratch: none
 */
#include <string.h>

#include "vit_arith.h"

/* n elements with any distances between them. */
#define VIT_STRIDED(type)                                                                          \
    do {                                                                                           \
        const type *from = (const type *)(const void *)x;                                          \
        type *to = (type *)(void *)y;                                                              \
        for (int32_t i = 0; i < n; ++i, from += x_step, to += y_step) {                            \
            *to = *from;                                                                           \
        }                                                                                          \
    } while (0)

static void copy_strided(int32_t size, int32_t n, ptrdiff_t x_step, ptrdiff_t y_step, const char *x,
                         char *y)
{
    switch (size) {
    case 1:
        VIT_STRIDED(uint8_t);
        break;
    case 2:
        VIT_STRIDED(uint16_t);
        break;
    case 4:
        VIT_STRIDED(uint32_t);
        break;
    default:
        VIT_STRIDED(uint64_t);
        break;
    }
}

static void copy_row(const vit_copy_shape *p, const char *x, char *y)
{
    const int32_t last = p->rank - 1;
    if (p->x_strides[last] == 1 && p->y_strides[last] == 1) {
        memcpy(y, x, (size_t)p->dims[last] * (size_t)p->size);
    } else {
        copy_strided(p->size, p->dims[last], p->x_strides[last], p->y_strides[last], x, y);
    }
}

/* Elements on each side of the squares in which matrices are transposed. */
#define VIT_SQUARE 16

/* Three planes of bytes, `ld` apart, pixel by pixel: images. */
static void interleave(int32_t n, const uint8_t *restrict x, ptrdiff_t ld, uint8_t *restrict y)
{
    const uint8_t *x1 = x + ld, *x2 = x1 + ld;
    for (int32_t i = 0; i < n; ++i) {
        y[3 * i] = x[i];
        y[3 * i + 1] = x1[i];
        y[3 * i + 2] = x2[i];
    }
}

/* The last two dimensions where the result runs along the one and the operand along the other. */
static void copy_transposed(const vit_copy_shape *p, const char *x, char *y)
{
    const int32_t column = p->rank - 1, row = column - 1;
    const ptrdiff_t size = p->size, x_ld = p->x_strides[column], y_ld = p->y_strides[row];
    if (size == 1 && p->dims[column] == 3 && y_ld == 3) {
        interleave(p->dims[row], (const uint8_t *)x, x_ld, (uint8_t *)y);
        return;
    }
    for (int32_t r0 = 0; r0 < p->dims[row]; r0 += VIT_SQUARE) {
        const int32_t rows = vit_min32(VIT_SQUARE, p->dims[row] - r0);
        for (int32_t c0 = 0; c0 < p->dims[column]; c0 += VIT_SQUARE) {
            const int32_t columns = vit_min32(VIT_SQUARE, p->dims[column] - c0);
            for (int32_t r = r0; r < r0 + rows; ++r) {
                copy_strided(p->size, columns, x_ld, 1, x + (r + c0 * x_ld) * size,
                             y + (r * y_ld + c0) * size);
            }
        }
    }
}

/* One worker's share of the outermost dimension. */
static void copy_all(const vit_copy_shape *p, const void *x, void *y)
{
    int32_t last = p->rank - 1;
    const int transposed = last > 0 && p->x_strides[last - 1] == 1 && p->x_strides[last] != 1 &&
                           p->y_strides[last] == 1;
    last -= transposed;
    int32_t index[VIT_MAX_RANK] = {0};
    ptrdiff_t from = 0, to = 0;
    for (int32_t d = 0; d >= 0;) {
        const char *source = (const char *)x + from * p->size;
        char *target = (char *)y + to * p->size;
        if (transposed) {
            copy_transposed(p, source, target);
        } else {
            copy_row(p, source, target);
        }
        d = vit_next_index(p->dims, last, index);
        for (int32_t i = d; i >= 0 && i < last; ++i) {
            const ptrdiff_t step = i == d ? 1 : 1 - p->dims[i];
            from += step * p->x_strides[i];
            to += step * p->y_strides[i];
        }
    }
}

void vit_copy(const vit_copy_shape *p, const void *x, void *y)
{
    vit_copy_shape own = *p;
    const vit_range range = vit_share(p->dims[0], 1, p->part, p->parts);
    own.dims[0] = range.last - range.first;
    if (own.dims[0] > 0) {
        copy_all(&own, (const char *)x + (ptrdiff_t)range.first * p->x_strides[0] * p->size,
                 (char *)y + (ptrdiff_t)range.first * p->y_strides[0] * p->size);
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
