/* Attention with deferred softmax for instruction levels with registers of up to 256 bits, on the tiles
 * of vit_narrow_tile.h.
 *
 * in:     what vit_attention_u8_avx512vnni() takes
 * method: keys and values of a head are packed like weights once. Then ROWS query rows at a time go
 *         through scores, exponentials and the product with the values
 * scratch: the arrays of carve(), each rounded up to 64 bytes */
#ifndef VIT_NARROW_ATTENTION_H
#define VIT_NARROW_ATTENTION_H

#include "vit_narrow_tile.h"

typedef struct {
    size_t key_steps, value_steps; /* query columns and keys, in whole groups */
    size_t keys;                   /* columns of scores: whole panels */
    vit_operand *key, *value;      /* panels */
    vit_operand *query, *weight;   /* [ROWS][key_steps], [ROWS][value_steps] */
    int32_t *key_init, *value_init;
    int32_t *score; /* [ROWS][keys] */
    uint8_t *index; /* [keys] */
    uint32_t sum[ROWS];
} head;

static size_t whole_panels(int32_t n)
{
    return ((size_t)n + COLUMNS - 1) / COLUMNS * COLUMNS;
}

static void *take(char **at, size_t bytes)
{
    void *start = *at;
    *at += vit_align64(bytes);
    return start;
}

static head carve(const vit_attention_shape *p, void *scratch)
{
    const size_t size = sizeof(vit_operand), columns = whole_panels(p->d);
    char *at = (char *)scratch;
    head h;
    h.key_steps = whole_groups(p->k);
    h.value_steps = whole_groups(p->n);
    h.keys = whole_panels(p->n);
    h.key = (vit_operand *)take(&at, h.keys * h.key_steps * size);
    h.value = (vit_operand *)take(&at, columns * h.value_steps * size);
    h.query = (vit_operand *)take(&at, ROWS * h.key_steps * size);
    h.weight = (vit_operand *)take(&at, ROWS * h.value_steps * size);
    h.key_init = (int32_t *)take(&at, h.keys * 4);
    h.value_init = (int32_t *)take(&at, columns * 4);
    h.score = (int32_t *)take(&at, ROWS * h.keys * 4);
    h.index = (uint8_t *)take(&at, h.keys);
    return h;
}

/* Scores start from minus the query's zero point times the sum of the key. */
static void pack_key(const vit_attention_shape *p, const int8_t *key, const head *h)
{
    const int32_t zp = p->q_zp + raised_by(p->q_type);
    for (int32_t n = 0; n < p->n; ++n) {
        const int8_t *row = key + (ptrdiff_t)n * p->key_row;
        vit_operand *out = h->key + (size_t)n / COLUMNS * COLUMNS * h->key_steps +
                           (size_t)n % COLUMNS * GROUP;
        int32_t sum = 0;
        for (int32_t k = 0; k < p->k; k += GROUP, out += COLUMNS * GROUP) {
            for (int32_t i = 0; i < GROUP; ++i) {
                const int32_t code = k + i < p->k ? row[(ptrdiff_t)(k + i) * p->key_step] : 0;
                out[i] = (vit_operand)code;
                sum += code;
            }
        }
        h->key_init[n] = -zp * sum;
    }
}

/* Products with the values start from what the exponentials, as operands, lack. */
static void pack_value(const vit_attention_shape *p, const int8_t *value, const head *h)
{
    const int32_t missing = -raised_by(VIT_U8);
    for (int32_t d0 = 0; d0 < p->d; d0 += COLUMNS) {
        const int32_t columns = vit_min32(COLUMNS, p->d - d0);
        int32_t sums[COLUMNS] = {0};
        vit_operand *out = h->value + (size_t)d0 * h->value_steps;
        for (int32_t n = 0; n < p->n; n += GROUP, out += COLUMNS * GROUP) {
            for (int32_t i = 0; i < GROUP; ++i) {
                const int8_t *row = value + (ptrdiff_t)vit_min32(n + i, p->n - 1) * p->value_ld + d0;
                const int32_t real = n + i < p->n ? -1 : 0;
                for (int32_t c = 0; c < columns; ++c) {
                    const int32_t code = row[c] & real;
                    out[c * GROUP + i] = (vit_operand)code;
                    sums[c] += code;
                }
            }
        }
        for (int32_t c = 0; c < columns; ++c) {
            h->value_init[d0 + c] = missing * sums[c];
        }
    }
}

static void all_scores(const vit_attention_shape *p, int32_t rows, const head *h)
{
    for (int32_t n = 0; n < p->n; n += STRIPE) {
        int32_t acc[ROWS][STRIPE];
        const vit_operand *key = h->key + (size_t)n / COLUMNS * COLUMNS * h->key_steps +
                                 (size_t)n % COLUMNS * GROUP;
        multiply_stripe(h->query, h->key_steps, rows, h->key_steps, key, h->key_init + n, acc);
        for (int32_t r = 0; r < rows; ++r) {
            memcpy(h->score + (size_t)r * h->keys + n, acc[r], sizeof acc[r]);
        }
    }
}

/* p = table[min(255, rhu((max - score) / 2^shift))] as operands, and the sum of p. */
static uint32_t exponentials(const int32_t *restrict score, int32_t n, int32_t shift,
                             const uint8_t *table, uint8_t *restrict index,
                             vit_operand *restrict weight)
{
    const uint8_t flip = flip_of(VIT_U8);
    const uint32_t half = shift == 0 ? 0 : (uint32_t)1 << (shift - 1);
    int32_t most = score[0];
    for (int32_t i = 1; i < n; ++i) {
        most = score[i] > most ? score[i] : most;
    }
    const uint32_t top = (uint32_t)most + half;
    for (int32_t i = 0; i < n; ++i) {
        const uint32_t distance = (top - (uint32_t)score[i]) >> shift;
        index[i] = (uint8_t)(distance < 255 ? distance : 255);
    }
    uint32_t sum = 0;
    for (int32_t i = 0; i < n; ++i) {
        const uint8_t p = table[index[i]];
        weight[i] = (vit_operand)(vit_byte)(p ^ flip);
        sum += p;
    }
    return sum;
}

/* One division a row, then 64-bit products with its reciprocal. 2^62 is added before the shift and what
 * becomes of it taken off afterwards, so that a logical shift will do. */
static void normalize_stripe(const vit_stage *s, uint32_t sum, int32_t zero, const int32_t *acc,
                             int32_t cols, vit_type type, uint8_t *y)
{
    const int32_t nb = vit_blen(sum), shift = nb + s->shift;
    const int32_t reciprocal = (int32_t)(((uint64_t)1 << (nb + 15)) / sum);
    const uint64_t constant = ((uint64_t)1 << 62) + ((uint64_t)1 << (shift - 1)) +
                              (uint64_t)s->zp * ((uint64_t)1 << shift);
    const uint32_t offset = (uint32_t)(((uint64_t)1 << 62) >> shift);
    int32_t v[STRIPE];
    int16_t words[STRIPE];
    uint8_t bytes[STRIPE];
    for (int32_t c = 0; c < STRIPE; ++c) {
        const uint64_t scaled = (uint64_t)((int64_t)(acc[c] + zero) * reciprocal) + constant;
        v[c] = (int32_t)((uint32_t)(scaled >> shift) - offset);
    }
    pack_words(v, words);
    pack_bytes(words, type == VIT_S8, bytes);
    memcpy(y, bytes, (size_t)cols);
}

static void finish_rows(const vit_attention_shape *p, const vit_epilogue *e, int32_t rows,
                        const head *h, uint8_t *y)
{
    for (int32_t d = 0; d < p->d; d += STRIPE) {
        int32_t acc[ROWS][STRIPE];
        const vit_operand *value = h->value + (size_t)d / COLUMNS * COLUMNS * h->value_steps +
                                   (size_t)d % COLUMNS * GROUP;
        multiply_stripe(h->weight, h->value_steps, rows, h->value_steps, value, h->value_init + d,
                        acc);
        for (int32_t r = 0; r < rows; ++r) {
            normalize_stripe(&e->stages[0], h->sum[r], -p->value_zp * (int32_t)h->sum[r], acc[r],
                             vit_min32(STRIPE, p->d - d), e->type, y + (ptrdiff_t)r * e->ld + d);
        }
    }
}

static void rows_of_head(const vit_attention_shape *p, const uint8_t *q, int32_t row,
                         int32_t rows, const uint8_t *table, const vit_epilogue *scores,
                         const vit_epilogue *e, head *h, uint8_t *y)
{
    for (int32_t r = 0; r < rows; ++r) {
        copy_row(q + (ptrdiff_t)r * p->q_ld, flip_of(p->q_type), p->k,
                 h->query + (size_t)r * h->key_steps);
    }
    all_scores(p, rows, h);
    for (int32_t i = 0; i < scores->count; ++i) {
        vit_stage_apply(&scores->stages[i], h->score, (int32_t)h->keys, row, rows, 0, p->n);
    }
    for (int32_t r = 0; r < rows; ++r) {
        h->sum[r] = exponentials(h->score + (size_t)r * h->keys, p->n, p->frac - 4, table, h->index,
                                 h->weight + (size_t)r * h->value_steps);
    }
    finish_rows(p, e, rows, h, y);
}

static void vit_narrow_attention(const vit_attention_shape *p, const void *q, const void *key,
                                 const void *value, const uint8_t *table,
                                 const vit_epilogue *scores, const vit_epilogue *e, void *scratch)
{
    head h = carve(p, scratch);
    memset(h.key_init, 0, h.keys * 4);
    memset(h.value_init, 0, whole_panels(p->d) * 4);
    memset(h.weight, 0, ROWS * h.value_steps * sizeof(vit_operand));
    const int32_t blocks = (p->m + ROWS - 1) / ROWS;
    const vit_range range = vit_share(p->batch * blocks, 1, p->part, p->parts);
    for (int32_t i = range.first; i < range.last;) {
        const int32_t batch = i / blocks;
        const ptrdiff_t outer = batch / p->heads, inner = batch % p->heads;
        const uint8_t *rows = (const uint8_t *)q + outer * p->q_outer + inner * p->q_head;
        uint8_t *y = (uint8_t *)e->y + outer * p->y_outer + inner * p->y_head;
        pack_key(p, (const int8_t *)key + outer * p->key_outer + inner * p->key_head, &h);
        pack_value(p, (const int8_t *)value + outer * p->value_outer + inner * p->value_head, &h);
        for (; i < range.last && i / blocks == batch; ++i) {
            const int32_t r0 = i % blocks * ROWS;
            rows_of_head(p, rows + (ptrdiff_t)r0 * p->q_ld, batch * p->m + r0,
                         vit_min32(ROWS, p->m - r0), table, scores, e, &h,
                         y + (ptrdiff_t)r0 * e->ld);
        }
    }
}

#endif
