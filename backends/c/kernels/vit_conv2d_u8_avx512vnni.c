/* kernel: 2-D convolution, 8-bit codes x packed s8 weights, AVX512-VNNI
 * layout: x[batch][height][width][channels], or [batch][channels][height][width] if planar;
 *         w panels of vit_gemm_u8_avx512vnni(), the reduction in the order of the windows:
 *         [kernel_h][kernel_w][channels], or [channels][kernel_h][kernel_w];
 *         y[batch][out_height][out_width][out_channels]
 * in:     u8 codes as they are, s8 codes plus 128; padding has the code of zero
 * out:    the epilogue's type
 * method: windows of `block` output pixels are copied to scratch, runs of neighbouring bytes at a
 *         time, and multiplied by all panels
 * scratch: block * ceil(k / 4) * 4 + 64 bytes (k = taps * channels), then VIT_TILE_ROWS * 64 * 4
 *         bytes, each rounded up to 64
 */
#include "vit_avx512.h"

/* A run of n bytes with flipped bits; up to 63 bytes behind it are overwritten. */
VIT_INLINE uint8_t *copy_run(const uint8_t *x, int32_t n, __m512i flip, uint8_t *y)
{
    for (int32_t i = 0; i < n; i += 64) {
        const __m512i codes = _mm512_maskz_loadu_epi8(vit_first64(n - i), x + i);
        _mm512_storeu_si512(y + i, _mm512_xor_si512(codes, flip));
    }
    return y + n;
}

VIT_INLINE uint8_t *fill_run(int32_t n, int32_t code, uint8_t *y)
{
    memset(y, code, (size_t)n);
    return y + n;
}

/* One row of a window: kernel_w taps, `depth` neighbouring bytes each, from column `left` on. */
VIT_INLINE uint8_t *copy_taps(const vit_packed_conv_shape *p, const uint8_t *row, int32_t left,
                              int32_t depth, __m512i flip, uint8_t *y)
{
    const int32_t right = left + (p->kernel_w - 1) * p->dilation_w;
    if (p->dilation_w == 1 && left >= 0 && right < p->width) {
        return copy_run(row + (ptrdiff_t)left * depth, p->kernel_w * depth, flip, y);
    }
    for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
        const int32_t ix = left + kx * p->dilation_w;
        y = ix < 0 || ix >= p->width ? fill_run(depth, p->padding, y)
                                     : copy_run(row + (ptrdiff_t)ix * depth, depth, flip, y);
    }
    return y;
}

/* The window of one output pixel. */
static void copy_window(const vit_packed_conv_shape *p, const uint8_t *x, int32_t pixel,
                        __m512i flip, uint8_t *y)
{
    const int32_t left = pixel % p->out_width * p->stride_w - p->pad_left;
    const int32_t top = pixel / p->out_width % p->out_height * p->stride_h - p->pad_top;
    const int32_t batch = pixel / p->out_width / p->out_height;
    const int32_t planes = p->planar != 0 ? p->channels : 1;
    const int32_t depth = p->planar != 0 ? 1 : p->channels;
    const ptrdiff_t plane = (ptrdiff_t)p->height * p->width * depth;
    x += batch * plane * planes;
    for (int32_t c = 0; c < planes; ++c, x += plane) {
        for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
            const int32_t iy = top + ky * p->dilation_h;
            y = iy < 0 || iy >= p->height
                    ? fill_run(p->kernel_w * depth, p->padding, y)
                    : copy_taps(p, x + (ptrdiff_t)iy * p->width * depth, left, depth, flip, y);
        }
    }
}

void vit_conv2d_u8_avx512vnni(const vit_packed_conv_shape *p, const void *x, const void *w,
                              const vit_epilogue *e, void *scratch)
{
    const int32_t pixels = p->batch * p->out_height * p->out_width;
    const __m512i flip = _mm512_set1_epi8(p->x_type == VIT_S8 ? (char)-128 : 0);
    vit_packed_shape g = {.n = p->out_channels,
                          .k = p->kernel_h * p->kernel_w * p->channels,
                          .finish = p->finish};
    g.ld = (g.k + 3) & ~3;
    uint8_t *rows = (uint8_t *)scratch;
    const size_t bytes = (size_t)p->block * (size_t)g.ld + 64;
    int32_t *tile = (int32_t *)(void *)(rows + vit_align64(bytes));
    for (g.row = 0; g.row < pixels; g.row += p->block) {
        g.m = vit_min32(p->block, pixels - g.row);
        for (int32_t r = 0; r < g.m; ++r) {
            copy_window(p, (const uint8_t *)x, g.row + r, flip, rows + (size_t)r * (size_t)g.ld);
        }
        vit_gemm_u8_avx512vnni(&g, rows, (const int8_t *)w, e, tile);
    }
}
