/* kernel: attention with deferred softmax, AVX512-VNNI
 * layout: as vit_attention_u8()
 * in:     q s8 or u8; key and value s8; `scores` leaves at most 16 bits or is empty, then key may
 *         have a zero point (it moves all scores of a row alike); 0 <= frac - 4 <= 21
 * out:    s8 or u8, all of it; one stage VIT_NORMALIZE, rounding half up, shift >= 1, no shift_c
 * method: keys and values of a head are packed once. Then six query rows at a time go through
 *         scores, exponentials (one table of 256 bytes in registers), their sums and the product
 *         with the values, which ends in registers: one division a row, then 64-bit products with
 *         its reciprocal. Keys are padded with scores of -2^30, whose exponential is 0.
 * bounds: |scores| < 2^30, proven at emission
 * scratch: the arrays of carve(), each rounded up to 64 bytes
 */
#include "vit_avx512_window.h"

enum { ROWS = 6, PADDING = -(1 << 30) };

typedef struct {
    int32_t steps;  /* groups of 4 along the query's columns */
    int32_t vectors; /* 16 keys each */
    int32_t blocks; /* 64 keys each */
    int32_t groups; /* 4 keys each */
    int32_t panels; /* 64 value columns each */
    int8_t *key;    /* [steps][vectors][16][4] */
    int32_t *init;  /* [vectors * 16] */
    int8_t *value;  /* [panels][groups][64][4] */
    uint8_t *query; /* [ROWS][steps * 4] */
    int32_t *score; /* [ROWS][blocks * 64] */
    uint8_t *p;     /* the same; within a block, group 4 i + j holds keys 16 j + 4 i ... + 3 */
    int32_t *group; /* [groups] where in a row of p the groups of real keys are */
    uint32_t sum[ROWS];
} head;

static void *take(char **at, size_t bytes)
{
    void *start = *at;
    *at += vit_align64(bytes);
    return start;
}

/* The first of the four keys whose weights are at a place in a row of p. */
VIT_INLINE int32_t first_key(int32_t at)
{
    return (at & ~63) + (at & 12) * 4 + (at & 48) / 4;
}

static head carve(const vit_attention_shape *p, void *scratch)
{
    head h;
    char *at = (char *)scratch;
    h.steps = (p->k + 3) / 4;
    h.vectors = (p->n + 15) / 16;
    h.blocks = (p->n + 63) / 64;
    h.panels = (p->d + 63) / 64;
    const size_t keys = (size_t)h.blocks * 64;
    h.key = (int8_t *)take(&at, (size_t)h.steps * (size_t)h.vectors * 64);
    h.init = (int32_t *)take(&at, (size_t)h.vectors * 64);
    h.value = (int8_t *)take(&at, (size_t)h.panels * (size_t)h.vectors * 1024);
    h.query = (uint8_t *)take(&at, ROWS * (size_t)h.steps * 4);
    h.score = (int32_t *)take(&at, ROWS * keys * 4);
    h.p = (uint8_t *)take(&at, ROWS * keys);
    h.group = (int32_t *)take(&at, (size_t)h.vectors * 16);
    h.groups = 0;
    for (int32_t g = 0; g < 4 * h.vectors; ++g) {
        const int32_t width = vit_min32(4, h.vectors - g / 16 * 4); /* vectors of the block */
        const int32_t at = g / 16 * 64 + g % 16 / width * 16 + g % 16 % width * 4;
        if (first_key(at) < p->n) {
            h.group[h.groups++] = at;
        }
    }
    return h;
}

/* ---- packing ------------------------------------------------------------------------------- */

/* Transposes 16 x 16 lanes of 32 bits. */
VIT_INLINE void transpose16(__m512i x[16])
{
    __m512i t[16];
    for (int32_t i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int32_t i = 0; i < 16; i += 4) {
        x[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int32_t i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    }
    for (int32_t i = 0; i < 8; ++i) {
        x[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

/* Sixteen keys whose codes follow each other. */
static void pack_key_rows(const vit_attention_shape *p, const int8_t *key, const int32_t *tokens,
                          int32_t vector, const head *h)
{
    const int32_t first = 16 * vector;
    for (int32_t k0 = 0; k0 < p->k; k0 += 64) {
        const __mmask64 mask = vit_first64(p->k - k0);
        __m512i x[16];
        for (int32_t i = 0; i < 16; ++i) {
            x[i] = _mm512_setzero_si512();
            if (first + i < p->n) {
                const int8_t *row = key + vit_token(tokens, first + i, p->key_row) + k0;
                x[i] = _mm512_maskz_loadu_epi8(mask, row);
            }
        }
        transpose16(x);
        const int32_t step = k0 / 4;
        for (int32_t i = 0; i < 16 && step + i < h->steps; ++i) {
            const size_t at = (size_t)(step + i) * (size_t)h->vectors + (size_t)vector;
            _mm512_store_si512(h->key + 64 * at, x[i]);
        }
    }
}

/* Sixteen keys with any strides. */
static void pack_key_strided(const vit_attention_shape *p, const int8_t *key, int32_t vector,
                             const head *h)
{
    for (int32_t step = 0; step < h->steps; ++step) {
        int8_t *out = h->key + 64 * ((size_t)step * (size_t)h->vectors + (size_t)vector);
        for (int32_t i = 0; i < 64; ++i) {
            const int32_t n = 16 * vector + i / 4, k = 4 * step + i % 4;
            const ptrdiff_t at = (ptrdiff_t)n * p->key_row + (ptrdiff_t)k * p->key_step;
            out[i] = n < p->n && k < p->k ? key[at] : (int8_t)0;
        }
    }
}

/* Scores start from minus the query's zero point times the sum of the key. */
static void pack_key(const vit_attention_shape *p, const int8_t *key, const int32_t *tokens,
                     const head *h)
{
    const int32_t zp = p->q_zp + (p->q_type == VIT_S8 ? 128 : 0);
    const __m512i ones = _mm512_set1_epi8(1);
    for (int32_t v = 0; v < h->vectors; ++v) {
        if (p->key_step == 1) {
            pack_key_rows(p, key, tokens, v, h);
        } else {
            pack_key_strided(p, key, v, h);
        }
        __m512i sums = _mm512_setzero_si512();
        for (int32_t step = 0; step < h->steps; ++step) {
            const size_t at = (size_t)step * (size_t)h->vectors + (size_t)v;
            VIT_DOT(sums, ones, _mm512_load_si512(h->key + 64 * at));
        }
        const __mmask16 real = (__mmask16)vit_first64(p->n - 16 * v);
        const __m512i init = _mm512_mullo_epi32(sums, _mm512_set1_epi32(-zp));
        const __m512i padded = _mm512_mask_blend_epi32(real, _mm512_set1_epi32(PADDING), init);
        _mm512_store_si512(h->init + 16 * v, padded);
    }
}

/* Four values for every column, in the order in which p holds their weights. */
static void pack_value(const vit_attention_shape *p, const int8_t *value, const int32_t *tokens,
                       const head *h)
{
    int8_t *out = h->value;
    for (int32_t d0 = 0; d0 < p->d; d0 += 64) {
        const __mmask64 mask = vit_first64(p->d - d0);
        for (int32_t g = 0; g < h->groups; ++g, out += 256) {
            const int32_t first = first_key(h->group[g]);
            __m512i x[4];
            for (int32_t r = 0; r < 4; ++r) {
                x[r] = _mm512_setzero_si512();
                if (first + r < p->n) {
                    const int8_t *row = value + vit_token(tokens, first + r, p->value_ld) + d0;
                    x[r] = _mm512_maskz_loadu_epi8(mask, row);
                }
            }
            const __m512i low01 = _mm512_unpacklo_epi8(x[0], x[1]);
            const __m512i low23 = _mm512_unpacklo_epi8(x[2], x[3]);
            const __m512i high01 = _mm512_unpackhi_epi8(x[0], x[1]);
            const __m512i high23 = _mm512_unpackhi_epi8(x[2], x[3]);
            _mm512_store_si512(out, _mm512_unpacklo_epi16(low01, low23));
            _mm512_store_si512(out + 64, _mm512_unpackhi_epi16(low01, low23));
            _mm512_store_si512(out + 128, _mm512_unpacklo_epi16(high01, high23));
            _mm512_store_si512(out + 192, _mm512_unpackhi_epi16(high01, high23));
        }
    }
}

/* Query rows as unsigned bytes; the last row again where there are fewer than ROWS. */
static void copy_query(const vit_attention_shape *p, const uint8_t *q, const int32_t *tokens,
                       int32_t r0, int32_t rows, const head *h)
{
    const __m512i flip = _mm512_set1_epi8(p->q_type == VIT_S8 ? (char)-128 : 0);
    for (int32_t r = 0; r < ROWS; ++r) {
        const uint8_t *row = q + vit_token(tokens, r0 + vit_min32(r, rows - 1), p->q_ld);
        uint8_t *out = h->query + (size_t)r * (size_t)h->steps * 4;
        for (int32_t k = 0; k < p->k; k += 64) {
            const __m512i x = _mm512_maskz_loadu_epi8(vit_first64(p->k - k), row + k);
            const __mmask64 mask = vit_first64(4 * h->steps - k);
            _mm512_mask_storeu_epi8(out + k, mask, _mm512_xor_si512(x, flip));
        }
    }
}

/* ---- rows ---------------------------------------------------------------------------------- */

VIT_INLINE void scores_of(int32_t count, int32_t vector, const head *h)
{
    __m512i acc[ROWS][4];
    for (int32_t r = 0; r < ROWS; ++r) {
        for (int32_t j = 0; j < count; ++j) {
            acc[r][j] = _mm512_load_si512(h->init + 16 * (vector + j));
        }
    }
    const int8_t *key = h->key + 64 * (size_t)vector;
    const uint8_t *query = h->query;
    const size_t ld = 4 * (size_t)h->steps;
    for (int32_t step = 0; step < h->steps; ++step, query += 4, key += 64 * (size_t)h->vectors) {
        __m512i b[4];
        for (int32_t j = 0; j < count; ++j) {
            b[j] = _mm512_load_si512(key + 64 * j);
        }
        for (int32_t r = 0; r < ROWS; ++r) {
            const __m512i a = vit_repeat4(query + (size_t)r * ld);
            for (int32_t j = 0; j < count; ++j) {
                VIT_DOT(acc[r][j], a, b[j]);
            }
        }
    }
    for (int32_t r = 0; r < ROWS; ++r) {
        int32_t *out = h->score + (size_t)r * (size_t)h->blocks * 64 + 16 * vector;
        for (int32_t j = 0; j < count; ++j) {
            _mm512_store_si512(out + 16 * j, acc[r][j]);
        }
    }
}

/* Vectors left over are shared out, so that no tile has a single one with idle units. */
static void all_scores(const head *h)
{
    int32_t v = 0;
    while (v < h->vectors) {
        const int32_t left = h->vectors - v;
        if (left == 4 || left > 6) {
            scores_of(4, v, h);
            v += 4;
        } else if (left == 3 || left > 4) {
            scores_of(3, v, h);
            v += 3;
        } else if (left == 2) {
            scores_of(2, v, h);
            v += 2;
        } else {
            scores_of(1, v, h);
            v += 1;
        }
    }
}

/* Whether a stage adds a s16 tensor with the same shifts for all columns, within 32 bits. */
static int adds_in_32_bits(const vit_attention_shape *p, const vit_stage *s)
{
    if (s->kind != VIT_ADD || s->rounding != VIT_RHU || s->other_type != VIT_S16 ||
        s->left_v_c != NULL || s->left_o_c != NULL || s->shift_c != NULL || s->zp != 0 ||
        s->zp_in != 0 || s->other_zp != 0 || s->left_v < 0 || s->left_v > 30 || s->left_o < 0 ||
        s->left_o > 14 || s->shift < 1 || s->shift > 29) {
        return 0;
    }
    const int64_t largest = (int64_t)p->k * 255 * 128; /* of a score; s16 codes are smaller */
    const int64_t other = (int64_t)32768 * (1 << s->left_o) + (1 << (s->shift - 1));
    return (vit_max64(largest, 32768) << s->left_v) + other <= INT32_MAX;
}

static void add_to_row(const vit_stage *s, int32_t n, size_t first, int32_t *score)
{
    const int16_t *other = (const int16_t *)s->other + first;
    const __m128i left_v = _mm_cvtsi32_si128(s->left_v), left_o = _mm_cvtsi32_si128(s->left_o);
    const __m128i shift = _mm_cvtsi32_si128(s->shift);
    const __m512i half = _mm512_set1_epi32(1 << (s->shift - 1));
    const __m512i lo = _mm512_set1_epi32(s->lo), hi = _mm512_set1_epi32(s->hi);
    for (int32_t c = 0; c < n; c += 16) {
        const __mmask16 mask = (__mmask16)vit_first64(n - c);
        const __m512i o = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, other + c));
        const __m512i v = _mm512_sll_epi32(_mm512_load_si512(score + c), left_v);
        const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(v, half), _mm512_sll_epi32(o, left_o));
        const __m512i code = _mm512_sra_epi32(sum, shift);
        _mm512_mask_store_epi32(score + c, mask,
                                _mm512_min_epi32(_mm512_max_epi32(code, lo), hi));
    }
}

/* The stages between scores and exponentials, on rows from `row` on. */
static void apply_stages(const vit_attention_shape *p, const vit_epilogue *scores, int32_t row,
                         int32_t rows, const head *h)
{
    const size_t keys = (size_t)h->blocks * 64;
    for (int32_t i = 0; i < scores->count; ++i) {
        const vit_stage *s = &scores->stages[i];
        if (!adds_in_32_bits(p, s)) {
            vit_stage_apply(s, h->score, (int32_t)keys, row, rows, 0, p->n);
            continue;
        }
        for (int32_t r = 0; r < rows; ++r) {
            add_to_row(s, p->n, vit_other_index(s, row + r, 0), h->score + (size_t)r * keys);
        }
    }
}

/* The greatest score of a row, in all lanes. */
VIT_INLINE __m512i greatest(const int32_t *score, int32_t blocks)
{
    __m512i most[4];
    for (int32_t j = 0; j < 4; ++j) {
        most[j] = _mm512_load_si512(score + 16 * j);
    }
    for (int32_t b = 1; b < blocks; ++b) {
        for (int32_t j = 0; j < 4; ++j) {
            most[j] = _mm512_max_epi32(most[j], _mm512_load_si512(score + 64 * b + 16 * j));
        }
    }
    const __m512i low = _mm512_max_epi32(most[0], most[1]);
    __m512i m = _mm512_max_epi32(low, _mm512_max_epi32(most[2], most[3]));
    m = _mm512_max_epi32(m, _mm512_shuffle_i64x2(m, m, 0x4e));
    m = _mm512_max_epi32(m, _mm512_shuffle_i64x2(m, m, 0xb1));
    m = _mm512_max_epi32(m, _mm512_shuffle_epi32(m, _MM_PERM_BADC));
    return _mm512_max_epi32(m, _mm512_shuffle_epi32(m, _MM_PERM_CDAB));
}

/* Sixteen distances, less than 2^31. */
VIT_INLINE __m512i distance(const int32_t *score, __m512i top, int32_t shift)
{
    const __m512i d = _mm512_sub_epi32(top, _mm512_load_si512(score));
    return shift > 0 ? _mm512_srl_epi32(d, _mm_cvtsi32_si128(shift))
                     : _mm512_min_epu32(d, _mm512_set1_epi32(1 << 30));
}

/* p = table[min(255, rhu((max - score) / 2^shift))] of a row; returns their sums of eight. */
VIT_INLINE __m512i exponentials(const int32_t *score, int32_t blocks, int32_t shift,
                                const vit_bytes256 *table, uint8_t *p)
{
    const __m512i half = _mm512_set1_epi32(shift == 0 ? 0 : 1 << (shift - 1));
    const __m512i top = _mm512_add_epi32(greatest(score, blocks), half);
    __m512i sum = _mm512_setzero_si512();
    for (int32_t b = 0; b < blocks; ++b, score += 64, p += 64) {
        const __m512i low = _mm512_packs_epi32(distance(score, top, shift),
                                               distance(score + 16, top, shift));
        const __m512i high = _mm512_packs_epi32(distance(score + 32, top, shift),
                                                distance(score + 48, top, shift));
        const __m512i weights = vit_lookup(table, _mm512_packus_epi16(low, high));
        _mm512_store_si512(p, weights);
        sum = _mm512_add_epi64(sum, _mm512_sad_epu8(weights, _mm512_setzero_si512()));
    }
    return sum;
}

/* Weights and their sums of all rows; the sums of two rows are added up at once. */
static void all_exponentials(const head *h, int32_t shift, const vit_bytes256 *table,
                             uint32_t sum[ROWS])
{
    const size_t keys = (size_t)h->blocks * 64;
    for (size_t r = 0; r < ROWS; r += 2) {
        __m512i part[2];
        for (size_t i = 0; i < 2; ++i) {
            const int32_t *score = h->score + (r + i) * keys;
            uint8_t *p = h->p + (r + i) * keys;
            part[i] = shift > 0 ? exponentials(score, h->blocks, shift, table, p)
                                : exponentials(score, h->blocks, 0, table, p);
        }
        const __m512i both = _mm512_add_epi64(part[0], _mm512_slli_epi64(part[1], 32));
        const uint64_t sums = (uint64_t)_mm512_reduce_add_epi64(both);
        sum[r] = (uint32_t)sums;
        sum[r + 1] = (uint32_t)(sums >> 32);
    }
}

VIT_INLINE void weighted_sums(const head *h, const int8_t *value, const int32_t *init,
                              __m512i acc[ROWS][4])
{
    const size_t ld = (size_t)h->blocks * 64;
    for (int32_t r = 0; r < ROWS; ++r) {
        acc[r][0] = acc[r][1] = acc[r][2] = acc[r][3] = _mm512_set1_epi32(init[r]);
    }
    const int32_t *group = h->group, *end = group + h->groups;
    for (; group < end; ++group, value += 256) {
        const __m512i b0 = _mm512_load_si512(value), b1 = _mm512_load_si512(value + 64);
        const __m512i b2 = _mm512_load_si512(value + 128), b3 = _mm512_load_si512(value + 192);
        const uint8_t *p = h->p + *group;
        for (int32_t r = 0; r < ROWS; ++r) {
            const __m512i a = vit_repeat4(p + (size_t)r * ld);
            VIT_DOT(acc[r][0], a, b0);
            VIT_DOT(acc[r][1], a, b1);
            VIT_DOT(acc[r][2], a, b2);
            VIT_DOT(acc[r][3], a, b3);
        }
    }
}

VIT_INLINE void normalize_row(const vit_stage *s, uint32_t sum, const __m512i *acc, vit_type type,
                              __mmask64 mask, void *y)
{
    const vit_quotient q = vit_divided_by_sum(s, sum);
    const __m512i low =
        _mm512_packs_epi32(vit_divide(acc[0], &q), vit_divide(acc[1], &q));
    const __m512i high =
        _mm512_packs_epi32(vit_divide(acc[2], &q), vit_divide(acc[3], &q));
    const __m512i bytes =
        type == VIT_S8 ? _mm512_packs_epi16(low, high) : _mm512_packus_epi16(low, high);
    _mm512_mask_storeu_epi8(y, mask, bytes);
}

static void finish_rows(const vit_attention_shape *p, const vit_epilogue *e, const int32_t *tokens,
                        int32_t r0, int32_t rows, const head *h, char *y)
{
    int32_t init[ROWS];
    for (int32_t r = 0; r < ROWS; ++r) {
        init[r] = -p->value_zp * (int32_t)h->sum[r];
    }
    const int8_t *value = h->value;
    for (int32_t d0 = 0; d0 < p->d; d0 += 64, value += 256 * (size_t)h->groups) {
        __m512i acc[ROWS][4];
        weighted_sums(h, value, init, acc);
        const __mmask64 mask = vit_first64(p->d - d0);
        /* No loop, so that the accumulators are never an array in memory. */
#define VIT_FINISH(r)                                                                              \
    if (r < rows) {                                                                                \
        normalize_row(&e->stages[0], h->sum[r], acc[r], e->type, mask,                             \
                      y + vit_token(tokens, r0 + r, e->ld) + d0);                                  \
    }
        VIT_SIX(VIT_FINISH);
#undef VIT_FINISH
    }
}

void vit_attention_u8_avx512vnni(const vit_attention_shape *p, const void *q, const void *key,
                                 const void *value, const uint8_t *table,
                                 const vit_epilogue *scores, const vit_epilogue *e, void *scratch)
{
    if (vit_is_window(p, scores)) {
        vit_window_attention_avx512vnni(p, q, key, value, table, scores, e, scratch);
        return;
    }
    head h = carve(p, scratch);
    const vit_bytes256 exponential = vit_load_table(table);
    const size_t keys = (size_t)h.blocks * 64;
    for (size_t i = 0; i < ROWS * keys; i += 16) {
        _mm512_store_si512(h.score + i, _mm512_set1_epi32(PADDING));
    }
    const int32_t blocks = (p->m + ROWS - 1) / ROWS;
    const vit_range range = vit_share(p->batch * blocks, 1, p->part, p->parts);
    for (int32_t i = range.first; i < range.last;) {
        const int32_t batch = i / blocks;
        const vit_head own = vit_head_of(p, batch, q, key, value, e->y);
        pack_key(p, own.key, own.tokens, &h);
        pack_value(p, own.value, own.tokens, &h);
        for (; i < range.last && i / blocks == batch; ++i) {
            const int32_t r0 = i % blocks * ROWS;
            const int32_t count = vit_min32(ROWS, p->m - r0);
            copy_query(p, own.q, own.tokens, r0, count, &h);
            all_scores(&h);
            apply_stages(p, scores, batch * p->m + r0, count, &h);
            all_exponentials(&h, p->frac - 4, &exponential, h.sum);
            finish_rows(p, e, own.tokens, r0, count, &h, own.y);
        }
    }
}
