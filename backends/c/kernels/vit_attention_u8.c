/* kernel: attention with deferred softmax, one head after the other
 * layout: q[batch][m][k], key[batch][n][k] (or [k][n] if key_columns), value[batch][n][d],
 *         y[batch * m][d]
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

/* The transpose of a [rows][columns] matrix of codes as `columns` rows of ld s16 values. */
static void widen_transposed(const void *x, vit_type type, size_t first, int32_t rows,
                             int32_t columns, int32_t ld, int32_t offset, int16_t *y)
{
    int16_t row[VIT_PANEL];
    for (int32_t c0 = 0; c0 < columns; c0 += VIT_PANEL) {
        const int32_t n = vit_min32(VIT_PANEL, columns - c0);
        int16_t *panel = y + (size_t)c0 * (size_t)ld;
        for (int32_t r = 0; r < ld; ++r) {
            if (r < rows) {
                const size_t at = first + (size_t)r * (size_t)columns + (size_t)c0;
                vit_widen_s16(x, type, at, n, offset, row);
            }
            for (int32_t c = 0; c < n; ++c) {
                panel[(size_t)c * (size_t)ld + (size_t)r] = r < rows ? row[c] : (int16_t)0;
            }
        }
    }
}

static void widen_head(const vit_attention_shape *p, const void *key, const void *value,
                       int32_t batch, const buffers *s)
{
    const int32_t kp = vit_round_up16(p->k), np = vit_round_up16(p->n);
    const size_t first = (size_t)batch * (size_t)p->n * (size_t)p->k;
    const int32_t offset = vit_widen_offset(p->key_type, p->key_zp);
    if (p->key_columns != 0) {
        widen_transposed(key, p->key_type, first, p->k, p->n, kp, offset, s->key);
    } else {
        vit_widen_rows(key, p->key_type, first, (size_t)p->k, p->n, p->k, kp, offset, s->key);
    }
    widen_transposed(value, p->value_type, (size_t)batch * (size_t)p->n * (size_t)p->d, p->n, p->d,
                     np, vit_widen_offset(p->value_type, p->value_zp), s->value);
}

static void rows_of_head(const vit_attention_shape *p, const void *q, int32_t row0, int32_t rows,
                         const uint8_t *table, const vit_epilogue *scores, const vit_epilogue *e,
                         const buffers *s)
{
    const int32_t q_offset = vit_widen_offset(p->q_type, p->q_zp);
    const vit_gemm_shape first = {.m = rows,
                                  .n = p->n,
                                  .k = p->k,
                                  .ld = vit_round_up16(p->k),
                                  .ca = q_offset - p->q_zp,
                                  .cb = vit_widen_offset(p->key_type, p->key_zp) - p->key_zp};
    vit_widen_rows(q, p->q_type, (size_t)row0 * (size_t)p->k, (size_t)p->k, rows, p->k, first.ld,
                   q_offset, s->query);
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
    const vit_epilogue store = {.stages = NULL, .count = 0, .type = e->type, .y = e->y, .ld = e->ld};
    vit_epilogue_apply(&store, s->acc, p->d, row0, rows, 0, p->d);
}

void vit_attention_u8(const vit_attention_shape *p, const void *q, const void *key,
                      const void *value, const uint8_t *table, const vit_epilogue *scores,
                      const vit_epilogue *e, void *scratch)
{
    const buffers s = carve(p, scratch);
    for (int32_t batch = 0; batch < p->batch; ++batch) {
        widen_head(p, key, value, batch, &s);
        for (int32_t r0 = 0; r0 < p->m; r0 += p->block) {
            rows_of_head(p, q, batch * p->m + r0, vit_min32(p->block, p->m - r0), table, scores, e,
                         &s);
        }
    }
}
