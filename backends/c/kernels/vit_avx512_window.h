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

/* A row's division by its sum of weights. */
VIT_INLINE vit_quotient vit_divided_by_sum(const vit_stage *s, uint32_t sum)
{
    const int32_t nb = vit_blen(sum);
    return vit_quotient_of((int64_t)(((uint64_t)1 << (nb + 15)) / sum), nb + s->shift, s->zp);
}

/* Whether the kernel below computes an attention. */
int vit_is_window(const vit_attention_shape *p, const vit_epilogue *scores);

void vit_window_attention_avx512vnni(const vit_attention_shape *p, const void *q, const void *key,
                                     const void *value, const uint8_t *table,
                                     const vit_epilogue *scores, const vit_epilogue *e,
                                     void *scratch);

#endif
