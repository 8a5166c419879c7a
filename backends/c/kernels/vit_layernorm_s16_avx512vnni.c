/* kernel: LayerNorm over the last axis, standard integer form, AVX-512
 * layout: x[rows][cols] s16, gamma[cols] s32, beta[cols] s32 (rounding constant and zero point times
 *         2^shift folded in), shift_c[cols] 0..31, y[rows][cols]
 * in:     codes with zero point 0, no alignment
 * out:    y = sat((N * gamma + beta) >> shift), all of s8, u8 or s16; N as in vit_layernorm()
 * method: statistics of thirty-two rows first; their square roots together, one bit a step; then one
 *         division a row, and 64-bit products with the reciprocal R: the numerator of N,
 *         (cols * x - sum) * R + 2^(nb - 1), is x * (cols * R) + constant
 * bounds: V * 2^12 fits unsigned 64 bits (cols < 2048), N * gamma + beta 32 bits, proven at emission
 * scratch: none
 */
#include "vit_avx512.h"

enum { BLOCK = 32, CHAINS = BLOCK / 8 };

typedef struct {
    int64_t sum[BLOCK];
    uint64_t radicand[BLOCK]; /* V * 2^12 */
    uint64_t root[BLOCK];
} statistics;

VIT_INLINE __m512i load16(const int16_t *x, int32_t c, int32_t cols)
{
    return _mm512_maskz_loadu_epi16((__mmask32)vit_first64(cols - c), x + c);
}

/* Sum and sum of squares: of pairs in 32 bits, then widened. */
static void statistics_of(const vit_layernorm_shape *p, const int16_t *x, int32_t i, statistics *s)
{
    const __m512i ones = _mm512_set1_epi16(1), low = _mm512_set1_epi64(0xffffffff);
    __m512i sum = _mm512_setzero_si512(), squares = sum;
    for (int32_t c = 0; c < p->cols; c += 32) {
        const __m512i v = load16(x, c, p->cols);
        const __m512i pairs = _mm512_madd_epi16(v, v); /* up to 2^31, read as unsigned */
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(v, ones));
        squares = _mm512_add_epi64(squares, _mm512_and_si512(pairs, low));
        squares = _mm512_add_epi64(squares, _mm512_srli_epi64(pairs, 32));
    }
    const int64_t total = _mm512_reduce_add_epi32(sum);
    const uint64_t square = (uint64_t)_mm512_reduce_add_epi64(squares);
    const uint64_t variance =
        (uint64_t)p->cols * square - (uint64_t)total * (uint64_t)total + p->eps;
    s->sum[i] = total;
    s->radicand[i] = variance << 12;
}

/* floor(sqrt(x)): the largest root whose square is not above x, bit by bit, for numbers in several
 * registers at once so that their dependent steps overlap. */
static void roots_of(statistics *s)
{
    const __m512i one = _mm512_set1_epi64(1), three = _mm512_set1_epi64(3);
    __m512i x[CHAINS], root[CHAINS], rest[CHAINS], most = _mm512_setzero_si512();
    for (int32_t i = 0; i < CHAINS; ++i) {
        x[i] = _mm512_loadu_si512(s->radicand + 8 * i);
        most = _mm512_max_epu64(most, x[i]);
        root[i] = rest[i] = _mm512_setzero_si512();
    }
    const int32_t bits = vit_blen(_mm512_reduce_max_epu64(most));
    for (int32_t pair = (bits - 1) & ~1; pair >= 0; pair -= 2) {
        const __m128i count = _mm_cvtsi32_si128(pair);
        for (int32_t i = 0; i < CHAINS; ++i) {
            const __m512i digits = _mm512_and_si512(_mm512_srl_epi64(x[i], count), three);
            rest[i] = _mm512_or_si512(_mm512_slli_epi64(rest[i], 2), digits);
            const __m512i trial = _mm512_or_si512(_mm512_slli_epi64(root[i], 2), one);
            const __mmask8 fits = _mm512_cmpge_epu64_mask(rest[i], trial);
            rest[i] = _mm512_mask_sub_epi64(rest[i], fits, rest[i], trial);
            root[i] = _mm512_slli_epi64(root[i], 1);
            root[i] = _mm512_mask_or_epi64(root[i], fits, root[i], one);
        }
    }
    for (int32_t i = 0; i < CHAINS; ++i) {
        _mm512_storeu_si512(s->root + 8 * i, root[i]);
    }
}

/* What a row of normalised values needs. */
typedef struct {
    const int16_t *x;
    const int32_t *gamma, *beta, *shift;
    __m512i factor, constant;
    __m128i right, left; /* nb and 32 - nb */
} row_scale;

/* Sixteen codes from channel c on: N = (x * factor + constant) >> nb in 64 bits, of odd channels in
 * the upper half of the register, then (N * gamma + beta) >> shift. */
VIT_INLINE __m512i code16(const row_scale *s, int32_t c, __mmask16 mask)
{
    const __m512i v = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, s->x + c));
    const __m512i even = _mm512_mul_epi32(v, s->factor);
    const __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(v, 32), s->factor);
    const __m512i low = _mm512_sra_epi64(_mm512_add_epi64(even, s->constant), s->right);
    const __m512i high = _mm512_sll_epi64(_mm512_add_epi64(odd, s->constant), s->left);
    const __m512i n = _mm512_mask_blend_epi32(0xaaaa, low, high);
    const __m512i product = _mm512_mullo_epi32(n, _mm512_maskz_loadu_epi32(mask, s->gamma + c));
    const __m512i affine = _mm512_add_epi32(product, _mm512_maskz_loadu_epi32(mask, s->beta + c));
    return _mm512_srav_epi32(affine, _mm512_maskz_loadu_epi32(mask, s->shift + c));
}

/* Sixty-four codes from channel c on, as bytes in order. */
VIT_INLINE __m512i bytes64(const row_scale *s, int32_t c, __mmask64 mask, vit_type type)
{
    const __m512i order = /* of groups of four codes, after packing within 128 bits */
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i v0 = code16(s, c, (__mmask16)mask);
    const __m512i v1 = code16(s, c + 16, (__mmask16)(mask >> 16));
    const __m512i v2 = code16(s, c + 32, (__mmask16)(mask >> 32));
    const __m512i v3 = code16(s, c + 48, (__mmask16)(mask >> 48));
    const __m512i low = _mm512_packs_epi32(v0, v1), high = _mm512_packs_epi32(v2, v3);
    const __m512i bytes =
        type == VIT_S8 ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
    return _mm512_permutexvar_epi32(order, bytes);
}

/* Thirty-two codes from channel c on, as words in order. */
VIT_INLINE __m512i words32(const row_scale *s, int32_t c, __mmask32 mask)
{
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7); /* of groups of four */
    const __m512i v0 = code16(s, c, (__mmask16)mask);
    const __m512i v1 = code16(s, c + 16, (__mmask16)(mask >> 16));
    return _mm512_permutexvar_epi64(order, _mm512_packs_epi32(v0, v1));
}

static void store_words(int32_t cols, const row_scale *s, int16_t *y)
{
    int32_t c = 0;
    for (; c + 32 <= cols; c += 32) {
        _mm512_storeu_si512(y + c, words32(s, c, ~(__mmask32)0));
    }
    if (c < cols) {
        const __mmask32 mask = (__mmask32)vit_first64(cols - c);
        _mm512_mask_storeu_epi16(y + c, mask, words32(s, c, mask));
    }
}

static void store_bytes(const vit_layernorm_shape *p, const row_scale *s, uint8_t *y)
{
    int32_t c = 0;
    for (; c + 64 <= p->cols; c += 64) {
        _mm512_storeu_si512(y + c, bytes64(s, c, ~(__mmask64)0, p->y_type));
    }
    if (c < p->cols) {
        const __mmask64 mask = vit_first64(p->cols - c);
        _mm512_mask_storeu_epi8(y + c, mask, bytes64(s, c, mask, p->y_type));
    }
}

void vit_layernorm_s16_avx512vnni(const vit_layernorm_shape *p, const void *x,
                              const int32_t *gamma, const int32_t *beta, void *y)
{
    const size_t cols = (size_t)p->cols;
    const vit_range range = vit_share(p->rows, 1, p->part, p->parts);
    for (int32_t r0 = range.first; r0 < range.last; r0 += BLOCK) {
        const int32_t rows = vit_min32(BLOCK, range.last - r0);
        const int16_t *in = (const int16_t *)x + (size_t)r0 * cols;
        statistics s = {.radicand = {0}};
        for (int32_t i = 0; i < rows; ++i) {
            statistics_of(p, in + (size_t)i * cols, i, &s);
        }
        roots_of(&s);
        for (int32_t i = 0; i < rows; ++i) {
            const uint64_t divisor = s.root[i] == 0 ? 1 : s.root[i];
            const int32_t nb = vit_blen(divisor);
            const int64_t reciprocal = (int64_t)(((uint64_t)1 << (nb + 16)) / divisor);
            const int64_t constant = ((int64_t)1 << (nb - 1)) - s.sum[i] * reciprocal;
            const row_scale scale = {.x = in + (size_t)i * cols,
                                     .gamma = gamma,
                                     .beta = beta,
                                     .shift = p->shift_c,
                                     .factor = _mm512_set1_epi64(p->cols * reciprocal),
                                     .constant = _mm512_set1_epi64(constant),
                                     .right = _mm_cvtsi32_si128(nb),
                                     .left = _mm_cvtsi32_si128(32 - nb)};
            if (p->y_type == VIT_S16) {
                store_words(p->cols, &scale, (int16_t *)y + ((size_t)r0 + (size_t)i) * cols);
            } else {
                store_bytes(p, &scale, (uint8_t *)y + ((size_t)r0 + (size_t)i) * cols);
            }
        }
    }
}
