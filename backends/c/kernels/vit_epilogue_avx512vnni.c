/* kernel: the stages of an epilogue on a tile of s32, AVX-512
 * layout: tile[rows][ld_tile], columns col0 .. col0 + cols of the result
 * in:     accumulators or loaded codes
 * out:    e->y[row * e->ld + column] of type e->type
 * method: one pass over the tile per stage, sixteen columns at a time; what 32 bits do not hold, and
 *         stages that are rare, are left to vit_stage_apply()
 * scratch: none
 */
#include "vit_avx512.h"

/* A tile on its way through the stages. */
typedef struct {
    int32_t *v;
    size_t ld;
    int32_t row0, rows, col0, cols;
    int64_t bound; /* no value is further from 0 */
} pass;

VIT_INLINE __mmask16 columns_from(const pass *t, int32_t c)
{
    return (__mmask16)vit_first64(t->cols - c);
}

VIT_INLINE __m512i load_lanes(const int32_t *per_column, int32_t scalar, int32_t at, __mmask16 mask)
{
    return per_column == NULL ? _mm512_set1_epi32(scalar)
                              : _mm512_maskz_loadu_epi32(mask, per_column + at);
}

/* Sixteen values of the tile; masks only where fewer are left, since masked stores are slow. */
VIT_INLINE __m512i load_values(const int32_t *v, __mmask16 mask)
{
    return mask == 0xffff ? _mm512_loadu_si512(v) : _mm512_maskz_loadu_epi32(mask, v);
}

VIT_INLINE void store_values(int32_t *v, __mmask16 mask, __m512i values)
{
    if (mask == 0xffff) {
        _mm512_storeu_si512(v, values);
    } else {
        _mm512_mask_storeu_epi32(v, mask, values);
    }
}

/* Least and greatest of a parameter over the columns of the tile. */
static void range_of(const int32_t *per_column, int32_t scalar, const pass *t, int32_t range[2])
{
    range[0] = range[1] = per_column == NULL ? scalar : per_column[t->col0];
    for (int32_t c = 1; per_column != NULL && c < t->cols; ++c) {
        const int32_t value = per_column[t->col0 + c];
        range[0] = value < range[0] ? value : range[0];
        range[1] = value > range[1] ? value : range[1];
    }
}

static int result_is_narrow(const vit_stage *s)
{
    const int32_t limit = 1 << 20;
    return s->lo >= -limit && s->hi <= limit && s->zp >= -limit && s->zp <= limit;
}

static void set_bound(const vit_stage *s, pass *t)
{
    t->bound = vit_max64(s->hi, -(int64_t)s->lo);
}

/* Rounding half up without a sum that could leave 32 bits. */
VIT_INLINE __m512i round_half_up(__m512i v, __m512i shift)
{
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i half = _mm512_srav_epi32(v, _mm512_sub_epi32(shift, one));
    return _mm512_add_epi32(_mm512_srav_epi32(v, shift), _mm512_and_si512(half, one));
}

VIT_INLINE __m512i saturate(__m512i v, const vit_stage *s)
{
    const __m512i lo = _mm512_set1_epi32(s->lo), hi = _mm512_set1_epi32(s->hi);
    return _mm512_min_epi32(_mm512_max_epi32(v, lo), hi);
}

/* round(v / 2^shift) for shifts of -8 to 31, right up to 2^22; what lies beyond stays beyond. */
VIT_INLINE __m512i shift_either_way(__m512i v, __m512i shift)
{
    const __m512i zero = _mm512_setzero_si512(), most = _mm512_set1_epi32(1 << 22);
    const __mmask16 right = _mm512_cmpgt_epi32_mask(shift, zero);
    const __m512i shifted = _mm512_mask_blend_epi32(right, v, round_half_up(v, shift));
    const __m512i near =
        _mm512_max_epi32(_mm512_min_epi32(shifted, most), _mm512_sub_epi32(zero, most));
    return _mm512_sllv_epi32(near, _mm512_max_epi32(_mm512_sub_epi32(zero, shift), zero));
}

/* Zero point and limits are no more than 2^20, so that 32 bits hold what is added after the shift. */
static int requant(const vit_stage *s, pass *t)
{
    int32_t shift[2];
    range_of(s->shift_c, s->shift, t, shift);
    if (s->rounding != VIT_RHU || s->zp_in != 0 || shift[0] < -8 || shift[1] > 31 ||
        !result_is_narrow(s)) {
        return 0;
    }
    const __m512i zp = _mm512_set1_epi32(s->zp);
    for (int32_t c = 0; c < t->cols; c += 16) {
        const __mmask16 mask = columns_from(t, c);
        const __m512i by = load_lanes(s->shift_c, s->shift, t->col0 + c, mask);
        int32_t *v = t->v + c;
        for (int32_t r = 0; r < t->rows; ++r, v += t->ld) {
            const __m512i value = load_values(v, mask);
            const __m512i shifted =
                shift[0] >= 1 ? round_half_up(value, by) : shift_either_way(value, by);
            store_values(v, mask, saturate(_mm512_add_epi32(shifted, zp), s));
        }
    }
    set_bound(s, t);
    return 1;
}

VIT_INLINE __m512i load_other(const vit_stage *s, size_t at, __mmask16 mask)
{
    if (s->other_type == VIT_S16) {
        const int16_t *x = (const int16_t *)s->other + at;
        return _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, x));
    }
    const __m128i bytes = _mm_maskz_loadu_epi8(mask, (const char *)s->other + at);
    return s->other_type == VIT_S8 ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
}

/* Whether a sum can be formed on its common grid within 31 bits. */
static int sum_fits(const vit_stage *s, const pass *t)
{
    int32_t left_v[2], left_o[2], shift[2];
    range_of(s->left_v_c, s->left_v, t, left_v);
    range_of(s->left_o_c, s->left_o, t, left_o);
    range_of(s->shift_c, s->shift, t, shift);
    if (left_v[0] < 0 || left_v[1] > 30 || left_o[0] < 0 || left_o[1] > 30 || shift[0] < 0 ||
        shift[1] > 30) {
        return 0;
    }
    const int64_t zp = vit_max64(s->zp_in, -(int64_t)s->zp_in);
    const int64_t other_zp = vit_max64(s->other_zp, -(int64_t)s->other_zp);
    return (t->bound + zp) * ((int64_t)1 << left_v[1]) +
               (65536 + other_zp) * ((int64_t)1 << left_o[1]) + ((int64_t)1 << 29) <
           (int64_t)1 << 31;
}

static int add(const vit_stage *s, pass *t)
{
    if (s->rounding != VIT_RHU || !result_is_narrow(s) || s->other_zp < -65536 ||
        s->other_zp > 65536 ||
        (s->other_type != VIT_S16 && s->other_type != VIT_S8 && s->other_type != VIT_U8) ||
        t->bound > 1 << 30 || !sum_fits(s, t)) {
        return 0;
    }
    const __m512i zp = _mm512_set1_epi32(s->zp), one = _mm512_set1_epi32(1);
    const __m512i zp_in = _mm512_set1_epi32(s->zp_in), other_zp = _mm512_set1_epi32(s->other_zp);
    for (int32_t c = 0; c < t->cols; c += 16) {
        const __mmask16 mask = columns_from(t, c);
        const int32_t col = t->col0 + c;
        const __m512i shift = load_lanes(s->shift_c, s->shift, col, mask);
        const __m512i left_v = load_lanes(s->left_v_c, s->left_v, col, mask);
        const __m512i left_o = load_lanes(s->left_o_c, s->left_o, col, mask);
        const __m512i half = _mm512_srli_epi32(_mm512_sllv_epi32(one, shift), 1);
        int32_t *v = t->v + c;
        for (int32_t r = 0; r < t->rows; ++r, v += t->ld) {
            const size_t at = vit_other_index(s, t->row0 + r, col);
            const __m512i mine = _mm512_sub_epi32(load_values(v, mask), zp_in);
            const __m512i other = _mm512_sub_epi32(load_other(s, at, mask), other_zp);
            const __m512i sum = _mm512_add_epi32(_mm512_sllv_epi32(mine, left_v),
                                                 _mm512_sllv_epi32(other, left_o));
            const __m512i shifted = _mm512_srav_epi32(_mm512_add_epi32(sum, half), shift);
            store_values(v, mask, saturate(_mm512_add_epi32(shifted, zp), s));
        }
    }
    set_bound(s, t);
    return 1;
}

/* Tables of bytes: the lowest byte of a lane is the index. */
static int lut(const vit_stage *s, pass *t)
{
    if (s->table_type != VIT_S8 && s->table_type != VIT_U8) {
        return 0;
    }
    const vit_bytes256 table = vit_load_table(s->table);
    const __m512i least = _mm512_set1_epi32(s->lut_min), low = _mm512_set1_epi32(255);
    for (int32_t c = 0; c < t->cols; c += 16) {
        const __mmask16 mask = columns_from(t, c);
        int32_t *v = t->v + c;
        for (int32_t r = 0; r < t->rows; ++r, v += t->ld) {
            const __m512i index = _mm512_sub_epi32(load_values(v, mask), least);
            const __m512i found = vit_lookup(&table, _mm512_and_si512(index, low));
            const __m512i code =
                s->table_type == VIT_U8
                    ? _mm512_and_si512(found, low)
                    : _mm512_srai_epi32(_mm512_slli_epi32(found, 24), 24);
            store_values(v, mask, code);
        }
    }
    t->bound = 255;
    return 1;
}

/* Interpolation: an entry and the next one come with one 32-bit access. */
static int lut16(const vit_stage *s, pass *t)
{
    const __m512i least = _mm512_set1_epi32(s->lut_min), low = _mm512_set1_epi32(255);
    for (int32_t c = 0; c < t->cols; c += 16) {
        const __mmask16 mask = columns_from(t, c);
        int32_t *v = t->v + c;
        for (int32_t r = 0; r < t->rows; ++r, v += t->ld) {
            const __m512i code = _mm512_sub_epi32(load_values(v, mask), least);
            const __m512i index = _mm512_and_si512(_mm512_srli_epi32(code, 8), low);
            const __m512i pair = _mm512_mask_i32gather_epi32(code, mask, index, s->table, 2);
            const __m512i first = _mm512_srai_epi32(_mm512_slli_epi32(pair, 16), 16);
            const __m512i slope = _mm512_sub_epi32(_mm512_srai_epi32(pair, 16), first);
            const __m512i part = _mm512_mullo_epi32(slope, _mm512_and_si512(code, low));
            const __m512i rounded = round_half_up(part, _mm512_set1_epi32(8));
            store_values(v, mask, _mm512_add_epi32(first, rounded));
        }
    }
    t->bound = 1 << 16;
    return 1;
}

static int clamp(const vit_stage *s, pass *t)
{
    for (int32_t c = 0; c < t->cols; c += 16) {
        const __mmask16 mask = columns_from(t, c);
        int32_t *v = t->v + c;
        for (int32_t r = 0; r < t->rows; ++r, v += t->ld) {
            store_values(v, mask, saturate(load_values(v, mask), s));
        }
    }
    set_bound(s, t);
    return 1;
}

static int apply(const vit_stage *s, pass *t)
{
    switch (s->kind) {
    case VIT_REQUANT:
        return requant(s, t);
    case VIT_ADD:
        return add(s, t);
    case VIT_LUT:
        return lut(s, t);
    case VIT_LUT16:
        return lut16(s, t);
    case VIT_CLAMP:
        return clamp(s, t);
    default:
        return 0;
    }
}

static void store(const vit_epilogue *e, const pass *t)
{
    const size_t size = vit_type_size(e->type);
    for (int32_t r = 0; r < t->rows; ++r) {
        const int32_t *v = t->v + (size_t)r * t->ld;
        const size_t first = (size_t)(t->row0 + r) * (size_t)e->ld + (size_t)t->col0;
        if (size > 2) {
            vit_store_s32(v, t->cols, e->y, e->type, first);
            continue;
        }
        char *y = (char *)e->y + first * size;
        for (int32_t c = 0; c < t->cols; c += 16) {
            const __mmask16 mask = columns_from(t, c);
            const __m512i code = load_values(v + c, mask);
            if (size == 1 && mask == 0xffff) {
                _mm_storeu_si128((__m128i *)(void *)(y + c), _mm512_cvtepi32_epi8(code));
            } else if (size == 1) {
                _mm_mask_storeu_epi8(y + c, mask, _mm512_cvtepi32_epi8(code));
            } else if (mask == 0xffff) {
                _mm256_storeu_si256((__m256i *)(void *)(y + 2 * c), _mm512_cvtepi32_epi16(code));
            } else {
                _mm256_mask_storeu_epi16(y + 2 * c, mask, _mm512_cvtepi32_epi16(code));
            }
        }
    }
}

void vit_epilogue_apply_avx512vnni(const vit_epilogue *e, int32_t *tile, int32_t ld_tile,
                                   int32_t row0, int32_t rows, int32_t col0, int32_t cols)
{
    pass t = {.v = tile,
              .ld = (size_t)ld_tile,
              .row0 = row0,
              .rows = rows,
              .col0 = col0,
              .cols = cols,
              .bound = INT64_C(1) << 31};
    for (int32_t i = 0; i < e->count; ++i) {
        const vit_stage *s = &e->stages[i];
        if (!apply(s, &t)) {
            vit_stage_apply(s, tile, ld_tile, row0, rows, col0, cols);
            t.bound = s->lo < s->hi ? vit_max64(s->hi, -(int64_t)s->lo) : INT64_C(1) << 31;
        }
    }
    store(e, &t);
}
