/* What the attention kernels for AVX-512 share: normalisation, and the one for small windows. */
#ifndef VIT_AVX512_WINDOW_H
#define VIT_AVX512_WINDOW_H

#include "vit_avx512.h"

/* Elements from an operand's first row to the one of a token; `rows` is NULL or a part of p->rows. */
VIT_INLINE ptrdiff_t vit_token(const int32_t *rows, int32_t token, int32_t ld)
{
    return (ptrdiff_t)(rows == NULL ? token : rows[token]) * ld;
}

/* The operands and the result of one head. */
typedef struct {
    const uint8_t *q;
    const int8_t *key, *value;
    char *y;
    const int32_t *tokens; /* their places, or NULL */
} vit_head;

VIT_INLINE vit_head vit_head_of(const vit_attention_shape *p, int32_t batch, const void *q,
                                const void *key, const void *value, void *y)
{
    const ptrdiff_t outer = batch / p->heads, inner = batch % p->heads;
    const vit_head head = {
        .q = (const uint8_t *)q + outer * p->q_outer + inner * p->q_head,
        .key = (const int8_t *)key + outer * p->key_outer + inner * p->key_head,
        .value = (const int8_t *)value + outer * p->value_outer + inner * p->value_head,
        .y = (char *)y + outer * p->y_outer + inner * p->y_head,
        .tokens = p->rows == NULL ? NULL : p->rows + outer * p->m,
    };
    return head;
}

/* A row's division by its sum of weights: (acc * reciprocal + constant) / 2^shift. */
typedef struct {
    __m512i reciprocal, constant;
    __m128i shift;
} vit_normalizer;

VIT_INLINE vit_normalizer vit_normalizer_of(const vit_stage *s, uint32_t sum)
{
    const int32_t nb = vit_blen(sum), shift = nb + s->shift;
    const int64_t half = (int64_t)1 << (shift - 1);
    vit_normalizer n;
    n.reciprocal = _mm512_set1_epi64((int64_t)(((uint64_t)1 << (nb + 15)) / sum));
    n.constant = _mm512_set1_epi64(half + (int64_t)s->zp * ((int64_t)1 << shift));
    n.shift = _mm_cvtsi32_si128(shift);
    return n;
}

/* Per lane of 32 bits, rounded down. */
VIT_INLINE __m512i vit_normalize(__m512i acc, const vit_normalizer *n)
{
    const __m512i even = _mm512_mul_epi32(acc, n->reciprocal);
    const __m512i odd = _mm512_mul_epi32(_mm512_srli_epi64(acc, 32), n->reciprocal);
    const __m512i low = _mm512_sra_epi64(_mm512_add_epi64(even, n->constant), n->shift);
    const __m512i high = _mm512_sra_epi64(_mm512_add_epi64(odd, n->constant), n->shift);
    return _mm512_mask_blend_epi32(0xaaaa, low, _mm512_slli_epi64(high, 32));
}

/* Whether the kernel below computes an attention. */
int vit_is_window(const vit_attention_shape *p, const vit_epilogue *scores);

void vit_window_attention_avx512vnni(const vit_attention_shape *p, const void *q, const void *key,
                                     const void *value, const uint8_t *table,
                                     const vit_epilogue *scores, const vit_epilogue *e,
                                     void *scratch);

#endif
