/* Depthwise convolution for instruction levels with registers of up to 256 bits: lines of
 * vit_dwconv_lines.h, stripes of 16 outputs at a time.
 *
 * A level's header defines, besides what vit_narrow_tile.h wants,
 *   stripe                     16 accumulators
 *   load_stripe, store_stripe
 *   dot_taps                   GROUP taps times their weights
 *
 * layout: w: for every 64 of the p->patterns * 64 neighbouring outputs after which the channels
 *         repeat, init[64] s32, shift[64] s32 and [ceil(taps / GROUP)][64][GROUP] of vit_operand */
#ifndef VIT_NARROW_DWCONV_H
#define VIT_NARROW_DWCONV_H

#include "vit_dwconv_lines.h"
#include "vit_narrow_product.h"

static void output_line(const vit_packed_conv_shape *p, const workspace *s,
                        const uint8_t *const *taps, const uint8_t *w, const vit_epilogue *e,
                        int32_t row)
{
    const vit_packed_linear_shape g = {.k = s->groups * GROUP, .finish = p->finish};
    for (int32_t pattern = 0; pattern < p->patterns; ++pattern, w += panel_bytes(&g)) {
        const int32_t *init = (const int32_t *)(const void *)w, *shift = init + COLUMNS;
        const vit_operand *panel = (const vit_operand *)(const void *)(shift + COLUMNS);
        for (int32_t first = COLUMNS * pattern; first < s->outputs; first += COLUMNS * p->patterns) {
            const int32_t width = vit_min32(COLUMNS, s->outputs - first);
            for (int32_t c = 0; c < width; c += STRIPE) {
                const size_t at = (size_t)(first + c);
                int32_t acc[STRIPE];
                stripe sums = load_stripe(init + c);
                for (int32_t i = 0; i < s->groups; ++i) {
                    dot_taps(&sums, taps + i * GROUP, at, panel + (i * COLUMNS + c) * GROUP);
                }
                store_stripe(&sums, acc);
                if (p->finish == VIT_BY_STAGES) {
                    memcpy(s->tile + at, acc, sizeof acc);
                } else {
                    finish_row(&g, e, acc, shift + c, (size_t)row, at,
                               vit_min32(STRIPE, width - c));
                }
            }
        }
    }
    if (p->finish == VIT_BY_STAGES) {
        vit_epilogue_apply(e, s->tile, p->channels, row, p->out_width, 0, p->channels);
    }
}

static inline void vit_narrow_dwconv(const vit_packed_conv_shape *p, const void *x, const void *w,
                                     const vit_epilogue *e, void *scratch)
{
    vit_dwconv_lines(p, (const uint8_t *)x, (const uint8_t *)w, e, flip_of(p->x_type), scratch);
}

#endif
