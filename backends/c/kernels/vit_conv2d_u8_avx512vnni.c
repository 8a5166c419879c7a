/* kernel: 2-D convolution, 8-bit codes x packed s8 weights, AVX512-VNNI
 * layout: x[batch][height][width][channels], or [batch][channels][height][width] if planar;
 *         w panels of vit_gemm_u8_avx512vnni(), the reduction in the order of the windows:
 *         [kernel_h][kernel_w][channels], or [channels][kernel_h][kernel_w];
 *         y[batch][out_height][out_width][out_channels]
 * in:     u8 codes as they are, s8 codes plus 128; padding has the code of zero
 * out:    the epilogue's type
 * method: windows of `block` output pixels are copied to scratch, runs of neighbouring bytes at a
 *         time, and multiplied by all panels
 * scratch: block * ceil(k / 4) * 4 bytes (k = taps * channels), then VIT_TILE_ROWS * 64 * 4
 *         bytes, each rounded up to 64
 */
#include "vit_avx512.h"

/* A word of `size` bytes with flipped bits. */
VIT_INLINE void copy_word(const uint8_t *x, size_t size, __m512i flip, uint8_t *y)
{
    int64_t word = 0;
    memcpy(&word, x, size);
    word ^= _mm_cvtsi128_si64(_mm512_castsi512_si128(flip));
    memcpy(y, &word, size);
}

/* A run of n bytes with flipped bits; short ones as two words, which may overlap. */
VIT_INLINE uint8_t *copy_run(const uint8_t *x, int32_t n, __m512i flip, uint8_t *y)
{
    if (n >= 4 && n <= 8) {
        copy_word(x, 4, flip, y);
        copy_word(x + n - 4, 4, flip, y + n - 4);
        return y + n;
    }
    if (n > 8 && n <= 16) {
        copy_word(x, 8, flip, y);
        copy_word(x + n - 8, 8, flip, y + n - 8);
        return y + n;
    }
    for (int32_t i = 0; i < n; i += 64) {
        const __mmask64 mask = vit_first64(n - i);
        const __m512i codes = _mm512_maskz_loadu_epi8(mask, x + i);
        _mm512_mask_storeu_epi8(y + i, mask, _mm512_xor_si512(codes, flip));
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

/* The windows of `count` output pixels in one row, from column `ox` on. Memory is read in the order in
 * which it lies: line by line of the image, for all windows. */
static void copy_windows(const vit_packed_conv_shape *p, const uint8_t *x, int32_t iy0, int32_t ox,
                         int32_t count, __m512i flip, uint8_t *y)
{
    const int32_t planes = p->planar != 0 ? p->channels : 1;
    const int32_t depth = p->planar != 0 ? 1 : p->channels;
    const size_t line = (size_t)p->width * (size_t)depth;
    const size_t run = (size_t)p->kernel_w * (size_t)depth;
    const size_t ld = vit_round_up4(p->kernel_h * p->kernel_w * p->channels);
    for (int32_t c = 0; c < planes; ++c, x += (size_t)p->height * line) {
        for (int32_t ky = 0; ky < p->kernel_h; ++ky, y += run) {
            const int32_t iy = iy0 + ky * p->dilation_h;
            const int inside = iy >= 0 && iy < p->height;
            const uint8_t *row = x + (inside ? (size_t)iy * line : 0);
            for (int32_t i = 0; i < count; ++i) {
                uint8_t *out = y + (size_t)i * ld;
                if (inside) {
                    copy_taps(p, row, (ox + i) * p->stride_w - p->pad_left, depth, flip, out);
                } else {
                    fill_run((int32_t)run, p->padding, out);
                }
            }
        }
    }
}

/* The windows of output pixels first to first + count, numbered along rows, images after each other. */
static void copy_block(const vit_packed_conv_shape *p, const uint8_t *x, int32_t first,
                       int32_t count, uint8_t *y)
{
    const __m512i flip = _mm512_set1_epi8(p->x_type == VIT_S8 ? (char)-128 : 0);
    const size_t image = (size_t)p->height * (size_t)p->width * (size_t)p->channels;
    const size_t ld = vit_round_up4(p->kernel_h * p->kernel_w * p->channels);
    for (int32_t at = first, done = 0; done < count; at = first + done) {
        const int32_t ox = at % p->out_width, oy = at / p->out_width % p->out_height;
        const int32_t n = vit_min32(p->out_width - ox, count - done);
        copy_windows(p, x + (size_t)(at / p->out_width / p->out_height) * image,
                     oy * p->stride_h - p->pad_top, ox, n, flip, y + (size_t)done * ld);
        done += n;
    }
}

void vit_conv2d_u8_avx512vnni(const vit_packed_conv_shape *p, const void *x, const void *w,
                              const vit_epilogue *e, void *scratch)
{
    const int32_t pixels = p->batch * p->out_height * p->out_width;
    vit_packed_shape g = {.n = p->out_channels,
                          .k = p->kernel_h * p->kernel_w * p->channels,
                          .finish = p->finish};
    g.ld = (int32_t)vit_round_up4(g.k);
    uint8_t *rows = (uint8_t *)scratch;
    int32_t *tile = (int32_t *)(void *)(rows + vit_align64((size_t)p->block * (size_t)g.ld));
    const vit_range range = vit_share(pixels, 6, p->part, p->parts);
    for (g.row = range.first; g.row < range.last; g.row += p->block) {
        g.m = vit_min32(p->block, range.last - g.row);
        copy_block(p, (const uint8_t *)x, g.row, g.m, rows);
        vit_gemm_u8_avx512vnni(&g, rows, (const int8_t *)w, e, tile);
    }
}
