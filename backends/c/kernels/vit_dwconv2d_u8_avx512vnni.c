/* kernel: depthwise 2-D convolution, 8-bit codes x packed s8 weights, AVX512-VNNI
 * layout: x[batch][height][width][channels], y[batch][out_height][out_width][channels]; w: for every
 *         64 of the p->patterns * 64 neighbouring outputs after which the channels repeat, init[64]
 *         s32, shift[64] s32 and [ceil(taps / 4)][64][4] s8, in the order of accumulators below
 * in:     u8 codes as they are, s8 codes plus 128; padding has the code of zero
 * out:    the epilogue's type
 * method: pixels and channels of an output row are one line of bytes; a tap is the same line, moved.
 *         Four taps are interleaved to groups of four bytes, one group an output, and multiplied at
 *         once. Input lines wait in a ring of line buffers, with padding on both sides, and sorted
 *         by their column modulo the stride, so that a tap is one piece of memory
 * bounds: partial sums are taken modulo 2^32, final ones are proven to fit at packing
 * scratch: (window height + 1) lines of line_bytes(), rounded up to 64, each; then, for
 *         VIT_BY_STAGES, out_width * channels * 4 + 256 bytes
 */
#include "vit_avx512_finish.h"

enum { MAX_TAPS = 64 };

typedef struct {
    uint8_t *lines;
    size_t line_bytes, phase_bytes;
    int32_t window_h;     /* lines from the first tap to the last */
    int32_t groups;       /* of four taps */
    int32_t outputs;      /* of a line: out_width * channels */
    int32_t *tile;
} workspace;

/* Pixels of one column modulo the stride, from the first tap of the first output to the last. */
static int32_t phase_pixels(const vit_packed_conv_shape *p)
{
    return p->out_width + (p->kernel_w - 1) * p->dilation_w / p->stride_w;
}

static workspace carve(const vit_packed_conv_shape *p, void *scratch)
{
    workspace s;
    s.phase_bytes = vit_align64((size_t)phase_pixels(p) * (size_t)p->channels + 64);
    s.line_bytes = s.phase_bytes * (size_t)p->stride_w;
    s.window_h = (p->kernel_h - 1) * p->dilation_h + 1;
    s.groups = (p->kernel_h * p->kernel_w + 3) / 4;
    s.outputs = p->out_width * p->channels;
    s.lines = (uint8_t *)scratch;
    s.tile = (int32_t *)(void *)(s.lines + (size_t)(s.window_h + 1) * s.line_bytes);
    return s;
}

VIT_INLINE void copy_pixels(const uint8_t *x, size_t bytes, __m512i flip, uint8_t *y)
{
    for (size_t i = 0; i < bytes; i += 64) {
        const __mmask64 mask = vit_first64(bytes - i < 64 ? (int32_t)(bytes - i) : 64);
        const __m512i codes = _mm512_maskz_loadu_epi8(mask, x + i);
        _mm512_mask_storeu_epi8(y + i, mask, _mm512_xor_si512(codes, flip));
    }
}

/* One input line into its buffer; what lies beside the image stays the padding set before. */
static void copy_line(const vit_packed_conv_shape *p, const workspace *s, const uint8_t *row,
                      uint8_t *line)
{
    const __m512i flip = _mm512_set1_epi8(p->x_type == VIT_S8 ? (char)-128 : 0);
    const size_t depth = (size_t)p->channels;
    const int32_t pixels = phase_pixels(p);
    if (p->stride_w == 1) {
        const int32_t count = vit_min32(p->width, pixels - p->pad_left);
        if (count > 0) {
            copy_pixels(row, (size_t)count * depth, flip, line + (size_t)p->pad_left * depth);
        }
        return;
    }
    for (int32_t ix = 0; ix < p->width; ++ix) {
        const int32_t at = ix + p->pad_left;
        if (at / p->stride_w < pixels) {
            uint8_t *phase = line + (size_t)(at % p->stride_w) * s->phase_bytes;
            copy_pixels(row + (size_t)ix * depth, depth, flip,
                        phase + (size_t)(at / p->stride_w) * depth);
        }
    }
}

/* The lines of all taps for one output row; missing taps, whose weights are 0, repeat the first. */
static void find_taps(const vit_packed_conv_shape *p, const workspace *s, int32_t oy,
                      const uint8_t *taps[MAX_TAPS])
{
    const uint8_t *padding = s->lines + (size_t)s->window_h * s->line_bytes;
    int32_t tap = 0;
    for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
        const int32_t iy = oy * p->stride_h - p->pad_top + ky * p->dilation_h;
        const uint8_t *line = iy < 0 || iy >= p->height
                                  ? padding
                                  : s->lines + (size_t)(iy % s->window_h) * s->line_bytes;
        for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
            const int32_t at = kx * p->dilation_w;
            taps[tap++] = line + (size_t)(at % p->stride_w) * s->phase_bytes +
                          (size_t)(at / p->stride_w) * (size_t)p->channels;
        }
    }
    while (tap % 4 != 0) {
        taps[tap++] = taps[0];
    }
}

/* 64 outputs from `at` on: lane e of accumulator j is output 16 (e / 4) + 4 j + e % 4. */
VIT_INLINE void accumulate(const workspace *s, const uint8_t *const *taps, size_t at,
                           const int8_t *w, __m512i acc[4])
{
    for (int32_t j = 0; j < 4; ++j) {
        acc[j] = _mm512_load_si512(w + 64 * j);
    }
    w += 8 * VIT_COLUMNS;
    for (int32_t g = 0; g < s->groups; ++g, taps += 4, w += 4 * VIT_COLUMNS) {
        const __m512i x0 = _mm512_loadu_si512(taps[0] + at);
        const __m512i x1 = _mm512_loadu_si512(taps[1] + at);
        const __m512i x2 = _mm512_loadu_si512(taps[2] + at);
        const __m512i x3 = _mm512_loadu_si512(taps[3] + at);
        const __m512i low01 = _mm512_unpacklo_epi8(x0, x1), low23 = _mm512_unpacklo_epi8(x2, x3);
        const __m512i high01 = _mm512_unpackhi_epi8(x0, x1), high23 = _mm512_unpackhi_epi8(x2, x3);
        VIT_DOT(acc[0], _mm512_unpacklo_epi16(low01, low23), _mm512_load_si512(w));
        VIT_DOT(acc[1], _mm512_unpackhi_epi16(low01, low23), _mm512_load_si512(w + 64));
        VIT_DOT(acc[2], _mm512_unpacklo_epi16(high01, high23), _mm512_load_si512(w + 128));
        VIT_DOT(acc[3], _mm512_unpackhi_epi16(high01, high23), _mm512_load_si512(w + 192));
    }
}

/* Accumulators in the order of outputs: the 4 x 4 blocks of 128 bits, transposed. */
VIT_INLINE void store_in_order(const __m512i acc[4], int32_t *y)
{
    const __m512i a = _mm512_shuffle_i32x4(acc[0], acc[1], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(acc[0], acc[1], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(acc[2], acc[3], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(acc[2], acc[3], 0xdd);
    _mm512_storeu_si512(y, _mm512_shuffle_i32x4(a, c, 0x88));
    _mm512_storeu_si512(y + 16, _mm512_shuffle_i32x4(b, d, 0x88));
    _mm512_storeu_si512(y + 32, _mm512_shuffle_i32x4(a, c, 0xdd));
    _mm512_storeu_si512(y + 48, _mm512_shuffle_i32x4(b, d, 0xdd));
}

VIT_INLINE void output_line(vit_finish finish, const vit_packed_conv_shape *p, const workspace *s,
                            const uint8_t *const *taps, const int8_t *w, const vit_epilogue *e,
                            char *y)
{
    vit_outlet o = {.ld = 0};
    if (finish == VIT_TO_TABLE) {
        o.table = vit_load_table(e->stages[1].table);
    }
    const size_t bytes = (size_t)VIT_COLUMNS * (8 + 4 * (size_t)s->groups);
    for (int32_t pattern = 0; pattern < p->patterns; ++pattern, w += bytes) {
        for (int32_t j = 0; j < 4; ++j) {
            vit_set_shift(&o, j, w + 4 * VIT_COLUMNS + 64 * j);
        }
        for (int32_t at = 64 * pattern; at < s->outputs; at += 64 * p->patterns) {
            __m512i acc[4];
            accumulate(s, taps, (size_t)at, w, acc);
            if (finish == VIT_BY_STAGES) {
                store_in_order(acc, s->tile + at);
            } else {
                o.mask = vit_first64(s->outputs - at);
                o.y = y + at;
                vit_finish_row(4, finish, &o, 0, acc);
            }
        }
    }
}

#define VIT_LINE_OF(name, finish)                                                                  \
    static void name(const vit_packed_conv_shape *p, const workspace *s,                           \
                     const uint8_t *const *taps, const int8_t *w, const vit_epilogue *e, char *y)  \
    {                                                                                              \
        output_line(finish, p, s, taps, w, e, y);                                                  \
    }

VIT_LINE_OF(line_s8, VIT_TO_S8)
VIT_LINE_OF(line_u8, VIT_TO_U8)
VIT_LINE_OF(line_table, VIT_TO_TABLE)
VIT_LINE_OF(line_stages, VIT_BY_STAGES)

/* Output lines of an image; `row` is the first output pixel of the image in the result. */
static void lines_of_image(const vit_packed_conv_shape *p, const workspace *s, const uint8_t *x,
                           const int8_t *w, const vit_epilogue *e, vit_range lines, int32_t row)
{
    /* first input line that is not in the ring */
    int32_t next = lines.first * p->stride_h - p->pad_top;
    next = next < 0 ? 0 : next;
    row += lines.first * p->out_width;
    for (int32_t oy = lines.first; oy < lines.last; ++oy, row += p->out_width) {
        const int32_t last = oy * p->stride_h - p->pad_top + s->window_h - 1;
        for (; next <= last && next < p->height; ++next) {
            copy_line(p, s, x + (size_t)next * (size_t)p->width * (size_t)p->channels,
                      s->lines + (size_t)(next % s->window_h) * s->line_bytes);
        }
        const uint8_t *taps[MAX_TAPS];
        find_taps(p, s, oy, taps);
        char *y = (char *)e->y + (size_t)row * (size_t)p->channels;
        switch (p->finish) {
        case VIT_TO_S8:
            line_s8(p, s, taps, w, e, y);
            break;
        case VIT_TO_U8:
            line_u8(p, s, taps, w, e, y);
            break;
        case VIT_TO_TABLE:
            line_table(p, s, taps, w, e, y);
            break;
        default:
            line_stages(p, s, taps, w, e, y);
            vit_epilogue_apply_avx512vnni(e, s->tile, p->channels, row, p->out_width, 0,
                                          p->channels);
            break;
        }
    }
}

void vit_dwconv2d_u8_avx512vnni(const vit_packed_conv_shape *p, const void *x, const void *w,
                                const vit_epilogue *e, void *scratch)
{
    const workspace s = carve(p, scratch);
    const size_t image = (size_t)p->height * (size_t)p->width * (size_t)p->channels;
    memset(s.lines, p->padding, (size_t)(s.window_h + 1) * s.line_bytes);
    for (int32_t b = 0; b < p->batch; ++b) {
        const vit_range lines = vit_share(p->out_height, 1, p->part, p->parts);
        lines_of_image(p, &s, (const uint8_t *)x + (size_t)b * image, (const int8_t *)w, e, lines,
                       b * p->out_height * p->out_width);
    }
}
