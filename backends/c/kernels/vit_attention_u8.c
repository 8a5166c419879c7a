/* kernel: attention with deferred softmax, one head after the other
 * layout: q[batch][m][k], key[batch][n][k] or [batch][k][n], value[batch][n][d], y[batch][m][d],
 *         with the distances that the shape states
 * in:     q, key, value codes of 8 or 16 bits with zero points; `scores` holds the stages between
 *         the score accumulators and the exponentials; frac is that of their result
 * out:    the epilogue's type; its VIT_NORMALIZE stage divides by the row sums in scratch, whose
 *         `other` is set here
 * method: keys and values of a head are widened once; then `block` rows go through scores,
 *         exponentials and the product with the values, and never leave scratch
 * scratch: the arrays of carve(), each rounded up to 64 bytes
 */
#include "vit_arith.h"

typedef struct {
    int16_t *key, *value, *query, *weight;
    int32_t *acc, *row;
    uint32_t *sum;
    uint8_t *p;
} buffers;

static void *take(char **at, size_t bytes)
{
    void *start = *at;
    *at += vit_align64(bytes);
    return start;
}

static buffers carve(const vit_attention_shape *p, void *scratch)
{
    const size_t kp = (size_t)vit_round_up16(p->k), np = (size_t)vit_round_up16(p->n);
    const size_t block = (size_t)p->block;
    const size_t widest = p->n > p->d ? (size_t)p->n : (size_t)p->d;
    char *at = (char *)scratch;
    buffers s;
    s.key = (int16_t *)take(&at, (size_t)p->n * kp * 2);
    s.value = (int16_t *)take(&at, (size_t)p->d * np * 2);
    s.query = (int16_t *)take(&at, block * kp * 2);
    s.weight = (int16_t *)take(&at, block * np * 2);
    s.acc = (int32_t *)take(&at, block * widest * 4);
    s.row = (int32_t *)take(&at, (size_t)p->n * 4);
    s.sum = (uint32_t *)take(&at, block * 4);
    s.p = (uint8_t *)take(&at, block * (size_t)p->n);
    return s;
}

/* The transpose of a [rows][columns] matrix of codes, rows `stride` apart, as `columns` rows of ld
 * s16 values. */
static void widen_transposed(const void *x, vit_type type, size_t first, size_t stride, int32_t rows,
                             int32_t columns, int32_t ld, int32_t offset, int16_t *y)
{
    int16_t row[VIT_PANEL];
    for (int32_t c0 = 0; c0 < columns; c0 += VIT_PANEL) {
        const int32_t n = vit_min32(VIT_PANEL, columns - c0);
        int16_t *panel = y + (size_t)c0 * (size_t)ld;
        for (int32_t r = 0; r < ld; ++r) {
            if (r < rows) {
                const size_t at = first + (size_t)r * stride + (size_t)c0;
                vit_widen_s16(x, type, at, n, offset, row);
            }
            for (int32_t c = 0; c < n; ++c) {
                panel[(size_t)c * (size_t)ld + (size_t)r] = r < rows ? row[c] : (int16_t)0;
            }
        }
    }
}

/* First element of a batch index in a tensor with these distances. */
static size_t element(const vit_attention_shape *p, int32_t batch, int32_t outer, int32_t head)
{
    return (size_t)(batch / p->heads) * (size_t)outer + (size_t)(batch % p->heads) * (size_t)head;
}

static void widen_head(const vit_attention_shape *p, const void *key, const void *value,
                       int32_t batch, const buffers *s)
{
    const int32_t kp = vit_round_up16(p->k), np = vit_round_up16(p->n);
    const size_t first = element(p, batch, p->key_outer, p->key_head);
    const int32_t offset = vit_widen_offset(p->key_type, p->key_zp);
    if (p->key_step != 1) {
        widen_transposed(key, p->key_type, first, (size_t)p->key_step, p->k, p->n, kp, offset,
                         s->key);
    } else {
        vit_widen_rows(key, p->key_type, first, (size_t)p->key_row, p->n, p->k, kp, offset,
                       s->key);
    }
    widen_transposed(value, p->value_type, element(p, batch, p->value_outer, p->value_head),
                     (size_t)p->value_ld, p->n, p->d, np,
                     vit_widen_offset(p->value_type, p->value_zp), s->value);
}

static void rows_of_head(const vit_attention_shape *p, const void *q, int32_t batch, int32_t r0,
                         int32_t rows, const uint8_t *table, const vit_epilogue *scores, const vit_epilogue *e,
                         const buffers *s)
{
    const int32_t q_offset = vit_widen_offset(p->q_type, p->q_zp);
    const int32_t row0 = batch * p->m + r0;
    const size_t first_query = element(p, batch, p->q_outer, p->q_head);
    const vit_gemm_shape first = {.m = rows,
                                  .n = p->n,
                                  .k = p->k,
                                  .ld = vit_round_up16(p->k),
                                  .ca = q_offset - p->q_zp,
                                  .cb = vit_widen_offset(p->key_type, p->key_zp) - p->key_zp};
    vit_widen_rows(q, p->q_type, first_query + (size_t)r0 * (size_t)p->q_ld, (size_t)p->q_ld, rows,
                   p->k, first.ld, q_offset, s->query);
    vit_gemm_s16(&first, s->query, s->key, NULL, s->acc, p->n);
    for (int32_t i = 0; i < scores->count; ++i) {
        vit_stage_apply(&scores->stages[i], s->acc, p->n, row0, rows, 0, p->n);
    }
    vit_softmax_exp_u8(s->acc, VIT_S32, rows, p->n, p->frac, table, s->p, s->sum, s->row);
    const vit_gemm_shape second = {.m = rows,
                                   .n = p->d,
                                   .k = p->n,
                                   .ld = vit_round_up16(p->n),
                                   .ca = 0,
                                   .cb = vit_widen_offset(p->value_type, p->value_zp) -
                                         p->value_zp};
    vit_widen_rows(s->p, VIT_U8, 0, (size_t)p->n, rows, p->n, second.ld, 0, s->weight);
    vit_gemm_s16(&second, s->weight, s->value, NULL, s->acc, p->d);
    for (int32_t i = 0; i < e->count; ++i) {
        vit_stage stage = e->stages[i];
        if (stage.kind == VIT_NORMALIZE) {
            stage.other = s->sum;
            vit_stage_apply(&stage, s->acc, p->d, 0, rows, 0, p->d);
        } else {
            vit_stage_apply(&stage, s->acc, p->d, row0, rows, 0, p->d);
        }
    }
    const size_t start = element(p, batch, p->y_outer, p->y_head) * vit_type_size(e->type);
    const vit_epilogue store = {
        .stages = NULL, .count = 0, .type = e->type, .y = (char *)e->y + start, .ld = e->ld};
    vit_epilogue_apply(&store, s->acc, p->d, r0, rows, 0, p->d);
}

void vit_attention_u8(const vit_attention_shape *p, const void *q, const void *key,
                      const void *value, const uint8_t *table, const vit_epilogue *scores,
                      const vit_epilogue *e, void *scratch)
{
    const buffers s = carve(p, scratch);
    const int32_t blocks = (p->m + p->block - 1) / p->block;
    const vit_range range = vit_share(p->batch * blocks, 1, p->part, p->parts);
    for (int32_t i = range.first; i < range.last; ++i) {
        const int32_t batch = i / blocks, r0 = i % blocks * p->block;
        if (i == range.first || r0 == 0) {
            widen_head(p, key, value, batch, &s);
        }
        rows_of_head(p, q, batch, r0, vit_min32(p->block, p->m - r0), table, scores, e, &s);
    }
}
