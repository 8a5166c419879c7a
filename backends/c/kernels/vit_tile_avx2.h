/* Tiles of ROWS x 16 accumulators in 256-bit registers, and stripes of 16, for the vit_narrow_*.h. */
#ifndef VIT_TILE_AVX2_H
#define VIT_TILE_AVX2_H

#include <immintrin.h>
#include <stdint.h>

typedef struct {
    __m256i v[ROWS][2];
} tile;

static inline __attribute__((always_inline)) tile load_tile(const int32_t *init)
{
    tile t;
    for (int32_t r = 0; r < ROWS; ++r) {
        t.v[r][0] = _mm256_loadu_si256((const __m256i *)(const void *)init);
        t.v[r][1] = _mm256_loadu_si256((const __m256i *)(const void *)(init + 8));
    }
    return t;
}

static inline __attribute__((always_inline)) void store_tile(const tile *t, int32_t (*acc)[16])
{
    for (int32_t r = 0; r < ROWS; ++r) {
        _mm256_storeu_si256((__m256i *)(void *)acc[r], t->v[r][0]);
        _mm256_storeu_si256((__m256i *)(void *)(acc[r] + 8), t->v[r][1]);
    }
}

typedef struct {
    __m256i v[2];
} stripe;

static inline __attribute__((always_inline)) stripe load_stripe(const int32_t *init)
{
    const __m256i *at = (const __m256i *)(const void *)init;
    return (stripe){{_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)}};
}

static inline __attribute__((always_inline)) void store_stripe(const stripe *s, int32_t *acc)
{
    _mm256_storeu_si256((__m256i *)(void *)acc, s->v[0]);
    _mm256_storeu_si256((__m256i *)(void *)(acc + 8), s->v[1]);
}

/* Sixteen bytes of a tap. */
static inline __attribute__((always_inline)) __m128i load_tap(const uint8_t *tap, size_t at)
{
    return _mm_loadu_si128((const __m128i *)(const void *)(tap + at));
}

/* Sixteen accumulators, saturated to words. */
static inline void pack_words(const int32_t *v, int16_t *words)
{
    const __m256i v0 = _mm256_loadu_si256((const __m256i *)(const void *)v);
    const __m256i v1 = _mm256_loadu_si256((const __m256i *)(const void *)(v + 8));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(v0, v1), 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)words, packed);
}

/* Sixteen words, saturated to signed or unsigned bytes. */
static inline void pack_bytes(const int16_t *words, int is_signed, uint8_t *bytes)
{
    const __m128i w0 = _mm_loadu_si128((const __m128i *)(const void *)words);
    const __m128i w1 = _mm_loadu_si128((const __m128i *)(const void *)(words + 8));
    const __m128i packed = is_signed != 0 ? _mm_packs_epi16(w0, w1) : _mm_packus_epi16(w0, w1);
    _mm_storeu_si128((__m128i *)(void *)bytes, packed);
}

#endif
