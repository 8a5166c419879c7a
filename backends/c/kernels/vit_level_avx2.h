/* Tiles of products for AVX2: operands are widened to 16 bits, whose products an instruction adds in
 * pairs without saturating; 6 rows x 16 columns in 12 registers. */
#ifndef VIT_LEVEL_AVX2_H
#define VIT_LEVEL_AVX2_H

#include <stdint.h>
#include <string.h>

enum { ROWS = 6, GROUP = 2 };

typedef uint8_t vit_byte;
typedef int16_t vit_operand;

#include "vit_tile_avx2.h"

static inline __attribute__((always_inline)) void dot_tile(tile *t, const int16_t *const row[ROWS],
                                                           size_t k, const int16_t *w)
{
    const __m256i b0 = _mm256_loadu_si256((const __m256i *)(const void *)w);
    const __m256i b1 = _mm256_loadu_si256((const __m256i *)(const void *)(w + 16));
    for (int32_t r = 0; r < ROWS; ++r) {
        int32_t two;
        memcpy(&two, row[r] + k, 4);
        const __m256i a = _mm256_set1_epi32(two);
        t->v[r][0] = _mm256_add_epi32(t->v[r][0], _mm256_madd_epi16(a, b0));
        t->v[r][1] = _mm256_add_epi32(t->v[r][1], _mm256_madd_epi16(a, b1));
    }
}

static inline __attribute__((always_inline)) void dot_taps(stripe *s, const uint8_t *const *taps,
                                                           size_t at, const int16_t *w)
{
    const __m128i x0 = load_tap(taps[0], at), x1 = load_tap(taps[1], at);
    const __m256i low = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(x0, x1));
    const __m256i high = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(x0, x1));
    const __m256i *b = (const __m256i *)(const void *)w;
    s->v[0] = _mm256_add_epi32(s->v[0], _mm256_madd_epi16(low, _mm256_loadu_si256(b)));
    s->v[1] = _mm256_add_epi32(s->v[1], _mm256_madd_epi16(high, _mm256_loadu_si256(b + 1)));
}

#endif
