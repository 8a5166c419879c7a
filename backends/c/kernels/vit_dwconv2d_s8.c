/* kernel: depthwise 2-D convolution (groups = channels = out_channels), s8 weights
 * layout: x NHWC, w[kernel_h][kernel_w][channels] (packed from OHWI when the project is emitted),
 *         y[batch][out_height][out_width][channels]
 * in:     x codes with zero point
 * out:    the epilogue's type
 * method: a row of accumulators over the channels per output pixel; a tap adds one
 *         multiply-accumulate over all channels; taps outside the image read the zero point, so
 *         they add nothing
 * scratch: block * channels * 4 + channels * 4 bytes
 */
#include "vit_arith.h"

static void accumulate(const int32_t *restrict x, const int8_t *restrict w, int32_t zp, int32_t n,
                       int32_t *restrict acc)
{
    for (int32_t c = 0; c < n; ++c) {
        acc[c] += (x[c] - zp) * w[c];
    }
}

static void accumulate_s8(const int8_t *restrict x, const int8_t *restrict w, int32_t zp,
                          int32_t n, int32_t *restrict acc)
{
    for (int32_t c = 0; c < n; ++c) {
        acc[c] += (x[c] - zp) * w[c];
    }
}

static void pixel(const vit_conv2d_shape *p, const void *x, const int8_t *w, int32_t index,
                  int32_t *acc, int32_t *row)
{
    const int32_t ox = index % p->out_width;
    const int32_t oy = index / p->out_width % p->out_height;
    const int32_t batch = index / p->out_width / p->out_height;
    for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
        const int32_t iy = oy * p->stride_h - p->pad_top + ky * p->dilation_h;
        for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
            const int32_t ix = ox * p->stride_w - p->pad_left + kx * p->dilation_w;
            if (iy < 0 || iy >= p->height || ix < 0 || ix >= p->width) {
                continue;
            }
            const size_t at = (((size_t)batch * (size_t)p->height + (size_t)iy) * (size_t)p->width +
                               (size_t)ix) *
                              (size_t)p->channels;
            const int8_t *taps = w + (size_t)(ky * p->kernel_w + kx) * (size_t)p->channels;
            if (p->x_type == VIT_S8) {
                accumulate_s8((const int8_t *)x + at, taps, p->x_zp, p->channels, acc);
            } else {
                vit_load_s32(x, p->x_type, at, p->channels, row);
                accumulate(row, taps, p->x_zp, p->channels, acc);
            }
        }
    }
}

void vit_dwconv2d_s8(const vit_conv2d_shape *p, const void *x, const int8_t *w,
                     const int32_t *bias, const vit_epilogue *e, void *scratch)
{
    const int32_t pixels = p->batch * p->out_height * p->out_width;
    int32_t *acc = (int32_t *)scratch;
    int32_t *row = acc + (size_t)p->block * (size_t)p->channels;
    const vit_range range = vit_share(pixels, 1, p->part, p->parts);
    for (int32_t r0 = range.first; r0 < range.last; r0 += p->block) {
        const int32_t rows = vit_min32(p->block, range.last - r0);
        for (int32_t r = 0; r < rows; ++r) {
            int32_t *out = acc + (size_t)r * (size_t)p->channels;
            for (int32_t c = 0; c < p->channels; ++c) {
                out[c] = bias == NULL ? 0 : bias[c];
            }
            pixel(p, x, w, r0 + r, out, row);
        }
        vit_epilogue_apply(e, acc, p->channels, r0, rows, 0, p->channels);
    }
}
