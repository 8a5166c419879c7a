/* How 64 accumulators leave registers: the finishes of vit_finish on AVX-512. */
#ifndef VIT_AVX512_FINISH_H
#define VIT_AVX512_FINISH_H

#include "vit_avx512_words.h"

enum { VIT_COLUMNS = 64 };

/* What a row of accumulators needs on its way out. */
typedef struct {
    __m512i shift[4], left[4]; /* to the right; to the left, for VIT_TO_S16 */
    vit_bytes256 table;
    __mmask64 mask; /* columns that exist */
    const int16_t *other;
    size_t other_ld;
    char *y;
    size_t ld; /* bytes */
    /* VIT_TO_WORDS: of a sum, the shifts of the other operand to the left and of the sum to the right;
     * what the second branch adds to accumulators, and its shifts */
    __m128i up, down;
    __m512i more[4], shift2[4], left2[4];
    int split; /* whether there is one */
    const vit_word_plan *words;
} vit_outlet;

VIT_INLINE void vit_set_shift(vit_outlet *o, int32_t j, const void *shifts)
{
    const __m512i zero = _mm512_setzero_si512(), shift = _mm512_load_si512(shifts);
    o->shift[j] = _mm512_max_epi32(shift, zero);
    o->left[j] = _mm512_max_epi32(_mm512_sub_epi32(zero, shift), zero);
}

VIT_INLINE void vit_store_bytes(char *y, __mmask64 mask, __m512i bytes)
{
    if (mask == ~(__mmask64)0) {
        _mm512_storeu_si512(y, bytes);
    } else {
        _mm512_mask_storeu_epi8(y, mask, bytes);
    }
}

VIT_INLINE void vit_store_words(char *y, __mmask64 mask, __m512i low, __m512i high)
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
VIT_INLINE __m512i vit_widen_words(__m512i words, int32_t high)
{
    const __m512i twice =
        high != 0 ? _mm512_unpackhi_epi16(words, words) : _mm512_unpacklo_epi16(words, words);
    return _mm512_srai_epi32(twice, 16);
}

/* Two accumulators as 32 saturated words in order; `j` is the first one's number. */
VIT_INLINE __m512i vit_to_words(const vit_outlet *o, size_t row, int32_t j, __m512i acc0,
                                __m512i acc1)
{
    __m512i v0 = _mm512_sllv_epi32(_mm512_srav_epi32(acc0, o->shift[j]), o->left[j]);
    __m512i v1 = _mm512_sllv_epi32(_mm512_srav_epi32(acc1, o->shift[j + 1]), o->left[j + 1]);
    if (o->other != NULL) {
        const int16_t *other = o->other + row * o->other_ld + 16 * j;
        const __m512i codes = _mm512_maskz_loadu_epi16((__mmask32)(o->mask >> (16 * j)), other);
        v0 = _mm512_add_epi32(v0, _mm512_sll_epi32(vit_widen_words(codes, 0), o->up));
        v1 = _mm512_add_epi32(v1, _mm512_sll_epi32(vit_widen_words(codes, 1), o->up));
        v0 = _mm512_sra_epi32(v0, o->down);
        v1 = _mm512_sra_epi32(v1, o->down);
    }
    return _mm512_packs_epi32(v0, v1);
}

/* The same for the second branch. */
VIT_INLINE __m512i vit_to_second(const vit_outlet *o, int32_t j, __m512i acc0, __m512i acc1)
{
    const __m512i v0 = _mm512_srav_epi32(_mm512_add_epi32(acc0, o->more[j]), o->shift2[j]);
    const __m512i v1 = _mm512_srav_epi32(_mm512_add_epi32(acc1, o->more[j + 1]), o->shift2[j + 1]);
    return _mm512_packs_epi32(_mm512_sllv_epi32(v0, o->left2[j]),
                              _mm512_sllv_epi32(v1, o->left2[j + 1]));
}

/* Codes of the 32 columns of two accumulators, which packing to words puts in order. */
VIT_INLINE void vit_finish_half_row(vit_finish finish, const vit_outlet *o, size_t row,
                                    const __m512i *acc)
{
    const __mmask32 mask = (__mmask32)o->mask;
    char *y = o->y + row * o->ld;
    if (finish == VIT_BY_STAGES) {
        _mm512_store_si512(y, acc[0]);
        _mm512_store_si512(y + 64, acc[1]);
        return;
    }
    __m512i v0 = _mm512_srav_epi32(acc[0], o->shift[0]);
    __m512i v1 = _mm512_srav_epi32(acc[1], o->shift[1]);
    if (finish == VIT_TO_SUM) {
        const __m512i other = _mm512_maskz_loadu_epi16(mask, o->other + row * o->other_ld);
        v0 = _mm512_add_epi32(v0, vit_widen_words(other, 0));
        v1 = _mm512_add_epi32(v1, vit_widen_words(other, 1));
    }
    if (finish == VIT_TO_S16) {
        v0 = _mm512_sllv_epi32(v0, o->left[0]);
        v1 = _mm512_sllv_epi32(v1, o->left[1]);
    }
    const __m512i words = _mm512_packs_epi32(v0, v1);
    if (finish == VIT_TO_S16 || finish == VIT_TO_SUM) {
        _mm512_mask_storeu_epi16(y, mask, words);
        return;
    }
    const __m512i positive = _mm512_max_epi16(words, _mm512_setzero_si512());
    __m256i bytes = finish == VIT_TO_S8 ? _mm512_cvtsepi16_epi8(words)
                                        : _mm512_cvtusepi16_epi8(positive);
    if (finish == VIT_TO_TABLE) {
        const __m512i index = _mm512_castsi256_si512(bytes);
        bytes = _mm512_castsi512_si256(vit_lookup(&o->table, index));
    }
    _mm256_mask_storeu_epi8(y, mask, bytes);
}

/* A row of accumulators: four of them, or two for a panel of 32 columns. */
VIT_INLINE void vit_finish_row(int32_t vectors, vit_finish finish, const vit_outlet *o, size_t row,
                               const __m512i *acc)
{
    if (vectors == 2) {
        vit_finish_half_row(finish, o, row, acc);
        return;
    }
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
        v0 = _mm512_add_epi32(v0, vit_widen_words(low, 0));
        v1 = _mm512_add_epi32(v1, vit_widen_words(low, 1));
        v2 = _mm512_add_epi32(v2, vit_widen_words(high, 0));
        v3 = _mm512_add_epi32(v3, vit_widen_words(high, 1));
    }
    if (finish == VIT_TO_S16) {
        v0 = _mm512_sllv_epi32(v0, o->left[0]);
        v1 = _mm512_sllv_epi32(v1, o->left[1]);
        v2 = _mm512_sllv_epi32(v2, o->left[2]);
        v3 = _mm512_sllv_epi32(v3, o->left[3]);
    }
    const __m512i low = _mm512_packs_epi32(v0, v1), high = _mm512_packs_epi32(v2, v3);
    if (finish == VIT_TO_S16 || finish == VIT_TO_SUM) {
        vit_store_words(y, mask, low, high);
    } else if (finish == VIT_TO_S8) {
        vit_store_bytes(y, mask, _mm512_packs_epi16(low, high));
    } else if (finish == VIT_TO_U8) {
        vit_store_bytes(y, mask, _mm512_packus_epi16(low, high));
    } else {
        vit_store_bytes(y, mask, vit_lookup(&o->table, _mm512_packus_epi16(low, high)));
    }
}

#endif
