/* kernel: matrix product u8 x s8 with packed weights, epilogue in registers
 * layout: x[m] rows of ceil(k / 4) * 4 bytes, p->ld apart; w: per 64 columns a panel of init[64] s32,
 *         shift[64] s32 and [ceil(k / 4)][64][4] s8, columns in the order in which the packing
 *         instructions give them back (backends/c/packing.py); a last panel of up to 32 columns is
 *         one of 32; result rows at p->row, columns at p->col of the epilogue's result
 * in:     codes of x as they are; zero point, bias and rounding constant are part of `init`
 * out:    the epilogue's type; the stages that `finish` names have been checked and folded by the
 *         packing, any others run on tiles in scratch
 * method: tiles of 6 x 64 accumulators in 24 registers, or 8 x 32 in 16, the last ones a row lower;
 *         a column panel stays in the first- or second-level cache while all rows pass
 * bounds: partial sums are taken modulo 2^32, final ones are proven to fit at packing
 * scratch: VIT_TILE_ROWS * 64 * 4 bytes for VIT_BY_STAGES, else none
 */
#include "vit_avx512_finish.h"

enum { MOST_ROWS = 8 };

typedef __m512i accumulators[MOST_ROWS][4];

/* Rows of a tile of some vectors. */
VIT_INLINE int32_t tile_rows(int32_t vectors)
{
    return vectors == 4 ? 6 : MOST_ROWS;
}

/* `ahead` bytes behind the weights in use, one line a step is fetched into the second-level cache. */
VIT_INLINE void multiply(int32_t vectors, int32_t rows, const vit_packed_shape *p,
                         const uint8_t *const *x, const int8_t *w, size_t ahead, accumulators acc)
{
    for (int32_t r = 0; r < rows; ++r) {
        for (int32_t j = 0; j < vectors; ++j) {
            acc[r][j] = _mm512_load_si512(w + 64 * j);
        }
    }
    w += 128 * vectors;
    for (size_t k = 0; k < (size_t)p->k; k += 4, w += 64 * vectors) {
        __m512i b[4];
        for (int32_t j = 0; j < vectors; ++j) {
            b[j] = _mm512_load_si512(w + 64 * j);
        }
        _mm_prefetch((const char *)w + ahead, _MM_HINT_T1);
        for (int32_t r = 0; r < rows; ++r) {
            const __m512i a = vit_repeat4(x[r] + k);
            for (int32_t j = 0; j < vectors; ++j) {
                VIT_DOT(acc[r][j], a, b[j]);
            }
        }
    }
}

/* Shifts of a stage for the columns of two accumulators. */
VIT_INLINE void load_shifts(const vit_stage *s, int32_t column, __mmask32 mask, __m512i shift[2])
{
    __m512i v[2];
    for (int32_t i = 0; i < 2; ++i) {
        v[i] = s->shift_c == NULL ? _mm512_set1_epi32(s->shift)
                                  : _mm512_maskz_loadu_epi32((__mmask16)(mask >> (16 * i)),
                                                             s->shift_c + column + 16 * i);
    }
    shift[0] = _mm512_shuffle_i32x4(v[0], v[1], 0x88);
    shift[1] = _mm512_shuffle_i32x4(v[0], v[1], 0xdd);
}

/* Rounding constant and zero point of a requantisation, on the grid of accumulators. */
VIT_INLINE __m512i constant_of(const vit_stage *s, __m512i shift)
{
    const __m512i right = _mm512_max_epi32(shift, _mm512_setzero_si512());
    const __m512i half = _mm512_srli_epi32(_mm512_sllv_epi32(_mm512_set1_epi32(1), right), 1);
    return _mm512_add_epi32(half, _mm512_sllv_epi32(_mm512_set1_epi32(s->zp), right));
}

/* What a sum, or the second branch, needs on its way to words. */
static void set_words(vit_outlet *o, int32_t vectors, const vit_epilogue *e, int32_t column)
{
    const __m512i zero = _mm512_setzero_si512();
    if (e->count > 0) {
        const vit_stage *s = &e->stages[0];
        const int32_t left = s->left_o_c == NULL ? s->left_o : s->left_o_c[column];
        const int32_t down = (s->shift_c == NULL ? s->shift : s->shift_c[column]) - left;
        o->up = _mm_cvtsi32_si128(down < 0 ? -down : 0);
        o->down = _mm_cvtsi32_si128(down > 0 ? down : 0);
        return;
    }
    const vit_stage *first = e->branch[0].stages, *second = e->branch[1].stages;
    for (int32_t j = 0; j < vectors; j += 2) {
        const __mmask32 mask = (__mmask32)(o->mask >> (16 * j));
        __m512i own[2], shift[2];
        load_shifts(first, column + 16 * j, mask, own);
        load_shifts(second, column + 16 * j, mask, shift);
        for (int32_t i = 0; i < 2; ++i) {
            o->more[j + i] =
                _mm512_sub_epi32(constant_of(second, shift[i]), constant_of(first, own[i]));
            o->shift2[j + i] = _mm512_max_epi32(shift[i], zero);
            o->left2[j + i] = _mm512_max_epi32(_mm512_sub_epi32(zero, shift[i]), zero);
        }
    }
}

VIT_INLINE vit_outlet outlet_of(int32_t vectors, vit_finish finish, const vit_packed_shape *p,
                                const int8_t *w, int32_t col, const vit_epilogue *e)
{
    vit_outlet o = {.mask = 0};
    const int sums = finish == VIT_TO_SUM ||
                     (finish == VIT_TO_WORDS && e->count > 0 && e->stages[0].kind == VIT_ADD);
    const size_t size = finish == VIT_TO_S16 || finish == VIT_TO_SUM ? 2 : 1;
    const size_t column = (size_t)(p->col + col);
    o.mask = vit_first64(p->n - col);
    for (int32_t j = 0; j < vectors; ++j) {
        vit_set_shift(&o, j, w + 64 * (vectors + j));
    }
    o.ld = (size_t)e->ld * size;
    o.y = (char *)e->y + (size_t)p->row * o.ld + column * size;
    if (sums) {
        o.other_ld = (size_t)e->stages[0].other_ld;
        o.other = (const int16_t *)e->stages[0].other + (size_t)p->row * o.other_ld + column;
    } else {
        o.other_ld = 0;
        o.other = NULL;
    }
    if (finish == VIT_TO_TABLE) {
        o.table = vit_load_table(e->stages[1].table);
    }
    if (finish == VIT_TO_WORDS) {
        set_words(&o, vectors, e, (int32_t)column);
    }
    return o;
}

/* The rows of a tile through what follows in 16 bits. */
VIT_INLINE void words_of(int32_t vectors, int32_t height, const vit_outlet *o, int32_t r,
                         int32_t rows, accumulators acc)
{
    const int32_t pairs = vectors / 2;
    __m512i words[2 * MOST_ROWS], second[2 * MOST_ROWS];
    /* No loop, so that the accumulators are never an array in memory. */
#define VIT_WORDS(i)                                                                               \
    if (i < height) {                                                                              \
        const size_t row = (size_t)(r + vit_min32(i, rows - 1));                                   \
        words[i * pairs] = vit_to_words(o, row, 0, acc[i][0], acc[i][1]);                          \
        if (pairs == 2) {                                                                          \
            words[i * pairs + 1] = vit_to_words(o, row, 2, acc[i][2], acc[i][3]);                  \
        }                                                                                          \
        if (o->split) {                                                                            \
            second[i * pairs] = vit_to_second(o, 0, acc[i][0], acc[i][1]);                         \
            if (pairs == 2) {                                                                      \
                second[i * pairs + 1] = vit_to_second(o, 2, acc[i][2], acc[i][3]);                 \
            }                                                                                      \
        }                                                                                          \
    }
    VIT_WORDS(0)
    VIT_WORDS(1)
    VIT_WORDS(2)
    VIT_WORDS(3)
    VIT_WORDS(4)
    VIT_WORDS(5)
    VIT_WORDS(6)
    VIT_WORDS(7)
#undef VIT_WORDS
    vit_apply_words_avx512vnni(o->words, (size_t)r, rows, pairs, o->mask, words, second);
}

/* Rows first to last of those from r0 on, in tiles of one height. While the first four tiles are
 * computed, the next panel comes nearer (behind the last one lie the weights of what follows). */
VIT_INLINE void tiles(int32_t vectors, int32_t height, vit_finish finish, const vit_packed_shape *p,
                      int32_t r0, int32_t first, int32_t last, const uint8_t *x, const int8_t *w,
                      const vit_outlet *o)
{
    for (int32_t r = first; r < last; r += height) {
        const uint8_t *row[MOST_ROWS]; /* the last one again where there are no more */
        for (int32_t i = 0; i < height; ++i) {
            row[i] = x + (size_t)(r0 + vit_min32(r + i, last - 1)) * (size_t)p->ld;
        }
        const size_t next = vit_panel_bytes(p->k) + 64 * (size_t)(r / height);
        accumulators acc;
        multiply(vectors, height, p, row, w, r < 4 * height ? next : 0, acc);
        if (finish == VIT_TO_WORDS) {
            words_of(vectors, height, o, r, vit_min32(height, last - r), acc);
            continue;
        }
        for (int32_t i = 0; i < height; ++i) {
            if (r + i < last) {
                vit_finish_row(vectors, finish, o, (size_t)(r + i), acc[i]);
            }
        }
    }
}

/* Rows r0 to r0 + rows of a column panel; result rows are counted from r0. The last tiles have a row
 * less each if that leaves no row over. */
VIT_INLINE void panel(int32_t vectors, vit_finish finish, const vit_packed_shape *p, int32_t r0,
                      int32_t rows, const uint8_t *x, const int8_t *w, const vit_outlet *o)
{
    const int32_t height = tile_rows(vectors), missing = (height - rows % height) % height;
    const int32_t lower = missing * (height - 1) <= rows ? missing * (height - 1) : 0;
    tiles(vectors, height, finish, p, r0, 0, rows - lower, x, w, o);
    tiles(vectors, height - 1, finish, p, r0, rows - lower, rows, x, w, o);
}

#define VIT_PANEL_OF(name, vectors, finish)                                                        \
    static void name(const vit_packed_shape *p, const uint8_t *x, const int8_t *w, int32_t col,    \
                     const vit_epilogue *e)                                                        \
    {                                                                                              \
        const vit_outlet o = outlet_of(vectors, finish, p, w, col, e);                             \
        panel(vectors, finish, p, 0, p->m, x, w, &o);                                              \
    }

VIT_PANEL_OF(panel_s8, 4, VIT_TO_S8)
VIT_PANEL_OF(half_s8, 2, VIT_TO_S8)
VIT_PANEL_OF(panel_u8, 4, VIT_TO_U8)
VIT_PANEL_OF(half_u8, 2, VIT_TO_U8)
VIT_PANEL_OF(panel_table, 4, VIT_TO_TABLE)
VIT_PANEL_OF(half_table, 2, VIT_TO_TABLE)
VIT_PANEL_OF(panel_s16, 4, VIT_TO_S16)
VIT_PANEL_OF(half_s16, 2, VIT_TO_S16)
VIT_PANEL_OF(panel_sum, 4, VIT_TO_SUM)
VIT_PANEL_OF(half_sum, 2, VIT_TO_SUM)

#define VIT_WORDS_OF(name, vectors)                                                                \
    static void name(const vit_packed_shape *p, const uint8_t *x, const int8_t *w, int32_t col,    \
                     const vit_epilogue *e)                                                        \
    {                                                                                              \
        vit_word_plan plan;                                                                        \
        vit_outlet o = outlet_of(vectors, VIT_TO_WORDS, p, w, col, e);                             \
        o.split = e->count == 0;                                                                   \
        o.words = &plan;                                                                           \
        vit_plan_words_avx512vnni(e, p->row, p->col + col, o.split, &plan);                        \
        panel(vectors, VIT_TO_WORDS, p, 0, p->m, x, w, &o);                                        \
    }

VIT_WORDS_OF(panel_words, 4)
VIT_WORDS_OF(half_words, 2)

/* Accumulators to memory, then the stages one after the other. */
#define VIT_STAGES_OF(name, vectors)                                                               \
    static void name(const vit_packed_shape *p, const uint8_t *x, const int8_t *w, int32_t col,    \
                     const vit_epilogue *e, int32_t *tile)                                         \
    {                                                                                              \
        const vit_outlet o = {.y = (char *)tile, .ld = VIT_COLUMNS * 4};                           \
        const int32_t cols = vit_min32(VIT_COLUMNS, p->n - col);                                   \
        for (int32_t r0 = 0; r0 < p->m; r0 += VIT_TILE_ROWS) {                                     \
            const int32_t rows = vit_min32(VIT_TILE_ROWS, p->m - r0);                              \
            panel(vectors, VIT_BY_STAGES, p, r0, rows, x, w, &o);                                  \
            vit_epilogue_apply_avx512vnni(e, INT64_C(1) << 31, tile, VIT_COLUMNS, p->row + r0,     \
                                          rows, p->col + col, cols);                               \
        }                                                                                          \
    }

VIT_STAGES_OF(panel_stages, 4)
VIT_STAGES_OF(half_stages, 2)

void vit_gemm_u8_avx512vnni(const vit_packed_shape *p, const uint8_t *x, const int8_t *w,
                            const vit_epilogue *e, int32_t *tile)
{
    for (int32_t col = 0; col < p->n; col += VIT_COLUMNS, w += vit_panel_bytes(p->k), x += p->step) {
        const int half = p->n - col <= VIT_COLUMNS / 2;
        switch (p->finish) {
        case VIT_TO_S8:
            (half ? half_s8 : panel_s8)(p, x, w, col, e);
            break;
        case VIT_TO_U8:
            (half ? half_u8 : panel_u8)(p, x, w, col, e);
            break;
        case VIT_TO_TABLE:
            (half ? half_table : panel_table)(p, x, w, col, e);
            break;
        case VIT_TO_S16:
            (half ? half_s16 : panel_s16)(p, x, w, col, e);
            break;
        case VIT_TO_SUM:
            (half ? half_sum : panel_sum)(p, x, w, col, e);
            break;
        case VIT_TO_WORDS:
            (half ? half_words : panel_words)(p, x, w, col, e);
            break;
        default:
            (half ? half_stages : panel_stages)(p, x, w, col, e, tile);
            break;
        }
    }
}
