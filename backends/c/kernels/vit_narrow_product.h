/* Packed products for instruction levels with registers of up to 256 bits: see vit_narrow_tile.h. Weights
 * are panels as in vit_gemm_u8_avx512vnni(), columns in order.
 *
 * A grouped product (p->ld columns of x) multiplies each panel by those p->step further on.
 *
 * scratch: block * ceil(ld / GROUP) * GROUP operands where rows are copied, rounded up to 64 bytes,
 *          then VIT_TILE_ROWS * 64 * 4 bytes for VIT_BY_STAGES */
#ifndef VIT_NARROW_PRODUCT_H
#define VIT_NARROW_PRODUCT_H

#include "vit_narrow_tile.h"

static inline size_t panel_bytes(const vit_packed_linear_shape *p)
{
    return COLUMNS * (8 + whole_groups(p->k) * sizeof(vit_operand));
}

/* Finished codes of up to 16 columns of one row, `at` elements into the result. Every loop runs over
 * a whole stripe, so that compilers turn it into vector instructions. */
static inline void finish_stripe(vit_finish finish, const vit_epilogue *e, const int32_t *acc,
                                 const int32_t *shift, const int16_t *other, size_t at, int32_t cols)
{
    const size_t size = finish == VIT_TO_S16 || finish == VIT_TO_SUM ? 2 : 1;
    int32_t v[STRIPE];
    int16_t words[STRIPE] = {0};
    uint8_t bytes[STRIPE];
    if (finish == VIT_TO_SUM) {
        memcpy(words, other, (size_t)cols * 2);
    }
    for (int32_t c = 0; c < STRIPE; ++c) {
        v[c] = (acc[c] >> (shift[c] < 0 ? 0 : shift[c])) + words[c];
    }
    if (finish == VIT_TO_S16) {
        for (int32_t c = 0; c < STRIPE; ++c) {
            v[c] *= 1 << (shift[c] < 0 ? -shift[c] : 0);
        }
    }
    pack_words(v, words);
    if (size == 1) {
        pack_bytes(words, finish == VIT_TO_S8, bytes);
        const uint8_t *table = finish == VIT_TO_TABLE ? (const uint8_t *)e->stages[1].table : NULL;
        for (int32_t c = 0; table != NULL && c < STRIPE; ++c) {
            bytes[c] = table[bytes[c]];
        }
    }
    const void *codes = size == 2 ? (const void *)words : (const void *)bytes;
    if (cols == STRIPE) {
        memcpy((char *)e->y + at * size, codes, STRIPE * size);
    } else {
        memcpy((char *)e->y + at * size, codes, (size_t)cols * size);
    }
}

static inline void finish_row(const vit_packed_linear_shape *p, const vit_epilogue *e,
                              const int32_t *acc, const int32_t *shift, size_t row, size_t col,
                              int32_t cols)
{
    const size_t at = row * (size_t)e->ld + col;
    const int16_t *other = NULL;
    switch (p->finish) {
    case VIT_TO_S8:
        finish_stripe(VIT_TO_S8, e, acc, shift, other, at, cols);
        break;
    case VIT_TO_U8:
        finish_stripe(VIT_TO_U8, e, acc, shift, other, at, cols);
        break;
    case VIT_TO_TABLE:
        finish_stripe(VIT_TO_TABLE, e, acc, shift, other, at, cols);
        break;
    case VIT_TO_S16:
        finish_stripe(VIT_TO_S16, e, acc, shift, other, at, cols);
        break;
    default:
        other = (const int16_t *)e->stages[0].other + row * (size_t)e->stages[0].other_ld + col;
        finish_stripe(VIT_TO_SUM, e, acc, shift, other, at, cols);
        break;
    }
}

/* Some rows of the operand, which are rows row0 ... of the result, times some columns. */
static void multiply_rows(const vit_packed_linear_shape *p, const vit_operand *x, size_t ld,
                          int32_t row0, int32_t rows, vit_range all, const uint8_t *w,
                          const vit_epilogue *e, int32_t *stages_tile)
{
    w += (size_t)(all.first / COLUMNS) * panel_bytes(p);
    for (int32_t col = all.first; col < all.last; col += COLUMNS, w += panel_bytes(p)) {
        const int32_t *init = (const int32_t *)(const void *)w, *shift = init + COLUMNS;
        const vit_operand *panel = (const vit_operand *)(const void *)(shift + COLUMNS);
        const vit_operand *operand = x + (size_t)(col / COLUMNS) * (size_t)p->step;
        const int32_t width = vit_min32(COLUMNS, p->n - col);
        for (int32_t c0 = 0; c0 < width; c0 += STRIPE) {
            const int32_t cols = vit_min32(STRIPE, width - c0);
            for (int32_t r0 = 0; r0 < rows; r0 += ROWS) {
                const int32_t count = vit_min32(ROWS, rows - r0);
                int32_t acc[ROWS][STRIPE];
                multiply_stripe(operand + (size_t)r0 * ld, ld, count, whole_groups(p->k),
                                panel + c0 * GROUP, init + c0, acc);
                for (int32_t r = 0; r < count; ++r) {
                    const size_t row = (size_t)(row0 + r0 + r);
                    if (p->finish == VIT_BY_STAGES) {
                        for (int32_t c = 0; c < STRIPE; ++c) {
                            stages_tile[(r0 + r) * COLUMNS + c0 + c] = acc[r][c];
                        }
                    } else {
                        finish_row(p, e, acc[r], shift + c0, row, (size_t)(col + c0), cols);
                    }
                }
            }
        }
        if (p->finish == VIT_BY_STAGES) {
            vit_epilogue_apply(e, stages_tile, COLUMNS, row0, rows, col, width);
        }
    }
}

static inline void vit_narrow_linear(const vit_packed_linear_shape *p, const uint8_t *x,
                                     const uint8_t *w, const vit_epilogue *e, uint8_t *scratch)
{
    const uint8_t flip = flip_of(p->x_type);
    const int32_t depth = p->ld != 0 ? p->ld : p->k;
    const int copied = flip != 0 || sizeof(vit_operand) != 1 || depth % GROUP != 0;
    const size_t ld = copied ? whole_groups(depth) : (size_t)depth;
    vit_operand *rows = (vit_operand *)(void *)scratch;
    const size_t bytes = copied ? vit_align64((size_t)p->block * ld * sizeof(vit_operand)) : 0;
    int32_t *stages_tile = (int32_t *)(void *)(scratch + bytes);
    const int32_t step = p->finish == VIT_BY_STAGES ? vit_min32(p->block, VIT_TILE_ROWS) : p->block;
    const int by_columns =
        vit_shares_columns((p->m + ROWS - 1) / ROWS, (p->n + COLUMNS - 1) / COLUMNS, p->parts);
    const vit_range all = vit_share(p->m, ROWS, p->part, by_columns ? 0 : p->parts);
    const vit_range cols = vit_share(p->n, COLUMNS, p->part, by_columns ? p->parts : 0);
    for (int32_t r0 = all.first; r0 < all.last; r0 += step) {
        const int32_t count = vit_min32(step, all.last - r0);
        const uint8_t *from = x + (size_t)r0 * (size_t)depth;
        for (int32_t r = 0; copied && r < count; ++r) {
            copy_row(from + (size_t)r * (size_t)depth, flip, depth, rows + (size_t)r * ld);
        }
        const vit_operand *operand = copied ? rows : (const vit_operand *)(const void *)from;
        multiply_rows(p, operand, ld, r0, count, cols, w, e, stages_tile);
    }
}

#endif
