/* kernel: ReLU linear attention
 * layout: q[batch][tokens][dim], k[batch][key_tokens][dim], v[batch][key_tokens][value_dim],
 *         y[batch][tokens][value_dim], with the distances that their descriptions state
 * in:     after the stages of an operand q, k codes >= 0 of 8 bits, v of 8 bits
 * out:    Q (K^T V) / (Q sum K), the state shifted to 8 bits
 * method: one reciprocal of 16 bits, or one power of two, per token
 * scratch: (dim * value_dim + 2 * dim + 2 * value_dim) * 4 bytes
 */
#include "vit_arith.h"

typedef struct {
    int32_t *state; /* [dim][value_dim] */
    int32_t *key_sum, *left, *right, *out;
} buffers;

/* y += factor * x */
static inline void add_scaled(const int32_t *restrict x, int32_t factor, int32_t n,
                              int32_t *restrict y)
{
    for (int32_t j = 0; j < n; ++j) {
        y[j] += factor * x[j];
    }
}

/* The n codes of a token, after the operand's stages. */
static void load_token(const vit_tokens *x, int32_t batch, int32_t token, int32_t n, int32_t *y)
{
    const size_t at = (size_t)batch * (size_t)x->head + (size_t)token * (size_t)x->ld;
    vit_load_s32(x->x, x->type, at, n, y);
    for (int32_t i = 0; i < x->count; ++i) {
        vit_stage_apply(&x->stages[i], y, n, token, 1, 0, n);
    }
}

static void gather_state(const vit_linear_attn_shape *p, const vit_tokens *k, const vit_tokens *v,
                         int32_t batch, const buffers *s)
{
    const size_t dim = (size_t)p->dim, value_dim = (size_t)p->value_dim;
    for (size_t i = 0; i < dim * value_dim; ++i) {
        s->state[i] = 0;
    }
    for (size_t i = 0; i < dim; ++i) {
        s->key_sum[i] = 0;
    }
    for (int32_t t = 0; t < p->key_tokens; ++t) {
        load_token(k, batch, t, p->dim, s->left);
        load_token(v, batch, t, p->value_dim, s->right);
        for (int32_t i = 0; i < p->dim; ++i) {
            const int32_t key = s->left[i];
            s->key_sum[i] += key;
            add_scaled(s->right, key, p->value_dim, s->state + (size_t)i * value_dim);
        }
    }
    for (size_t i = 0; i < dim * value_dim; ++i) {
        const int64_t y = vit_round_shift(s->state[i], p->kv_shift, p->rounding);
        s->state[i] = (int32_t)vit_clamp64(y, -128, 127);
    }
    for (size_t i = 0; i < dim; ++i) {
        const int64_t y = vit_round_shift(s->key_sum[i], p->ksum_shift, p->rounding);
        s->key_sum[i] = (int32_t)vit_clamp64(y, 0, 255);
    }
}

/* round(log2 x) in the log domain: the mantissa is compared with sqrt(2) in Q.31. */
static int32_t rounded_log2(uint32_t x)
{
    const int32_t b = vit_blen(x) - 1;
    return b + (((uint64_t)x << (31 - b)) > UINT64_C(0xB504F333) ? 1 : 0);
}

/* Rounding half up by a shift that 64 bits have. */
static void divide_short(const vit_linear_attn_shape *p, int64_t factor, int32_t shift,
                         int32_t *restrict out)
{
    const int32_t n = p->value_dim;
    const int64_t zp = p->zp, lo = p->lo, hi = p->hi;
    for (int32_t j = 0; j < n; ++j) {
        const int64_t product = out[j] * factor; /* below 2^48 */
        const int64_t y = (product >> shift) + ((product >> (shift - 1)) & 1) + zp;
        out[j] = (int32_t)vit_clamp64(y, lo, hi);
    }
}

static void divide_row(const vit_linear_attn_shape *p, uint32_t divisor, int32_t *out)
{
    const int32_t nb = vit_blen(divisor);
    const int64_t factor =
        p->pot != 0 || divisor == 0 ? 1 : (int64_t)(((uint64_t)1 << (nb + 15)) / divisor);
    const int32_t shift =
        (divisor == 0 ? 0 : p->pot != 0 ? rounded_log2(divisor) : nb + 15) + p->shift;
    if (divisor != 0 && p->rounding == VIT_RHU && shift >= 1 && shift <= 62) {
        divide_short(p, factor, shift, out);
        return;
    }
    for (int32_t j = 0; j < p->value_dim; ++j) {
        const int64_t y =
            divisor == 0 ? 0 : vit_round_shift(out[j] * factor, shift, p->rounding);
        out[j] = (int32_t)vit_code(y, p->zp, p->lo, p->hi);
    }
}

/* The query in s->left times the state; returns its product with the sum of the keys. */
static uint32_t multiply_row(const vit_linear_attn_shape *p, const buffers *s)
{
    const int32_t n = p->value_dim, dim = p->dim;
    uint32_t divisor = 0;
    for (int32_t j = 0; j < n; ++j) {
        s->out[j] = 0;
    }
    for (int32_t i = 0; i < dim; ++i) {
        const int32_t query = s->left[i];
        divisor += (uint32_t)query * (uint32_t)s->key_sum[i];
        add_scaled(s->state + (size_t)i * (size_t)n, query, n, s->out);
    }
    return divisor;
}

void vit_linear_attn(const vit_linear_attn_shape *p, const vit_tokens *q, const vit_tokens *k,
                     const vit_tokens *v, void *y, void *scratch)
{
    const size_t dim = (size_t)p->dim, value_dim = (size_t)p->value_dim;
    buffers s;
    s.state = (int32_t *)scratch;
    s.key_sum = s.state + dim * value_dim;
    s.left = s.key_sum + dim;
    s.right = s.left + dim;
    s.out = s.right + value_dim;
    const vit_range range = vit_share(p->batch, 1, p->part, p->parts);
    for (int32_t batch = range.first; batch < range.last; ++batch) {
        gather_state(p, k, v, batch, &s);
        for (int32_t t = 0; t < p->tokens; ++t) {
            load_token(q, batch, t, p->dim, s.left);
            const uint32_t divisor = multiply_row(p, &s);
            divide_row(p, divisor, s.out);
            const size_t at = (size_t)batch * (size_t)p->y_head + (size_t)t * (size_t)p->y_ld;
            vit_store_s32(s.out, p->value_dim, y, p->y_type, at);
        }
    }
}
