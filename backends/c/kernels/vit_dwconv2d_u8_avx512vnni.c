/* kernel: depthwise 2-D convolution, 8-bit codes x packed s8 weights, AVX512-VNNI
 * layout: x[batch][height][width][channels], y[batch][out_height][out_width][channels]; w: for every
 *         64 of the p->patterns * 64 neighbouring outputs after which the channels repeat, init[64]
 *         s32, shift[64] s32 and [ceil(taps / 4)][64][4] s8, in the order of accumulators below
 * in:     u8 codes as they are, s8 codes plus 128; padding has the code of zero
 * out:    the epilogue's type
 * method: lines of vit_dwconv_lines.h; four taps are interleaved to groups of four bytes, one group an
 *         output, and multiplied at once
 * bounds: partial sums are taken modulo 2^32, final ones are proven to fit at packing
 * scratch: see vit_dwconv_lines.h
 */
#include "vit_avx512_finish.h"

enum { GROUP = 4 };

#include "vit_dwconv_lines.h"

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

VIT_INLINE void line_of(vit_finish finish, const vit_packed_conv_shape *p, const workspace *s,
                        const uint8_t *const *taps, const int8_t *w, const vit_epilogue *e, char *y)
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
        line_of(finish, p, s, taps, w, e, y);                                                  \
    }

VIT_LINE_OF(line_s8, VIT_TO_S8)
VIT_LINE_OF(line_u8, VIT_TO_U8)
VIT_LINE_OF(line_table, VIT_TO_TABLE)
VIT_LINE_OF(line_stages, VIT_BY_STAGES)

static void output_line(const vit_packed_conv_shape *p, const workspace *s,
                        const uint8_t *const *taps, const uint8_t *w, const vit_epilogue *e,
                        int32_t row)
{
    const int8_t *panels = (const int8_t *)w;
    char *y = (char *)e->y + (size_t)row * (size_t)p->channels;
    switch (p->finish) {
    case VIT_TO_S8:
        line_s8(p, s, taps, panels, e, y);
        break;
    case VIT_TO_U8:
        line_u8(p, s, taps, panels, e, y);
        break;
    case VIT_TO_TABLE:
        line_table(p, s, taps, panels, e, y);
        break;
    default:
        line_stages(p, s, taps, panels, e, y);
        vit_epilogue_apply_avx512vnni(e, INT64_C(1) << 31, s->tile, p->channels, row, p->out_width,
                                      0, p->channels);
        break;
    }
}

void vit_dwconv2d_u8_avx512vnni(const vit_packed_conv_shape *p, const void *x, const void *w,
                                const vit_epilogue *e, void *scratch)
{
    vit_dwconv_lines(p, (const uint8_t *)x, (const uint8_t *)w, e, p->x_type == VIT_S8 ? 128 : 0,
                     scratch);
}
