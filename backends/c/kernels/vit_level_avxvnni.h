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

#endif
