/* kernel: 2-D convolution and transposed convolution, any stride, padding, dilation, groups
 * layout: x[batch][height][width][channels], w[out_channels][kernel_h][kernel_w][channels/groups],
 *         y[batch][out_height][out_width][out_channels]
 * in:     x codes with zero point, w s8, s16 or s4 (rows of one output channel padded to a byte)
 * out:    the epilogue's type
 * method: windows of `block` output pixels are gathered into s16 rows (a row per pixel, padding
 *         and, for the transposed form, gaps between pixels are 0 after the zero point is
 *         subtracted), then the tile product of vit_gemm_s16()
 * scratch: (block + 32) * kp * 2 + block * 32 * 4 bytes, kp = taps * channels / groups rounded
 *         up to 16
 */
#include "vit_arith.h"

/* Input coordinate that tap `tap` of output coordinate `out` reads, or -1 for none. */
static int32_t source(int32_t out, int32_t tap, int32_t stride, int32_t pad, int32_t dilation,
                      int32_t size, int32_t transposed)
{
    if (transposed == 0) {
        const int32_t at = out * stride - pad + tap * dilation;
        return at >= 0 && at < size ? at : -1;
    }
    const int32_t at = out + pad - tap * dilation;
    if (at < 0 || at % stride != 0 || at / stride >= size) {
        return -1;
    }
    return at / stride;
}

/* The window of one output pixel and one group: [kernel_h][kernel_w][channels / groups]. */
static void gather_window(const vit_conv2d_shape *p, const void *x, int32_t pixel, int32_t group,
                          int32_t offset, int32_t ld, int16_t *y)
{
    const int32_t depth = p->channels / p->groups;
    const int32_t ox = pixel % p->out_width;
    const int32_t oy = pixel / p->out_width % p->out_height;
    const int32_t batch = pixel / p->out_width / p->out_height;
    const int16_t padding = (int16_t)(p->x_zp - offset);
    for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
        const int32_t iy = source(oy, ky, p->stride_h, p->pad_top, p->dilation_h, p->height,
                                  p->transposed);
        for (int32_t kx = 0; kx < p->kernel_w; ++kx, y += depth, ld -= depth) {
            const int32_t ix = source(ox, kx, p->stride_w, p->pad_left, p->dilation_w, p->width,
                                      p->transposed);
            if (iy < 0 || ix < 0) {
                for (int32_t c = 0; c < depth; ++c) {
                    y[c] = padding;
                }
                continue;
            }
            const size_t at = ((size_t)batch * (size_t)p->height + (size_t)iy) * (size_t)p->width +
                              (size_t)ix;
            vit_widen_s16(x, p->x_type, at * (size_t)p->channels + (size_t)(group * depth), depth,
                          offset, y);
        }
    }
    for (int32_t i = 0; i < ld; ++i) {
        y[i] = 0;
    }
}

void vit_conv2d_s16(const vit_conv2d_shape *p, const void *x, const void *w, const int32_t *bias,
                    const vit_epilogue *e, void *scratch)
{
    const int32_t k = p->kernel_h * p->kernel_w * (p->channels / p->groups);
    const int32_t ld = vit_round_up16(k);
    const size_t stride = vit_weight_stride(p->w_type, k);
    const int32_t pixels = p->batch * p->out_height * p->out_width;
    const int32_t columns = p->out_channels / p->groups;
    const int32_t x_offset = vit_widen_offset(p->x_type, p->x_zp);
    const int32_t w_offset = vit_widen_offset(p->w_type, p->w_zp);
    int16_t *a = (int16_t *)scratch;
    int16_t *b = a + (size_t)p->block * (size_t)ld;
    int32_t *acc = (int32_t *)(void *)(b + (size_t)VIT_PANEL * (size_t)ld);
    const vit_range range = vit_share(pixels, 4, p->part, p->parts);
    for (int32_t group = 0; group < p->groups; ++group) {
        for (int32_t r0 = range.first; r0 < range.last; r0 += p->block) {
            const int32_t rows = vit_min32(p->block, range.last - r0);
            for (int32_t r = 0; r < rows; ++r) {
                gather_window(p, x, r0 + r, group, x_offset, ld, a + (size_t)r * (size_t)ld);
            }
            for (int32_t c0 = 0; c0 < columns; c0 += VIT_PANEL) {
                const vit_gemm_shape g = {.m = rows,
                                          .n = vit_min32(VIT_PANEL, columns - c0),
                                          .k = k,
                                          .ld = ld,
                                          .ca = x_offset - p->x_zp,
                                          .cb = w_offset - p->w_zp};
                const int32_t channel = group * columns + c0;
                vit_widen_rows(w, p->w_type, (size_t)channel * stride, stride, g.n, k, ld,
                               w_offset, b);
                vit_gemm_s16(&g, a, b, bias == NULL ? NULL : bias + channel, acc, VIT_PANEL);
                vit_epilogue_apply(e, acc, VIT_PANEL, r0, rows, channel, g.n);
            }
        }
    }
}
