/* 2-D convolution for instruction levels with registers of up to 256 bits, on vit_narrow_product.h.
 *
 * in and out: as vit_conv2d_u8_avx512vnni()
 * method: windows of `block` output pixels are copied to scratch as bytes, widened to operands, and
 *         multiplied by all panels
 * scratch: block rows of operands, rounded up to 64; one window of bytes, rounded up to 64; then
 *          VIT_TILE_ROWS * 64 * 4 bytes for VIT_BY_STAGES */
#ifndef VIT_NARROW_CONV_H
#define VIT_NARROW_CONV_H

#include "vit_narrow_product.h"

/* The window of an output pixel, in the order of the weights: [kernel_h][kernel_w][channels], or
 * [channels][kernel_h][kernel_w] where x has planes of channels. Padding is the code of zero, as bytes
 * of the operand's type before they are flipped. */
static void copy_window(const vit_packed_conv_shape *p, const uint8_t *x, int32_t oy, int32_t ox,
                        uint8_t padding, uint8_t *y)
{
    const int32_t planes = p->planar != 0 ? p->channels : 1;
    const size_t depth = p->planar != 0 ? 1 : (size_t)p->channels;
    const size_t line = (size_t)p->width * depth;
    const int32_t left = ox * p->stride_w - p->pad_left;
    const int inside = left >= 0 && left + (p->kernel_w - 1) * p->dilation_w < p->width;
    for (int32_t c = 0; c < planes; ++c, x += (size_t)p->height * line) {
        for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
            const int32_t iy = oy * p->stride_h - p->pad_top + ky * p->dilation_h;
            const size_t run = (size_t)p->kernel_w * depth;
            if (iy < 0 || iy >= p->height) {
                memset(y, padding, run);
                y += run;
                continue;
            }
            const uint8_t *row = x + (size_t)iy * line;
            if (inside && p->dilation_w == 1) {
                memcpy(y, row + (ptrdiff_t)left * (ptrdiff_t)depth, run);
                y += run;
                continue;
            }
            for (int32_t kx = 0; kx < p->kernel_w; ++kx, y += depth) {
                const int32_t ix = left + kx * p->dilation_w;
                if (ix < 0 || ix >= p->width) {
                    memset(y, padding, depth);
                } else {
                    memcpy(y, row + (size_t)ix * depth, depth);
                }
            }
        }
    }
}

static void vit_narrow_conv(const vit_packed_conv_shape *p, const uint8_t *x, const uint8_t *w,
                            const vit_epilogue *e, uint8_t *scratch)
{
    const int32_t pixels = p->batch * p->out_height * p->out_width;
    const vit_packed_linear_shape g = {.n = p->out_channels,
                                       .k = p->kernel_h * p->kernel_w * p->channels,
                                       .x_type = p->x_type,
                                       .finish = p->finish};
    const size_t ld = whole_groups(g.k);
    const size_t image = (size_t)p->height * (size_t)p->width * (size_t)p->channels;
    const uint8_t flip = flip_of(p->x_type);
    const uint8_t padding = (uint8_t)(p->padding ^ flip);
    vit_operand *rows = (vit_operand *)(void *)scratch;
    uint8_t *window = scratch + vit_align64((size_t)p->block * ld * sizeof(vit_operand));
    int32_t *stages_tile = (int32_t *)(void *)(window + vit_align64((size_t)g.k));
    const vit_range range = vit_share(pixels, ROWS, p->part, p->parts);
    const vit_range cols = {0, p->out_channels};
    const int32_t step = p->finish == VIT_BY_STAGES ? vit_min32(p->block, VIT_TILE_ROWS) : p->block;
    for (int32_t r0 = range.first; r0 < range.last; r0 += step) {
        const int32_t count = vit_min32(step, range.last - r0);
        for (int32_t r = 0; r < count; ++r) {
            const int32_t ox = (r0 + r) % p->out_width, line = (r0 + r) / p->out_width;
            const size_t first = (size_t)(line / p->out_height) * image;
            copy_window(p, x + first, line % p->out_height, ox, padding, window);
            copy_row(window, flip, g.k, rows + (size_t)r * ld);
        }
        multiply_rows(&g, rows, ld, r0, count, cols, w, e, stages_tile);
    }
}

#endif
