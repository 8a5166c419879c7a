/* Pieces shared by the kernels for AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later). */
#ifndef VIT_AVX512_H
#define VIT_AVX512_H

#include <immintrin.h>
#include <string.h>

#include "vit_arith.h"

#define VIT_INLINE static inline __attribute__((always_inline))

/* acc += four products u8 x s8 per lane, modulo 2^32. As inline assembly with one operand that is
 * read and written, because compilers copy and spill accumulators around the intrinsic. */
#define VIT_DOT(acc, u8, s8) __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u8), "v"(s8))

/* Four bytes in every lane. */
VIT_INLINE __m512i vit_repeat4(const uint8_t *x)
{
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
}

VIT_INLINE size_t vit_round_up4(int32_t n)
{
    return ((size_t)n + 3) & ~(size_t)3;
}

/* Bytes of a panel of 64 columns, with what starts and shifts its accumulators. */
VIT_INLINE size_t vit_panel_bytes(int32_t k)
{
    return 64 * (8 + vit_round_up4(k));
}

/* What is done to six rows at once: no loop, so that their accumulators stay in registers. */
#define VIT_SIX(each)                                                                              \
    do {                                                                                           \
        each(0);                                                                                   \
        each(1);                                                                                   \
        each(2);                                                                                   \
        each(3);                                                                                   \
        each(4);                                                                                   \
        each(5);                                                                                   \
    } while (0)

/* A division of lanes of 32 bits: (acc * factor + constant) / 2^shift, rounded down. */
typedef struct {
    __m512i factor, constant;
    __m128i shift;
} vit_quotient;

/* With rounding half up, and a zero point added behind. */
VIT_INLINE vit_quotient vit_quotient_of(int64_t factor, int32_t shift, int32_t zp)
{
    const int64_t one = (int64_t)1 << shift;
    vit_quotient q;
    q.factor = _mm512_set1_epi64(factor);
    q.constant = _mm512_set1_epi64((one >> 1) + zp * one);
    q.shift = _mm_cvtsi32_si128(shift);
    return q;
}

VIT_INLINE __m512i vit_divide(__m512i acc, const vit_quotient *q)
{
    const __m512i even = _mm512_mul_epi32(acc, q->factor);
    const __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(acc, 32), q->factor);
    const __m512i low = _mm512_sra_epi64(_mm512_add_epi64(even, q->constant), q->shift);
    const __m512i high = _mm512_sra_epi64(_mm512_add_epi64(odd, q->constant), q->shift);
    return _mm512_mask_blend_epi32(0xaaaa, low, _mm512_slli_epi64(high, 32));
}

/* The first n of 64 (or more) elements. */
VIT_INLINE __mmask64 vit_first64(int32_t n)
{
    return n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1;
}

/* A table of 256 bytes in four registers. */
typedef struct {
    __m512i part[4];
} vit_bytes256;

VIT_INLINE vit_bytes256 vit_load_table(const void *table)
{
    vit_bytes256 t;
    for (int32_t i = 0; i < 4; ++i) {
        t.part[i] = _mm512_loadu_si512((const char *)table + 64 * i);
    }
    return t;
}

VIT_INLINE __m512i vit_lookup(const vit_bytes256 *t, __m512i index)
{
    const __m512i low = _mm512_permutex2var_epi8(t->part[0], index, t->part[1]);
    const __m512i high = _mm512_permutex2var_epi8(t->part[2], index, t->part[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
}

/* Words of a table of 257 at indices 0 to 256: four permutes of 64 words, of which one counts. */
VIT_INLINE __m512i vit_words_at(const int16_t *table, __m512i index)
{
    __m512i part[4];
    for (int32_t i = 0; i < 4; ++i) {
        part[i] = _mm512_permutex2var_epi16(_mm512_loadu_si512(table + 64 * i), index,
                                            _mm512_loadu_si512(table + 64 * i + 32));
    }
    const __mmask32 bit6 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(64));
    const __mmask32 bit7 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(128));
    const __mmask32 bit8 = _mm512_test_epi16_mask(index, _mm512_set1_epi16(256));
    const __m512i low = _mm512_mask_blend_epi16(bit6, part[0], part[1]);
    const __m512i high = _mm512_mask_blend_epi16(bit6, part[2], part[3]);
    const __m512i found = _mm512_mask_blend_epi16(bit7, low, high);
    return _mm512_mask_blend_epi16(bit8, found, _mm512_set1_epi16(table[256]));
}

#endif
