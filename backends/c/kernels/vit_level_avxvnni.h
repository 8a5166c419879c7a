/* Tiles of products for AVX-VNNI: four products u8 x s8 a lane and instruction; 6 rows x 16 columns in
 * 12 registers. */
#ifndef VIT_LEVEL_AVXVNNI_H
#define VIT_LEVEL_AVXVNNI_H

#include <stdint.h>
#include <string.h>

enum { ROWS = 6, GROUP = 4 };

typedef uint8_t vit_byte, vit_operand;

#include "vit_tile_avx2.h"

/* As inline assembly with one operand that is read and written: compilers copy and spill accumulators
 * around the intrinsic. */
#define VIT_DOT(acc, u8, s8) __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(u8), "x"(s8))

static inline __attribute__((always_inline)) void dot_tile(tile *t, const uint8_t *const row[ROWS],
                                                           size_t k, const uint8_t *w)
{
    const __m256i b0 = _mm256_loadu_si256((const __m256i *)(const void *)w);
    const __m256i b1 = _mm256_loadu_si256((const __m256i *)(const void *)(w + 32));
    for (int32_t r = 0; r < ROWS; ++r) {
        int32_t four;
        memcpy(&four, row[r] + k, 4);
        const __m256i a = _mm256_set1_epi32(four);
        VIT_DOT(t->v[r][0], a, b0);
        VIT_DOT(t->v[r][1], a, b1);
    }
}

static inline __attribute__((always_inline)) void dot_taps(stripe *s, const uint8_t *const *taps,
                                                           size_t at, const uint8_t *w)
{
    const __m128i x0 = load_tap(taps[0], at), x1 = load_tap(taps[1], at);
    const __m128i x2 = load_tap(taps[2], at), x3 = load_tap(taps[3], at);
    const __m128i low01 = _mm_unpacklo_epi8(x0, x1), low23 = _mm_unpacklo_epi8(x2, x3);
    const __m128i high01 = _mm_unpackhi_epi8(x0, x1), high23 = _mm_unpackhi_epi8(x2, x3);
    const __m256i low =
        _mm256_set_m128i(_mm_unpackhi_epi16(low01, low23), _mm_unpacklo_epi16(low01, low23));
    const __m256i high =
        _mm256_set_m128i(_mm_unpackhi_epi16(high01, high23), _mm_unpacklo_epi16(high01, high23));
    const __m256i *b = (const __m256i *)(const void *)w;
    const __m256i b0 = _mm256_loadu_si256(b), b1 = _mm256_loadu_si256(b + 1);
    VIT_DOT(s->v[0], low, b0);
    VIT_DOT(s->v[1], high, b1);
}

#endif
