/* Tiles of products for Arm NEON with dot products: four products s8 x s8 a lane and instruction; 6
 * rows x 16 columns in 24 registers. */
#ifndef VIT_LEVEL_NEON_H
#define VIT_LEVEL_NEON_H

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

enum { ROWS = 6, GROUP = 4 };

typedef int8_t vit_byte, vit_operand;

typedef struct {
    int32x4_t v[ROWS][4];
} tile;

static inline __attribute__((always_inline)) tile load_tile(const int32_t *init)
{
    tile t;
    for (int32_t r = 0; r < ROWS; ++r) {
        for (int32_t j = 0; j < 4; ++j) {
            t.v[r][j] = vld1q_s32(init + 4 * j);
        }
    }
    return t;
}

static inline __attribute__((always_inline)) void dot_tile(tile *t, const int8_t *const row[ROWS],
                                                           size_t k, const int8_t *w)
{
    const int8x16_t b0 = vld1q_s8(w), b1 = vld1q_s8(w + 16);
    const int8x16_t b2 = vld1q_s8(w + 32), b3 = vld1q_s8(w + 48);
    for (int32_t r = 0; r < ROWS; ++r) {
        int32_t four;
        memcpy(&four, row[r] + k, 4);
        const int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four));
        t->v[r][0] = vdotq_s32(t->v[r][0], b0, a);
        t->v[r][1] = vdotq_s32(t->v[r][1], b1, a);
        t->v[r][2] = vdotq_s32(t->v[r][2], b2, a);
        t->v[r][3] = vdotq_s32(t->v[r][3], b3, a);
    }
}

static inline __attribute__((always_inline)) void store_tile(const tile *t, int32_t (*acc)[16])
{
    for (int32_t r = 0; r < ROWS; ++r) {
        for (int32_t j = 0; j < 4; ++j) {
            vst1q_s32(acc[r] + 4 * j, t->v[r][j]);
        }
    }
}

typedef struct {
    int32x4_t v[4];
} stripe;

static inline __attribute__((always_inline)) stripe load_stripe(const int32_t *init)
{
    stripe s;
    for (int32_t j = 0; j < 4; ++j) {
        s.v[j] = vld1q_s32(init + 4 * j);
    }
    return s;
}

static inline __attribute__((always_inline)) void store_stripe(const stripe *s, int32_t *acc)
{
    for (int32_t j = 0; j < 4; ++j) {
        vst1q_s32(acc + 4 * j, s->v[j]);
    }
}

/* Two halves of bytes, as pairs: those of the first taps with those of the last. */
static inline __attribute__((always_inline)) int8x16x2_t pairs_of(int8x16_t first, int8x16_t last)
{
    const int16x8x2_t z = vzipq_s16(vreinterpretq_s16_s8(first), vreinterpretq_s16_s8(last));
    return (int8x16x2_t){{vreinterpretq_s8_s16(z.val[0]), vreinterpretq_s8_s16(z.val[1])}};
}

static inline __attribute__((always_inline)) void dot_taps(stripe *s, const uint8_t *const *taps,
                                                           size_t at, const int8_t *w)
{
    int8x16_t x[4];
    for (int32_t i = 0; i < 4; ++i) {
        x[i] = vreinterpretq_s8_u8(vld1q_u8(taps[i] + at));
    }
    const int8x16x2_t first = vzipq_s8(x[0], x[1]), last = vzipq_s8(x[2], x[3]);
    for (int32_t half = 0; half < 2; ++half) {
        const int8x16x2_t fours = pairs_of(first.val[half], last.val[half]);
        for (int32_t i = 0; i < 2; ++i) {
            const int32_t j = 2 * half + i;
            s->v[j] = vdotq_s32(s->v[j], fours.val[i], vld1q_s8(w + 16 * j));
        }
    }
}

/* Sixteen accumulators, saturated to words. */
static inline void pack_words(const int32_t *v, int16_t *words)
{
    for (int32_t i = 0; i < 16; i += 8) {
        const int16x4_t low = vqmovn_s32(vld1q_s32(v + i)), high = vqmovn_s32(vld1q_s32(v + i + 4));
        vst1q_s16(words + i, vcombine_s16(low, high));
    }
}

/* Sixteen words, saturated to signed or unsigned bytes. */
static inline void pack_bytes(const int16_t *words, int is_signed, uint8_t *bytes)
{
    for (int32_t i = 0; i < 16; i += 8) {
        const int16x8_t w = vld1q_s16(words + i);
        vst1_u8(bytes + i, is_signed != 0 ? vreinterpret_u8_s8(vqmovn_s16(w)) : vqmovun_s16(w));
    }
}

#endif
