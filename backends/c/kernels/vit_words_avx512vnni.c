/* kernel: stages on tiles of 16-bit codes, AVX512-VNNI
 * layout: words of up to 8 rows of 32 or 64 columns; results and other operands where stages say
 * in:     saturated words: an epilogue after its first stage
 * out:    the types of the epilogue and its branches, 8 or 16 bits
 * method: four registers of 32 words at a time go through all steps. Words on the same grid are added
 *         with saturation, others by pairs with their alignments as factors; a shift to the right with
 *         rounding half up is a product with 2^(15 - s), rounded to its upper half
 * bounds: sums of aligned pairs fit 32 bits, proven at emission (backends/c/words.py)
 * scratch: none
 */
#include "vit_avx512_words.h"

enum { LINES = 4 };

/* ---- plan ----------------------------------------------------------------------------------- */

static vit_word_step *append(vit_word_plan *p, vit_word_kind kind)
{
    vit_word_step *s = &p->steps[p->count++];
    s->kind = kind;
    return s;
}

/* Saturation to less than 16 bits. */
static void clamp_to(vit_word_plan *p, const vit_stage *s)
{
    if (s->lo > INT16_MIN || s->hi < INT16_MAX) {
        vit_word_step *to = append(p, VIT_WORD_CLAMP);
        to->a = _mm512_set1_epi16((int16_t)s->lo);
        to->b = _mm512_set1_epi16((int16_t)s->hi);
    }
}

static void plan_add(vit_word_plan *p, const vit_stage *s, int32_t row, int32_t col)
{
    const int plain = s->left_v == 0 && s->left_o == 0 && s->shift == 0 && s->zp == 0 &&
                      s->zp_in == 0 && s->other_zp == 0;
    vit_word_step *to = append(p, plain ? VIT_WORD_ADDS : VIT_WORD_ADD);
    to->ld = (size_t)s->other_ld * 2;
    to->at = (char *)(uintptr_t)s->other + (size_t)row * to->ld + (size_t)col * 2;
    const int32_t half = s->shift > 0 ? 1 << (s->shift - 1) : 0;
    to->a = _mm512_set1_epi32((1 << s->left_v) | (int32_t)((uint32_t)1 << (s->left_o + 16)));
    to->b = _mm512_set1_epi32(half + s->zp * (1 << s->shift) - s->zp_in * (1 << s->left_v) -
                              s->other_zp * (1 << s->left_o));
    to->shift = _mm_cvtsi32_si128(s->shift);
}

static void plan_stages(vit_word_plan *p, const vit_epilogue *e, int32_t from, int32_t row,
                        int32_t col)
{
    for (int32_t i = from; i < e->count; ++i) {
        const vit_stage *s = &e->stages[i];
        if (s->kind == VIT_ADD) {
            plan_add(p, s, row, col);
        } else if (s->kind == VIT_LUT16) {
            append(p, VIT_WORD_LUT16)->at = (char *)(uintptr_t)s->table;
            continue;
        } else {
            if (s->shift > 0) {
                const int32_t factor = 1 << (15 - s->shift);
                append(p, VIT_WORD_REQUANT)->a = _mm512_set1_epi16((int16_t)factor);
            }
            if (s->zp != 0) {
                append(p, VIT_WORD_OFFSET)->a = _mm512_set1_epi16((int16_t)s->zp);
            }
        }
        clamp_to(p, s);
    }
    if (e->y != NULL) {
        const size_t size = vit_type_size(e->type);
        vit_word_step *to = append(p, size == 1 ? VIT_WORD_STORE1 : VIT_WORD_STORE2);
        to->ld = (size_t)e->ld * size;
        to->at = (char *)e->y + (size_t)row * to->ld + (size_t)col * size;
    }
}

void vit_plan_words_avx512vnni(const vit_epilogue *e, int32_t row, int32_t col, int split,
                               vit_word_plan *plan)
{
    plan->count = 0;
    if (split) {
        for (int32_t i = 0; i < 2; ++i) {
            if (i > 0) {
                append(plan, VIT_WORD_SECOND);
            }
            clamp_to(plan, &e->branch[i].stages[0]);
            plan_stages(plan, &e->branch[i], 1, row, col);
        }
        return;
    }
    clamp_to(plan, &e->stages[0]);
    plan_stages(plan, e, 1, row, col);
    for (int32_t i = 0; i < e->branches; ++i) {
        if (e->branches > 1) {
            append(plan, i == 0 ? VIT_WORD_KEEP : VIT_WORD_BACK);
        }
        plan_stages(plan, &e->branch[i], 0, row, col);
    }
}

/* ---- steps ---------------------------------------------------------------------------------- */

/* (v * a.low + o * a.high + b) >> shift in 32 bits, saturated; a holds a pair of factors. */
VIT_INLINE __m512i weighted(__m512i v, __m512i o, __m512i a_low, __m512i a_high, __m512i b,
                            __m128i shift)
{
    const __m512i low = _mm512_madd_epi16(_mm512_unpacklo_epi16(v, o), a_low);
    const __m512i high = _mm512_madd_epi16(_mm512_unpackhi_epi16(v, o), a_high);
    return _mm512_packs_epi32(_mm512_sra_epi32(_mm512_add_epi32(low, b), shift),
                              _mm512_sra_epi32(_mm512_add_epi32(high, b), shift));
}

/* first + rhu((next - first) * f / 2^8) = rhu((first * (256 - f) + next * f) / 2^8). */
VIT_INLINE __m512i interpolate(const int16_t *table, __m512i v)
{
    const __m512i code = _mm512_xor_si512(v, _mm512_set1_epi16(INT16_MIN));
    const __m512i index = _mm512_srli_epi16(code, 8);
    const __m512i first = vit_words_at(table, index);
    const __m512i next = vit_words_at(table, _mm512_add_epi16(index, _mm512_set1_epi16(1)));
    const __m512i part = _mm512_and_si512(code, _mm512_set1_epi16(255));
    const __m512i rest = _mm512_sub_epi16(_mm512_set1_epi16(256), part);
    return weighted(first, next, _mm512_unpacklo_epi16(rest, part),
                    _mm512_unpackhi_epi16(rest, part), _mm512_set1_epi32(128),
                    _mm_cvtsi32_si128(8));
}

VIT_INLINE void store_bytes(char *y, int whole, __mmask32 real, __m512i words)
{
    const __m256i bytes = _mm512_cvtepi16_epi8(words);
    if (whole) {
        _mm256_storeu_si256((__m256i *)(void *)y, bytes);
    } else {
        _mm256_mask_storeu_epi8(y, real, bytes);
    }
}

VIT_INLINE void store_words(char *y, int whole, __mmask32 real, __m512i words)
{
    if (whole) {
        _mm512_storeu_si512(y, words);
    } else {
        _mm512_mask_storeu_epi16(y, real, words);
    }
}

/* Some registers of words, line after line; a row has `vectors` of them. `whole`: all columns exist. */
VIT_INLINE void run(const vit_word_plan *plan, size_t row, int32_t line, int32_t lines,
                    int32_t vectors, int whole, __mmask64 mask, const __m512i *words,
                    const __m512i *second)
{
    __m512i v[LINES], kept[LINES];
    size_t rows[LINES], col[LINES];
    __mmask32 real[LINES];
    for (int32_t i = 0; i < lines; ++i) {
        kept[i] = v[i] = words[line + i];
        rows[i] = row + ((size_t)(line + i) >> (vectors - 1));
        col[i] = 32 * (size_t)((line + i) & (vectors - 1));
        real[i] = (__mmask32)(mask >> col[i]);
    }
#define VIT_EACH(expression)                                                                       \
    for (int32_t i = 0; i < lines; ++i) {                                                          \
        expression;                                                                                \
    }                                                                                              \
    break
#define VIT_OTHER _mm512_maskz_loadu_epi16(real[i], s->at + rows[i] * s->ld + 2 * col[i])
    for (const vit_word_step *s = plan->steps, *end = s + plan->count; s < end; ++s) {
        switch (s->kind) {
        case VIT_WORD_ADDS:
            VIT_EACH(v[i] = _mm512_adds_epi16(v[i], VIT_OTHER));
        case VIT_WORD_ADD:
            VIT_EACH(v[i] = weighted(v[i], VIT_OTHER, s->a, s->a, s->b, s->shift));
        case VIT_WORD_REQUANT:
            VIT_EACH(v[i] = _mm512_mulhrs_epi16(v[i], s->a));
        case VIT_WORD_OFFSET:
            VIT_EACH(v[i] = _mm512_adds_epi16(v[i], s->a));
        case VIT_WORD_LUT16:
            VIT_EACH(v[i] = interpolate((const int16_t *)(const void *)s->at, v[i]));
        case VIT_WORD_CLAMP:
            VIT_EACH(v[i] = _mm512_min_epi16(_mm512_max_epi16(v[i], s->a), s->b));
        case VIT_WORD_STORE1:
            VIT_EACH(store_bytes(s->at + rows[i] * s->ld + col[i], whole, real[i], v[i]));
        case VIT_WORD_STORE2:
            VIT_EACH(store_words(s->at + rows[i] * s->ld + 2 * col[i], whole, real[i], v[i]));
        case VIT_WORD_KEEP:
            VIT_EACH(kept[i] = v[i]);
        case VIT_WORD_BACK:
            VIT_EACH(v[i] = kept[i]);
        default:
            VIT_EACH(v[i] = second[line + i]);
        }
    }
#undef VIT_EACH
#undef VIT_OTHER
}

/* All lines, four, two and one at a time. */
VIT_INLINE void run_all(const vit_word_plan *plan, size_t row, int32_t rows, int32_t vectors,
                        int whole, __mmask64 mask, const __m512i *words, const __m512i *second)
{
    const int32_t lines = rows * vectors;
    int32_t line = 0;
    for (; line + LINES <= lines; line += LINES) {
        run(plan, row, line, LINES, vectors, whole, mask, words, second);
    }
    for (; line + 2 <= lines; line += 2) {
        run(plan, row, line, 2, vectors, whole, mask, words, second);
    }
    for (; line < lines; ++line) {
        run(plan, row, line, 1, vectors, whole, mask, words, second);
    }
}

void vit_apply_words_avx512vnni(const vit_word_plan *plan, size_t row, int32_t rows,
                                int32_t vectors, __mmask64 mask, const __m512i *words,
                                const __m512i *second)
{
    if (vectors == 2 && mask == ~(__mmask64)0) {
        run_all(plan, row, rows, 2, 1, mask, words, second);
    } else if (vectors == 2) {
        run_all(plan, row, rows, 2, 0, mask, words, second);
    } else if ((__mmask32)mask == ~(__mmask32)0) {
        run_all(plan, row, rows, 1, 1, mask, words, second);
    } else {
        run_all(plan, row, rows, 1, 0, mask, words, second);
    }
}
