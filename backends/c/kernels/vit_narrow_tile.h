/* Tiles of a product for instruction levels with registers of up to 256 bits.
 *
 * A source file that includes this includes the header of its level first, which defines
 *   vit_byte, vit_operand  the type of bytes that activations become, and what they are multiplied as
 *   GROUP                  reduction steps of one instruction
 *   ROWS                   rows of a tile
 *   tile                   ROWS rows of 16 accumulators
 *   load_tile, dot_tile, store_tile, pack_words, pack_bytes
 * The second operand is in panels [ceil(k / GROUP)][64][GROUP] of vit_operand; a tile takes a stripe of
 * 16 of a panel's 64 columns. */
#ifndef VIT_NARROW_TILE_H
#define VIT_NARROW_TILE_H

#include <string.h>

#include "vit_arith.h"

enum { COLUMNS = 64, STRIPE = 16 };

/* Reduction steps with what fills the last group. */
static inline size_t whole_groups(int32_t k)
{
    return ((size_t)k + GROUP - 1) / GROUP * GROUP;
}

/* What turns bytes of a type into vit_byte: 128 is added to, or taken from, those of the other sign. */
static inline uint8_t flip_of(vit_type type)
{
    const int is_signed = (vit_byte)-1 < 0;
    return (type == VIT_S8) == is_signed ? 0 : 128;
}

/* The number that a vit_byte is above the code it was made from. */
static inline int32_t raised_by(vit_type type)
{
    return flip_of(type) == 0 ? 0 : (vit_byte)-1 < 0 ? -128 : 128;
}

/* A row of k bytes as operands, 0 up to whole groups. */
static inline void copy_row(const uint8_t *restrict x, uint8_t flip, int32_t k,
                            vit_operand *restrict y)
{
    for (int32_t i = 0; i < k; ++i) {
        y[i] = (vit_operand)(vit_byte)(x[i] ^ flip);
    }
    for (size_t i = (size_t)k; i < whole_groups(k); ++i) {
        y[i] = 0;
    }
}

/* A tile of a stripe over k reduction steps, in whole groups; the last row again where there are no
 * more. */
static inline void multiply_stripe(const vit_operand *x, size_t ld, int32_t rows, size_t k,
                                   const vit_operand *w, const int32_t *init,
                                   int32_t acc[ROWS][STRIPE])
{
    const vit_operand *row[ROWS];
    for (int32_t r = 0; r < ROWS; ++r) {
        row[r] = x + (size_t)vit_min32(r, rows - 1) * ld;
    }
    tile t = load_tile(init);
    for (size_t i = 0; i < k; i += GROUP) {
        dot_tile(&t, row, i, w + i * COLUMNS);
    }
    store_tile(&t, acc);
}

#endif
