/* kernel: an epilogue on a tile of s32, AVX-512
 * layout: tile[rows][ld_tile], columns col0 .. col0 + cols of the result
 * in:     accumulators or loaded codes
 * out:    e->y[row * e->ld + column] of type e->type, and what the branches store
 * method: stages become a short list of steps whose parameters are vectors; sixteen columns of four
 *         rows go through all of them in registers. What 32 bits do not hold, and stages that are
 *         rare, are left to vit_epilogue_apply()
 * scratch: none
 */
#include "vit_avx512.h"

enum { MAX_STEPS = 12, ROWS = 4 };

typedef enum { ROUND_ANY, ROUND, EITHER_WAY, ADD, LUT, LUT16, CLAMP, STORE, KEEP, BACK } step_kind;

/* A stage, or a store, or the start of a branch (KEEP sets aside what is there, BACK returns to it). */
typedef struct {
    step_kind kind;
    const vit_stage *stage;
    const vit_epilogue *target; /* of a store */
    vit_bytes256 table;         /* LUT */
    __m512i shift, constant;    /* constant: added before the shift, with the zero point on its grid */
    __m512i left_v, left_o;     /* ADD */
    __m512i lo, hi;
} step;

typedef struct {
    int32_t count;
    step steps[MAX_STEPS];
    int32_t row0, col0, cols;
} plan;

VIT_INLINE __m512i load_lanes(const int32_t *per_column, int32_t scalar, int32_t at, __mmask16 mask)
{
    return per_column == NULL ? _mm512_set1_epi32(scalar)
                              : _mm512_maskz_loadu_epi32(mask, per_column + at);
}

/* Least and greatest of a parameter over the columns of the tile. */
static void range_of(const int32_t *per_column, int32_t scalar, const plan *p, int32_t range[2])
{
    range[0] = range[1] = scalar;
    if (per_column == NULL) {
        return;
    }
    __m512i least = _mm512_set1_epi32(per_column[p->col0]), most = least;
    for (int32_t c = 0; c < p->cols; c += 16) {
        const __mmask16 mask = (__mmask16)vit_first64(p->cols - c);
        const __m512i v = _mm512_mask_loadu_epi32(least, mask, per_column + p->col0 + c);
        least = _mm512_min_epi32(least, v);
        most = _mm512_max_epi32(most, v);
    }
    range[0] = _mm512_reduce_min_epi32(least);
    range[1] = _mm512_reduce_max_epi32(most);
}

/* ---- which stages 32 bits hold -------------------------------------------------------------- */

static int result_is_narrow(const vit_stage *s)
{
    const int32_t limit = 1 << 20;
    return s->lo >= -limit && s->hi <= limit && s->zp >= -limit && s->zp <= limit;
}

static int64_t magnitude(int64_t x)
{
    return x < 0 ? -x : x;
}

/* Shifts to the right only may have their rounding constant and zero point added before. */
static int plan_requant(const vit_stage *s, const plan *p, int64_t bound, step *to)
{
    int32_t shift[2];
    range_of(s->shift_c, s->shift, p, shift);
    if (s->rounding != VIT_RHU || s->zp_in != 0 || shift[0] < -8 || shift[1] > 31 ||
        !result_is_narrow(s)) {
        return 0;
    }
    const int64_t added = (magnitude(s->zp) + 1) * ((int64_t)1 << (shift[1] < 0 ? 0 : shift[1]));
    to->kind = shift[0] < 1 ? EITHER_WAY : (bound + added < (int64_t)1 << 31 ? ROUND : ROUND_ANY);
    return 1;
}

/* A sum must fit on its common grid, with rounding constant and zero point. */
static int plan_add(const vit_stage *s, const plan *p, int64_t bound, step *to)
{
    int32_t left_v[2], left_o[2], shift[2];
    range_of(s->left_v_c, s->left_v, p, left_v);
    range_of(s->left_o_c, s->left_o, p, left_o);
    range_of(s->shift_c, s->shift, p, shift);
    if (s->rounding != VIT_RHU || !result_is_narrow(s) || magnitude(s->other_zp) > 65536 ||
        magnitude(s->zp_in) > 65536 ||
        (s->other_type != VIT_S16 && s->other_type != VIT_S8 && s->other_type != VIT_U8) ||
        bound > 1 << 30 || left_v[0] < 0 || left_v[1] > 30 || left_o[0] < 0 || left_o[1] > 30 ||
        shift[0] < 0 || shift[1] > 30) {
        return 0;
    }
    to->kind = ADD;
    return (bound + magnitude(s->zp_in)) * ((int64_t)1 << left_v[1]) +
               (65536 + magnitude(s->other_zp)) * ((int64_t)1 << left_o[1]) +
               (magnitude(s->zp) + 1) * ((int64_t)1 << shift[1]) <
           (int64_t)1 << 31;
}

static int plan_lut(const vit_stage *s, step *to)
{
    if (s->table_type != VIT_S8 && s->table_type != VIT_U8) {
        return 0;
    }
    to->kind = LUT;
    to->table = vit_load_table(s->table);
    return 1;
}

/* Whether a stage is one of the steps; `bound`: no value before, then after, is further from 0. */
static int plan_stage(const vit_stage *s, const plan *p, int64_t *bound, step *to)
{
    const int64_t before = *bound;
    *bound = vit_max64(s->hi, -(int64_t)s->lo);
    to->stage = s;
    switch (s->kind) {
    case VIT_REQUANT:
        return plan_requant(s, p, before, to);
    case VIT_ADD:
        return plan_add(s, p, before, to);
    case VIT_LUT:
        *bound = 255;
        return plan_lut(s, to);
    case VIT_LUT16:
        *bound = 1 << 16;
        to->kind = LUT16;
        return 1;
    case VIT_CLAMP:
        to->kind = CLAMP;
        return 1;
    default:
        return 0;
    }
}

/* Appends the stages of an epilogue and its store. */
static int plan_epilogue(const vit_epilogue *e, plan *p, int64_t *bound)
{
    for (int32_t i = 0; i < e->count; ++i) {
        if (p->count == MAX_STEPS || !plan_stage(&e->stages[i], p, bound, &p->steps[p->count++])) {
            return 0;
        }
    }
    if (e->y == NULL) {
        return 1;
    }
    if (p->count == MAX_STEPS) {
        return 0;
    }
    p->steps[p->count].kind = STORE;
    p->steps[p->count++].target = e;
    return 1;
}

static int plan_all(const vit_epilogue *e, int64_t bound, plan *p)
{
    if (!plan_epilogue(e, p, &bound)) {
        return 0;
    }
    for (int32_t i = 0; i < e->branches; ++i) {
        if (p->count == MAX_STEPS || e->branch[i].branches > 0) {
            return 0;
        }
        if (i > 0 || e->branches > 1) {
            p->steps[p->count++].kind = i == 0 ? KEEP : BACK;
        }
        int64_t own = bound;
        if (!plan_epilogue(&e->branch[i], p, &own)) {
            return 0;
        }
    }
    return 1;
}

/* ---- the steps ------------------------------------------------------------------------------ */

/* The parameters of all steps for sixteen columns. */
static void load_parameters(plan *p, int32_t c, __mmask16 mask)
{
    const __m512i zero = _mm512_setzero_si512(), one = _mm512_set1_epi32(1);
    const int32_t at = p->col0 + c;
    for (int32_t i = 0; i < p->count; ++i) {
        step *to = &p->steps[i];
        const vit_stage *s = to->stage;
        if (to->kind >= STORE) {
            continue;
        }
        to->lo = _mm512_set1_epi32(s->lo);
        to->hi = _mm512_set1_epi32(s->hi);
        to->shift = load_lanes(s->shift_c, s->shift, at, mask);
        const __m512i whole = _mm512_sllv_epi32(_mm512_set1_epi32(s->zp), to->shift);
        const __m512i half = _mm512_srli_epi32(_mm512_sllv_epi32(one, to->shift), 1);
        to->constant = _mm512_add_epi32(whole, half);
        if (to->kind == ROUND_ANY || to->kind == EITHER_WAY) {
            to->constant = _mm512_set1_epi32(s->zp);
        } else if (to->kind == ADD) {
            to->left_v = load_lanes(s->left_v_c, s->left_v, at, mask);
            to->left_o = load_lanes(s->left_o_c, s->left_o, at, mask);
            const __m512i own = _mm512_sllv_epi32(_mm512_set1_epi32(s->zp_in), to->left_v);
            const __m512i other = _mm512_sllv_epi32(_mm512_set1_epi32(s->other_zp), to->left_o);
            const __m512i points = _mm512_sub_epi32(zero, _mm512_add_epi32(own, other));
            to->constant = _mm512_add_epi32(to->constant, points);
        }
    }
}

/* Rounding half up without a sum that could leave 32 bits. */
VIT_INLINE __m512i round_half_up(__m512i v, __m512i shift)
{
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i half = _mm512_srav_epi32(v, _mm512_sub_epi32(shift, one));
    return _mm512_add_epi32(_mm512_srav_epi32(v, shift), _mm512_and_si512(half, one));
}

VIT_INLINE __m512i saturate(__m512i v, const step *s)
{
    return _mm512_min_epi32(_mm512_max_epi32(v, s->lo), s->hi);
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

VIT_INLINE __m512i load_other(const vit_stage *s, size_t at, __mmask16 mask)
{
    if (s->other_type == VIT_S16) {
        const int16_t *x = (const int16_t *)s->other + at;
        return _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, x));
    }
    const __m128i bytes = _mm_maskz_loadu_epi8(mask, (const char *)s->other + at);
    return s->other_type == VIT_S8 ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes);
}

VIT_INLINE __m512i add_other(const step *s, size_t at, __mmask16 mask, __m512i v)
{
    const __m512i other = _mm512_sllv_epi32(load_other(s->stage, at, mask), s->left_o);
    const __m512i sum = _mm512_add_epi32(_mm512_sllv_epi32(v, s->left_v), other);
    return saturate(_mm512_srav_epi32(_mm512_add_epi32(sum, s->constant), s->shift), s);
}

/* Tables of bytes: the lowest byte of a lane is the index. */
VIT_INLINE __m512i look_up(const step *s, __m512i v)
{
    const __m512i low = _mm512_set1_epi32(255);
    const __m512i index = _mm512_sub_epi32(v, _mm512_set1_epi32(s->stage->lut_min));
    const __m512i found = vit_lookup(&s->table, _mm512_and_si512(index, low));
    return s->stage->table_type == VIT_U8 ? _mm512_and_si512(found, low)
                                          : _mm512_srai_epi32(_mm512_slli_epi32(found, 24), 24);
}

/* Interpolation: an entry in the lower half of a lane, the next one in the upper half. */
VIT_INLINE __m512i interpolate(const step *s, __m512i v)
{
    const __m512i low = _mm512_set1_epi32(255);
    const __m512i code = _mm512_sub_epi32(v, _mm512_set1_epi32(s->stage->lut_min));
    const __m512i index = _mm512_and_si512(_mm512_srli_epi32(code, 8), low);
    const __m512i next = _mm512_slli_epi32(_mm512_add_epi32(index, _mm512_set1_epi32(1)), 16);
    const __m512i pair = vit_words_at((const int16_t *)s->stage->table, _mm512_or_si512(index, next));
    const __m512i first = _mm512_srai_epi32(_mm512_slli_epi32(pair, 16), 16);
    const __m512i slope = _mm512_sub_epi32(_mm512_srai_epi32(pair, 16), first);
    const __m512i part = _mm512_mullo_epi32(slope, _mm512_and_si512(code, low));
    return _mm512_add_epi32(first, round_half_up(part, _mm512_set1_epi32(8)));
}

VIT_INLINE void store(const vit_epilogue *e, size_t at, __mmask16 mask, __m512i v)
{
    const size_t size = vit_type_size(e->type);
    char *y = (char *)e->y + at * size;
    if (size == 1 && mask == 0xffff) {
        _mm_storeu_si128((__m128i *)(void *)y, _mm512_cvtepi32_epi8(v));
    } else if (size == 1) {
        _mm_mask_storeu_epi8(y, mask, _mm512_cvtepi32_epi8(v));
    } else if (size == 2 && mask == 0xffff) {
        _mm256_storeu_si256((__m256i *)(void *)y, _mm512_cvtepi32_epi16(v));
    } else if (size == 2) {
        _mm256_mask_storeu_epi16(y, mask, _mm512_cvtepi32_epi16(v));
    } else {
        _mm512_mask_storeu_epi32(y, mask, v);
    }
}

/* Sixteen columns of `rows` rows, from row r and column c of the tile on. */
VIT_INLINE void run(const plan *p, const int32_t *tile, size_t ld, int32_t r, int32_t c,
                    __mmask16 mask, int32_t rows)
{
    __m512i v[ROWS], kept[ROWS];
    const int32_t row0 = p->row0 + r, col = p->col0 + c;
    for (int32_t i = 0; i < rows; ++i) {
        kept[i] = v[i] = _mm512_maskz_loadu_epi32(mask, tile + (size_t)(r + i) * ld + (size_t)c);
    }
#define VIT_EACH(expression)                                                                       \
    for (int32_t i = 0; i < rows; ++i) {                                                           \
        v[i] = expression;                                                                         \
    }                                                                                              \
    break
    for (const step *s = p->steps, *end = s + p->count; s < end; ++s) {
        switch (s->kind) {
        case ROUND_ANY:
            VIT_EACH(saturate(_mm512_add_epi32(round_half_up(v[i], s->shift), s->constant), s));
        case ROUND:
            VIT_EACH(saturate(_mm512_srav_epi32(_mm512_add_epi32(v[i], s->constant), s->shift), s));
        case EITHER_WAY:
            VIT_EACH(saturate(_mm512_add_epi32(shift_either_way(v[i], s->shift), s->constant), s));
        case ADD:
            VIT_EACH(add_other(s, vit_other_index(s->stage, row0 + i, col), mask, v[i]));
        case LUT:
            VIT_EACH(look_up(s, v[i]));
        case LUT16:
            VIT_EACH(interpolate(s, v[i]));
        case CLAMP:
            VIT_EACH(saturate(v[i], s));
        case STORE:
            for (int32_t i = 0; i < rows; ++i) {
                store(s->target, (size_t)(row0 + i) * (size_t)s->target->ld + (size_t)col, mask,
                      v[i]);
            }
            break;
        case KEEP:
            for (int32_t i = 0; i < rows; ++i) {
                kept[i] = v[i];
            }
            break;
        default:
            VIT_EACH(kept[i]);
        }
    }
#undef VIT_EACH
}

void vit_epilogue_apply_avx512vnni(const vit_epilogue *e, int64_t bound, int32_t *tile,
                                   int32_t ld_tile, int32_t row0, int32_t rows, int32_t col0,
                                   int32_t cols)
{
    plan p;
    p.count = 0;
    p.row0 = row0;
    p.col0 = col0;
    p.cols = cols;
    if (!plan_all(e, bound, &p)) {
        vit_epilogue_apply(e, tile, ld_tile, row0, rows, col0, cols);
        return;
    }
    const size_t ld = (size_t)ld_tile;
    for (int32_t c = 0; c < cols; c += 16) {
        const __mmask16 mask = (__mmask16)vit_first64(cols - c);
        load_parameters(&p, c, mask);
        int32_t r = 0;
        for (; r + ROWS <= rows; r += ROWS) {
            run(&p, tile, ld, r, c, mask, ROWS);
        }
        for (; r < rows; ++r) {
            run(&p, tile, ld, r, c, mask, 1);
        }
    }
}
