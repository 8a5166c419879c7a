/* kernel: ReLU linear attention, AVX512-VNNI
 * layout: as vit_linear_attn(); dim a multiple of 4 up to 64, value_dim a multiple of 16
 * in:     s8 or s16 codes without zero points, which may go through VIT_REQUANT by 1 to 15 bits,
 *         rounding half up, and clamps; s8 after that, those of q and k >= 0
 * out:    s8 or u8, all of it; rounding half up
 * method: the state is a product over tokens, four at a time; a query row is a product with the state,
 *         sixteen value columns a register, and with the key sum as unsigned bytes; then one
 *         reciprocal (or power of two) a row and 64-bit products with it
 * bounds: sums are those of vit_linear_attn()
 * scratch: the arrays of carve(), each rounded up to 64 bytes
 */
#include "vit_avx512.h"

typedef struct {
    int32_t *sums;  /* [dim][value_dim] */
    int32_t *total; /* [dim] */
    int8_t *state;  /* [dim / 4][value_dim][4] */
    uint8_t *keys;  /* [dim] key sum, then 0 up to 64 */
    uint8_t *tile;  /* four keys: [64][4] */
    int8_t *values; /* four values: [value_dim][4] */
    int8_t *q, *k, *v; /* operands of a head, after their stages */
} buffers;

static void *take(char **at, size_t bytes)
{
    void *start = *at;
    *at += vit_align64(bytes);
    return start;
}

static buffers carve(const vit_linear_attn_shape *p, void *scratch)
{
    const size_t dim = (size_t)p->dim, value_dim = (size_t)p->value_dim;
    char *at = (char *)scratch;
    buffers s;
    s.sums = (int32_t *)take(&at, dim * value_dim * 4);
    s.total = (int32_t *)take(&at, dim * 4);
    s.state = (int8_t *)take(&at, dim * value_dim);
    s.keys = (uint8_t *)take(&at, 64);
    s.tile = (uint8_t *)take(&at, 256);
    s.values = (int8_t *)take(&at, value_dim * 4);
    s.q = (int8_t *)take(&at, (size_t)p->tokens * dim);
    s.k = (int8_t *)take(&at, (size_t)p->key_tokens * dim);
    s.v = (int8_t *)take(&at, (size_t)p->key_tokens * value_dim);
    return s;
}

/* What words go through: a shift by k bits, rounded half up, is a product with 2^(15 - k). */
typedef struct {
    int32_t shift;
    __m512i factor, lo, hi;
} conversion;

static conversion conversion_of(const vit_tokens *x)
{
    conversion c = {.shift = 0};
    int32_t lo = -128, hi = 127;
    for (int32_t i = 0; i < x->count; ++i) {
        const vit_stage *s = &x->stages[i];
        lo = s->lo > lo ? s->lo : lo;
        hi = s->hi < lo ? lo : vit_min32(s->hi, hi);
        c.shift = s->kind == VIT_REQUANT ? s->shift : c.shift;
    }
    c.factor = _mm512_set1_epi16((int16_t)(c.shift == 0 ? 0 : 1 << (15 - c.shift)));
    c.lo = _mm512_set1_epi16((int16_t)lo);
    c.hi = _mm512_set1_epi16((int16_t)hi);
    return c;
}

/* The tokens of a head, n bytes each, dense. */
static void fetch(const vit_tokens *x, const conversion *c, size_t head, int32_t tokens, int32_t n,
                  int8_t *y)
{
    const size_t size = x->type == VIT_S16 ? 2 : 1;
    const char *row = (const char *)x->x + head * (size_t)x->head * size;
    for (int32_t t = 0; t < tokens; ++t, row += (size_t)x->ld * size, y += n) {
        for (int32_t i = 0; i < n; i += 32) {
            const __mmask32 mask = (__mmask32)vit_first64(n - i);
            __m512i v = size == 2 ? _mm512_maskz_loadu_epi16(mask, row + 2 * i)
                                  : _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, row + i));
            v = c->shift == 0 ? v : _mm512_mulhrs_epi16(v, c->factor);
            v = _mm512_min_epi16(_mm512_max_epi16(v, c->lo), c->hi);
            _mm256_mask_storeu_epi8(y + i, mask, _mm512_cvtepi16_epi8(v));
        }
    }
}

/* Four rows of n bytes as groups of four; rows that do not exist are 0. */
static void interleave(const int8_t *x, int32_t n, int32_t rows, uint8_t *y)
{
    for (int32_t c = 0; c < n; c += 16) {
        const __mmask16 mask = (__mmask16)vit_first64(n - c);
        __m128i row[4];
        for (int32_t r = 0; r < 4; ++r) {
            row[r] = r < rows ? _mm_maskz_loadu_epi8(mask, x + (size_t)r * (size_t)n + c)
                              : _mm_setzero_si128();
        }
        const __m128i low01 = _mm_unpacklo_epi8(row[0], row[1]);
        const __m128i low23 = _mm_unpacklo_epi8(row[2], row[3]);
        const __m128i high01 = _mm_unpackhi_epi8(row[0], row[1]);
        const __m128i high23 = _mm_unpackhi_epi8(row[2], row[3]);
        __m128i *out = (__m128i *)(void *)(y + 4 * c);
        _mm_store_si128(out, _mm_unpacklo_epi16(low01, low23));
        _mm_store_si128(out + 1, _mm_unpackhi_epi16(low01, low23));
        _mm_store_si128(out + 2, _mm_unpacklo_epi16(high01, high23));
        _mm_store_si128(out + 3, _mm_unpackhi_epi16(high01, high23));
    }
}

static void sum_products(const vit_linear_attn_shape *p, const int8_t *k, const int8_t *v,
                         const buffers *s)
{
    const __m512i ones = _mm512_set1_epi8(1);
    memset(s->sums, 0, (size_t)p->dim * (size_t)p->value_dim * 4);
    __m512i total[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                        _mm512_setzero_si512()};
    for (int32_t t = 0; t < p->key_tokens; t += 4) {
        const int32_t rows = vit_min32(4, p->key_tokens - t);
        interleave(k + (size_t)t * (size_t)p->dim, p->dim, rows, s->tile);
        interleave(v + (size_t)t * (size_t)p->value_dim, p->value_dim, rows, (uint8_t *)s->values);
        for (int32_t i = 0; i < p->dim; i += 16) {
            VIT_DOT(total[i / 16], _mm512_load_si512(s->tile + 4 * i), ones);
        }
        for (int32_t i = 0; i < p->dim; ++i) {
            const __m512i key = vit_repeat4(s->tile + 4 * i);
            int32_t *sums = s->sums + (size_t)i * (size_t)p->value_dim;
            for (int32_t j = 0; j < p->value_dim; j += 16) {
                __m512i acc = _mm512_load_si512(sums + j);
                VIT_DOT(acc, key, _mm512_load_si512(s->values + 4 * j));
                _mm512_store_si512(sums + j, acc);
            }
        }
    }
    for (int32_t i = 0; i < p->dim; i += 16) {
        _mm512_mask_storeu_epi32(s->total + i, (__mmask16)vit_first64(p->dim - i), total[i / 16]);
    }
}

/* round(x / 2^shift), half up, saturated; `shift` is 1 to 31 for the vectors of a compiler. */
static void shift_values(const int32_t *restrict x, int32_t n, int32_t shift, int32_t lo, int32_t hi,
                         int32_t *restrict y)
{
    if (shift >= 1 && shift <= 31) {
        for (int32_t i = 0; i < n; ++i) {
            y[i] = vit_clamp32((x[i] >> shift) + ((x[i] >> (shift - 1)) & 1), lo, hi);
        }
        return;
    }
    for (int32_t i = 0; i < n; ++i) {
        y[i] = (int32_t)vit_clamp64(vit_round_shift(x[i], shift, VIT_RHU), lo, hi);
    }
}

/* Sums to the 8-bit state and key sum. */
static void finish_state(const vit_linear_attn_shape *p, const buffers *s)
{
    int32_t row[64];
    for (int32_t i = 0; i < p->dim; ++i) {
        int32_t *sums = s->sums + (size_t)i * (size_t)p->value_dim;
        int8_t *state = s->state + (size_t)(i / 4) * (size_t)p->value_dim * 4 + i % 4;
        for (int32_t j = 0; j < p->value_dim; j += 16) {
            shift_values(sums + j, 16, p->kv_shift, -128, 127, row);
            for (int32_t c = 0; c < 16; ++c) {
                state[4 * (j + c)] = (int8_t)row[c];
            }
        }
    }
    shift_values(s->total, p->dim, p->ksum_shift, 0, 255, row);
    memset(s->keys, 0, 64);
    for (int32_t i = 0; i < p->dim; ++i) {
        s->keys[i] = (uint8_t)row[i];
    }
}

/* round(log2 x) in the log domain: the mantissa is compared with sqrt(2) in Q.31. */
static int32_t rounded_log2(uint32_t x)
{
    const int32_t b = vit_blen(x) - 1;
    return b + (((uint64_t)x << (31 - b)) > UINT64_C(0xB504F333) ? 1 : 0);
}

/* The division by the sum of keys. */
static vit_quotient divide_by(const vit_linear_attn_shape *p, uint32_t divisor)
{
    if (p->pot != 0) {
        return vit_quotient_of(1, p->shift + rounded_log2(divisor), p->zp);
    }
    const int32_t nb = vit_blen(divisor);
    const uint64_t reciprocal = ((uint64_t)1 << (nb + 15)) / divisor;
    return vit_quotient_of((int64_t)reciprocal, p->shift + nb + 15, p->zp);
}

static void query_row(const vit_linear_attn_shape *p, const int8_t *q, const buffers *s, char *y)
{
    const __m512i query = _mm512_maskz_loadu_epi8(vit_first64(p->dim), q);
    __m512i parts = _mm512_setzero_si512();
    VIT_DOT(parts, _mm512_load_si512(s->keys), query);
    const uint32_t divisor = (uint32_t)_mm512_reduce_add_epi32(parts);
    const vit_quotient d = divide_by(p, divisor == 0 ? 1 : divisor);
    for (int32_t j = 0; j < p->value_dim; j += 16) {
        const int8_t *state = s->state + 4 * j;
        __m512i acc = _mm512_setzero_si512();
        for (int32_t i = 0; i < p->dim; i += 4, state += 4 * (size_t)p->value_dim) {
            VIT_DOT(acc, vit_repeat4((const uint8_t *)q + i), _mm512_load_si512(state));
        }
        acc = divisor == 0 ? _mm512_set1_epi32(p->zp) : vit_divide(acc, &d);
        const __m128i codes =
            p->y_type == VIT_S8
                ? _mm512_cvtsepi32_epi8(acc)
                : _mm512_cvtusepi32_epi8(_mm512_max_epi32(acc, _mm512_setzero_si512()));
        _mm_storeu_si128((__m128i *)(void *)(y + j), codes);
    }
}

void vit_linear_attn_avx512vnni(const vit_linear_attn_shape *p, const vit_tokens *q,
                                const vit_tokens *k, const vit_tokens *v, void *y, void *scratch)
{
    const buffers s = carve(p, scratch);
    const conversion of_q = conversion_of(q), of_k = conversion_of(k), of_v = conversion_of(v);
    const size_t tokens = (size_t)p->tokens;
    const vit_range range = vit_share(p->batch, 1, p->part, p->parts);
    for (size_t head = (size_t)range.first; head < (size_t)range.last; ++head) {
        fetch(q, &of_q, head, p->tokens, p->dim, s.q);
        fetch(k, &of_k, head, p->key_tokens, p->dim, s.k);
        fetch(v, &of_v, head, p->key_tokens, p->value_dim, s.v);
        sum_products(p, s.k, s.v, &s);
        finish_state(p, &s);
        char *out = (char *)y + head * (size_t)p->y_head;
        for (size_t t = 0; t < tokens; ++t) {
            query_row(p, s.q + t * (size_t)p->dim, &s, out + t * (size_t)p->y_ld);
        }
    }
}
