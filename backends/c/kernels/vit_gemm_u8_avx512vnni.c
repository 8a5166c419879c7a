/* kernel: matrix product u8 x s8 with packed weights, epilogue in registers
 * layout: x[m] rows of ceil(k / 4) * 4 bytes, p->ld apart; w: per 64 columns a panel of init[64] s32,
 *         shift[64] s32 and [ceil(k / 4)][64][4] s8, columns in the order in which the packing
 *         instructions give them back (backends/c/packing.py); result rows at p->row, columns at
 *         p->col of the epilogue's result
 * in:     codes of x as they are; zero point, bias and rounding constant are part of `init`
 * out:    the epilogue's type; the stages that `finish` names have been checked and folded by the
 *         packing, any others run on tiles in scratch
 * method: tiles of 6 x 64 accumulators in 24 registers; a column panel stays in the first- or
 *         second-level cache while all rows pass
 * bounds: partial sums are taken modulo 2^32, final ones are proven to fit at packing
 * scratch: VIT_TILE_ROWS * 64 * 4 bytes for VIT_BY_STAGES, else none
 */
#include "vit_avx512.h"

enum { ROWS = 6, COLUMNS = 64 };

typedef __m512i accumulators[ROWS][4];

VIT_INLINE size_t panel_bytes(const vit_packed_shape *p)
{
    return (size_t)COLUMNS * (8 + vit_round_up4(p->k));
}

/* `ahead` bytes behind the weights in use, one line a step is fetched into the second-level cache. */
VIT_INLINE void multiply(const vit_packed_shape *p, const uint8_t *const x[ROWS], const int8_t *w,
                         size_t ahead, accumulators acc)
{
    for (int32_t r = 0; r < ROWS; ++r) {
        for (int32_t j = 0; j < 4; ++j) {
            acc[r][j] = _mm512_load_si512(w + 64 * j);
        }
    }
    w += 8 * COLUMNS;
    for (size_t k = 0; k < (size_t)p->k; k += 4, w += 4 * COLUMNS) {
        const __m512i b0 = _mm512_load_si512(w), b1 = _mm512_load_si512(w + 64);
        const __m512i b2 = _mm512_load_si512(w + 128), b3 = _mm512_load_si512(w + 192);
        _mm_prefetch((const char *)w + ahead, _MM_HINT_T1);
        for (int32_t r = 0; r < ROWS; ++r) {
            const __m512i a = vit_repeat4(x[r] + k);
            VIT_DOT(acc[r][0], a, b0);
            VIT_DOT(acc[r][1], a, b1);
            VIT_DOT(acc[r][2], a, b2);
            VIT_DOT(acc[r][3], a, b3);
        }
    }
}

/* What a row of accumulators needs on its way out. */
typedef struct {
    __m512i shift[4], left[4]; /* to the right; to the left, for VIT_TO_S16 */
    vit_bytes256 table;
    __mmask64 mask; /* columns that exist */
    const int16_t *other;
    size_t other_ld;
    char *y;
    size_t ld; /* bytes */
} outlet;

VIT_INLINE void store_bytes(char *y, __mmask64 mask, __m512i bytes)
{
    if (mask == ~(__mmask64)0) {
        _mm512_storeu_si512(y, bytes);
    } else {
        _mm512_mask_storeu_epi8(y, mask, bytes);
    }
}

VIT_INLINE void store_words(char *y, __mmask64 mask, __m512i low, __m512i high)
{
    if (mask == ~(__mmask64)0) {
        _mm512_storeu_si512(y, low);
        _mm512_storeu_si512(y + 64, high);
    } else {
        _mm512_mask_storeu_epi16(y, (__mmask32)mask, low);
        _mm512_mask_storeu_epi16(y + 64, (__mmask32)(mask >> 32), high);
    }
}

/* Sign-extended words 0..3 (high = 0) or 4..7 (high = 1) of every 128 bits. */
VIT_INLINE __m512i widen(__m512i words, int32_t high)
{
    const __m512i twice =
        high != 0 ? _mm512_unpackhi_epi16(words, words) : _mm512_unpacklo_epi16(words, words);
    return _mm512_srai_epi32(twice, 16);
}

VIT_INLINE void finish_row(vit_finish finish, const outlet *o, size_t row, const __m512i *acc)
{
    const __mmask64 mask = o->mask;
    char *y = o->y + row * o->ld;
    if (finish == VIT_BY_STAGES) {
        _mm512_store_si512(y, acc[0]);
        _mm512_store_si512(y + 64, acc[1]);
        _mm512_store_si512(y + 128, acc[2]);
        _mm512_store_si512(y + 192, acc[3]);
        return;
    }
    __m512i v0 = _mm512_srav_epi32(acc[0], o->shift[0]);
    __m512i v1 = _mm512_srav_epi32(acc[1], o->shift[1]);
    __m512i v2 = _mm512_srav_epi32(acc[2], o->shift[2]);
    __m512i v3 = _mm512_srav_epi32(acc[3], o->shift[3]);
    if (finish == VIT_TO_SUM) {
        const int16_t *other = o->other + row * o->other_ld;
        const __m512i low = _mm512_maskz_loadu_epi16((__mmask32)mask, other);
        const __m512i high = _mm512_maskz_loadu_epi16((__mmask32)(mask >> 32), other + 32);
        v0 = _mm512_add_epi32(v0, widen(low, 0));
        v1 = _mm512_add_epi32(v1, widen(low, 1));
        v2 = _mm512_add_epi32(v2, widen(high, 0));
        v3 = _mm512_add_epi32(v3, widen(high, 1));
    }
    if (finish == VIT_TO_S16) {
        v0 = _mm512_sllv_epi32(v0, o->left[0]);
        v1 = _mm512_sllv_epi32(v1, o->left[1]);
        v2 = _mm512_sllv_epi32(v2, o->left[2]);
        v3 = _mm512_sllv_epi32(v3, o->left[3]);
    }
    const __m512i low = _mm512_packs_epi32(v0, v1), high = _mm512_packs_epi32(v2, v3);
    if (finish == VIT_TO_S16 || finish == VIT_TO_SUM) {
        store_words(y, mask, low, high);
    } else if (finish == VIT_TO_S8) {
        store_bytes(y, mask, _mm512_packs_epi16(low, high));
    } else if (finish == VIT_TO_U8) {
        store_bytes(y, mask, _mm512_packus_epi16(low, high));
    } else {
        store_bytes(y, mask, vit_lookup(&o->table, _mm512_packus_epi16(low, high)));
    }
}

VIT_INLINE outlet outlet_of(vit_finish finish, const vit_packed_shape *p, const int8_t *w,
                            int32_t col, const vit_epilogue *e)
{
    outlet o;
    const size_t size = finish == VIT_TO_S16 || finish == VIT_TO_SUM ? 2 : 1;
    const size_t column = (size_t)(p->col + col);
    o.mask = vit_first64(p->n - col);
    for (int32_t j = 0; j < 4; ++j) {
        const __m512i zero = _mm512_setzero_si512();
        const __m512i shift = _mm512_load_si512(w + 4 * COLUMNS + 64 * j);
        o.shift[j] = _mm512_max_epi32(shift, zero);
        o.left[j] = _mm512_max_epi32(_mm512_sub_epi32(zero, shift), zero);
    }
    o.ld = (size_t)e->ld * size;
    o.y = (char *)e->y + (size_t)p->row * o.ld + column * size;
    if (finish == VIT_TO_SUM) {
        o.other_ld = (size_t)e->stages[0].other_ld;
        o.other = (const int16_t *)e->stages[0].other + (size_t)p->row * o.other_ld + column;
    } else {
        o.other_ld = 0;
        o.other = NULL;
    }
    if (finish == VIT_TO_TABLE) {
        o.table = vit_load_table(e->stages[1].table);
    }
    return o;
}

/* Rows r0 to r0 + rows of a column panel; result rows are counted from r0. While the first four
 * tiles are computed, the next panel comes nearer (behind the last one lie the weights of what
 * follows). */
VIT_INLINE void panel(vit_finish finish, const vit_packed_shape *p, int32_t r0, int32_t rows,
                      const uint8_t *x, const int8_t *w, const outlet *o)
{
    for (int32_t r = 0; r < rows; r += ROWS) {
        const uint8_t *row[ROWS]; /* the last one again where there are no more */
        for (int32_t i = 0; i < ROWS; ++i) {
            row[i] = x + (size_t)(r0 + vit_min32(r + i, rows - 1)) * (size_t)p->ld;
        }
        accumulators acc;
        multiply(p, row, w, r < 4 * ROWS ? panel_bytes(p) + 64 * (size_t)(r / ROWS) : 0, acc);
        for (int32_t i = 0; i < ROWS; ++i) {
            if (r + i < rows) {
                finish_row(finish, o, (size_t)(r + i), acc[i]);
            }
        }
    }
}

#define VIT_PANEL_OF(name, finish)                                                                 \
    static void name(const vit_packed_shape *p, const uint8_t *x, const int8_t *w, int32_t col,    \
                     const vit_epilogue *e)                                                        \
    {                                                                                              \
        const outlet o = outlet_of(finish, p, w, col, e);                                          \
        panel(finish, p, 0, p->m, x, w, &o);                                                       \
    }

VIT_PANEL_OF(panel_s8, VIT_TO_S8)
VIT_PANEL_OF(panel_u8, VIT_TO_U8)
VIT_PANEL_OF(panel_table, VIT_TO_TABLE)
VIT_PANEL_OF(panel_s16, VIT_TO_S16)
VIT_PANEL_OF(panel_sum, VIT_TO_SUM)

/* Accumulators to memory, then the stages one after the other. */
static void panel_stages(const vit_packed_shape *p, const uint8_t *x, const int8_t *w, int32_t col,
                         const vit_epilogue *e, int32_t *tile)
{
    const outlet o = {.y = (char *)tile, .ld = COLUMNS * 4};
    const int32_t cols = vit_min32(COLUMNS, p->n - col);
    for (int32_t r0 = 0; r0 < p->m; r0 += VIT_TILE_ROWS) {
        const int32_t rows = vit_min32(VIT_TILE_ROWS, p->m - r0);
        panel(VIT_BY_STAGES, p, r0, rows, x, w, &o);
        vit_epilogue_apply(e, tile, COLUMNS, p->row + r0, rows, p->col + col, cols);
    }
}

void vit_gemm_u8_avx512vnni(const vit_packed_shape *p, const uint8_t *x, const int8_t *w,
                            const vit_epilogue *e, int32_t *tile)
{
    for (int32_t col = 0; col < p->n; col += COLUMNS, w += panel_bytes(p)) {
        switch (p->finish) {
        case VIT_TO_S8:
            panel_s8(p, x, w, col, e);
            break;
        case VIT_TO_U8:
            panel_u8(p, x, w, col, e);
            break;
        case VIT_TO_TABLE:
            panel_table(p, x, w, col, e);
            break;
        case VIT_TO_S16:
            panel_s16(p, x, w, col, e);
            break;
        case VIT_TO_SUM:
            panel_sum(p, x, w, col, e);
            break;
        default:
            panel_stages(p, x, w, col, e, tile);
            break;
        }
    }
}
