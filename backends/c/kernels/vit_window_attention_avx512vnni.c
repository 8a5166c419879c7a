/* kernel: attention with deferred softmax among 33 to 64 keys, AVX512-VNNI
 * layout: as vit_attention_u8()
 * in:     as vit_attention_u8_avx512vnni(); up to 32 query and value columns; scores go through sums
 *         with s16 tensors, to all of s16
 * out:    as vit_attention_u8_avx512vnni()
 * method: like that kernel, but scores become words as soon as they are sums: a row of them is two
 *         registers, its maximum one instruction, its weights one register. Keys and values are packed
 *         so that words and bytes end in order
 * bounds: sums fit 32 bits, checked by vit_is_window()
 * scratch: one `window`
 */
#include "vit_avx512_window.h"

enum { ROWS = 6, STEPS = 8, MOST_SUMS = 4 };

typedef struct {
    _Alignas(64) int8_t key[STEPS][4][64]; /* four codes of sixteen keys a vector */
    int32_t init[4][16];
    int8_t value[16][2][64]; /* four keys of sixteen columns a vector */
    uint8_t query[ROWS][4 * STEPS];
    uint8_t p[ROWS][64]; /* weights, group g of four keys at GROUP[g] */
    uint8_t order[2][64];
    int32_t steps;
} window;

_Static_assert(sizeof(window) <= 5504, "fits the scratch of the smallest head of 33 keys");

/* Functions with many accumulators are compiled by themselves, and nothing but their dot products is a
 * loop, so that these stay in registers. */
#define VIT_APART static __attribute__((noinline))

/* Where packing two registers of words to bytes puts groups of four. */
static const uint8_t GROUP[16] = {0, 4, 16, 20, 32, 36, 48, 52, 8, 12, 24, 28, 40, 44, 56, 60};

/* A sum with a s16 tensor: (v * 2^left_v + o * 2^left_o + half) / 2^shift. */
typedef struct {
    const vit_stage *stage;
    __m512i half, pair; /* the factors of v and o as words */
    __m128i left_v, left_o, shift;
    int plain; /* no shifts */
} word_sum;

static int is_sum(const vit_stage *s, int64_t largest, int32_t most)
{
    if (s->kind != VIT_ADD || s->rounding != VIT_RHU || s->other_type != VIT_S16 ||
        s->left_v_c != NULL || s->left_o_c != NULL || s->shift_c != NULL || s->zp != 0 ||
        s->zp_in != 0 || s->other_zp != 0 || s->left_v < 0 || s->left_v > most || s->left_o < 0 ||
        s->left_o > 14 || s->shift < 0 || s->shift > 28 || s->lo != INT16_MIN ||
        s->hi != INT16_MAX) {
        return 0;
    }
    const int64_t other = (int64_t)32768 * (1 << s->left_o) + ((int64_t)1 << s->shift);
    return (largest << s->left_v) + other <= INT32_MAX;
}

int vit_is_window(const vit_attention_shape *p, const vit_epilogue *scores)
{
    const int64_t largest = (int64_t)p->k * 255 * 128; /* of a score */
    if (p->n <= 32 || p->n > 64 || p->k > 4 * STEPS || p->d > 32 || p->key_step != 1 ||
        p->frac - 4 > 8 || scores->count < 1 || scores->count > MOST_SUMS ||
        !is_sum(&scores->stages[0], largest, 30)) {
        return 0;
    }
    for (int32_t i = 1; i < scores->count; ++i) {
        if (!is_sum(&scores->stages[i], 32768, 14)) {
            return 0;
        }
    }
    return 1;
}

static word_sum sum_of(const vit_stage *s)
{
    word_sum sum = {.stage = s};
    sum.half = _mm512_set1_epi32(s->shift > 0 ? 1 << (s->shift - 1) : 0);
    const uint32_t factor = s->left_v > 14 ? 0 : (uint32_t)1 << s->left_v;
    sum.pair = _mm512_set1_epi32((int32_t)(factor | (uint32_t)1 << (16 + s->left_o)));
    sum.left_v = _mm_cvtsi32_si128(s->left_v);
    sum.left_o = _mm_cvtsi32_si128(s->left_o);
    sum.shift = _mm_cvtsi32_si128(s->shift);
    sum.plain = s->left_v == 0 && s->left_o == 0 && s->shift == 0;
    return sum;
}

/* ---- packing ------------------------------------------------------------------------------- */

VIT_INLINE __m256i row_or_zero(const int8_t *first, const int32_t *tokens, int32_t ld,
                               int32_t row, int32_t rows, __mmask32 mask)
{
    return row < rows ? _mm256_maskz_loadu_epi8(mask, first + vit_token(tokens, row, ld))
                      : _mm256_setzero_si256();
}

/* Lane e of vector 2 v + j holds key 32 v + 8 (e / 4) + 4 j + e % 4. */
static void pack_key(const vit_attention_shape *p, const int8_t *key, const int32_t *tokens,
                     window *h)
{
    const __mmask32 mask = (__mmask32)vit_first64(p->k);
    const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i back = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    const int32_t zp = p->q_zp + (p->q_type == VIT_S8 ? 128 : 0);
    const __m512i ones = _mm512_set1_epi8(1);
    for (int32_t v = 0; v < 4; ++v) {
        __m512i x[8], t[8], y[8], sums = _mm512_setzero_si512();
        for (int32_t i = 0; i < 8; ++i) { /* lanes i and i + 8 */
            const int32_t row = 32 * (v / 2) + 8 * (i / 4) + 4 * (v % 2) + i % 4;
            const __m256i low = row_or_zero(key, tokens, p->key_row, row, p->n, mask);
            const __m256i high = row_or_zero(key, tokens, p->key_row, row + 16, p->n, mask);
            x[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
        }
        for (int32_t i = 0; i < 8; i += 2) {
            t[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
            t[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
        }
        for (int32_t i = 0; i < 8; i += 4) { /* columns 0 to 3 of four rows, and 4 to 7 */
            x[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
            x[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
            x[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
            x[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        for (int32_t i = 0; i < 4; ++i) {
            y[i] = _mm512_permutex2var_epi64(x[i], front, x[i + 4]);
            y[i + 4] = _mm512_permutex2var_epi64(x[i], back, x[i + 4]);
        }
        for (int32_t i = 0; i < STEPS; ++i) {
            VIT_DOT(sums, ones, y[i]);
            _mm512_store_si512(h->key[i][v], y[i]);
        }
        _mm512_store_si512(h->init[v], _mm512_mullo_epi32(sums, _mm512_set1_epi32(-zp)));
    }
}

/* Where bytes of four rows of 32 go: lane e of vector j holds column 8 (e / 4) + 4 j + e % 4. */
static void set_order(window *h)
{
    for (int32_t j = 0; j < 2; ++j) {
        for (int32_t i = 0; i < 64; ++i) {
            const int32_t e = i / 4;
            h->order[j][i] = (uint8_t)(32 * (i % 4) + 8 * (e / 4) + 4 * j + e % 4);
        }
    }
}

static void pack_value(const vit_attention_shape *p, const int8_t *value, const int32_t *tokens,
                       window *h)
{
    const __mmask32 mask = (__mmask32)vit_first64(p->d);
    const __m512i order0 = _mm512_load_si512(h->order[0]);
    const __m512i order1 = _mm512_load_si512(h->order[1]);
    for (int32_t g = 0; 4 * g < p->n; ++g) {
        __m256i x[4];
        for (int32_t i = 0; i < 4; ++i) {
            x[i] = row_or_zero(value, tokens, p->value_ld, 4 * g + i, p->n, mask);
        }
        const __m512i a = _mm512_inserti64x4(_mm512_castsi256_si512(x[0]), x[1], 1);
        const __m512i b = _mm512_inserti64x4(_mm512_castsi256_si512(x[2]), x[3], 1);
        _mm512_store_si512(h->value[g][0], _mm512_permutex2var_epi8(a, order0, b));
        _mm512_store_si512(h->value[g][1], _mm512_permutex2var_epi8(a, order1, b));
    }
}

/* Query rows as unsigned bytes; the last row again where there are fewer than ROWS. */
static void copy_query(const vit_attention_shape *p, const uint8_t *q, const int32_t *tokens,
                       int32_t r0, int32_t rows, window *h)
{
    const __m256i flip = _mm256_set1_epi8(p->q_type == VIT_S8 ? (char)-128 : 0);
    const __mmask32 mask = (__mmask32)vit_first64(p->k);
    for (int32_t r = 0; r < ROWS; ++r) {
        const uint8_t *row = q + vit_token(tokens, r0 + vit_min32(r, rows - 1), p->q_ld);
        const __m256i x = _mm256_maskz_loadu_epi8(mask, row);
        _mm256_storeu_si256((__m256i *)(void *)h->query[r], _mm256_xor_si256(x, flip));
    }
}

/* ---- rows ---------------------------------------------------------------------------------- */

/* Where the row of a sum's other operand is. */
VIT_INLINE const int16_t *other_row(const word_sum *s, int32_t row)
{
    return (const int16_t *)s->stage->other + vit_other_index(s->stage, row, 0);
}

/* Two vectors of scores, with 32 words of the other operand, as words in order. */
VIT_INLINE __m512i first_sum(const word_sum *s, __m512i acc0, __m512i acc1, __m512i codes)
{
    const __m512i low = _mm512_srai_epi32(_mm512_unpacklo_epi16(codes, codes), 16);
    const __m512i high = _mm512_srai_epi32(_mm512_unpackhi_epi16(codes, codes), 16);
    const __m512i o0 = _mm512_add_epi32(_mm512_sll_epi32(low, s->left_o), s->half);
    const __m512i o1 = _mm512_add_epi32(_mm512_sll_epi32(high, s->left_o), s->half);
    const __m512i v0 = _mm512_add_epi32(_mm512_sll_epi32(acc0, s->left_v), o0);
    const __m512i v1 = _mm512_add_epi32(_mm512_sll_epi32(acc1, s->left_v), o1);
    return _mm512_packs_epi32(_mm512_sra_epi32(v0, s->shift), _mm512_sra_epi32(v1, s->shift));
}

VIT_INLINE __m512i next_sum(const word_sum *s, __m512i v, __m512i o)
{
    if (s->plain) {
        return _mm512_adds_epi16(v, o);
    }
    const __m512i low = _mm512_madd_epi16(_mm512_unpacklo_epi16(v, o), s->pair);
    const __m512i high = _mm512_madd_epi16(_mm512_unpackhi_epi16(v, o), s->pair);
    return _mm512_packs_epi32(_mm512_sra_epi32(_mm512_add_epi32(low, s->half), s->shift),
                              _mm512_sra_epi32(_mm512_add_epi32(high, s->half), s->shift));
}

VIT_INLINE void multiply_keys(const window *h, __m512i acc[ROWS][4])
{
    const __m512i i0 = _mm512_load_si512(h->init[0]), i1 = _mm512_load_si512(h->init[1]);
    const __m512i i2 = _mm512_load_si512(h->init[2]), i3 = _mm512_load_si512(h->init[3]);
#define VIT_START(r) acc[r][0] = i0, acc[r][1] = i1, acc[r][2] = i2, acc[r][3] = i3
    VIT_SIX(VIT_START);
#undef VIT_START
    const int8_t *key = h->key[0][0];
    const uint8_t *query = h->query[0];
    for (int32_t step = 0; step < h->steps; ++step, query += 4, key += 256) {
        __m512i b[4];
        for (int32_t j = 0; j < 4; ++j) {
            b[j] = _mm512_load_si512(key + 64 * j);
        }
        for (int32_t r = 0; r < ROWS; ++r) {
            const __m512i a = vit_repeat4(query + 4 * STEPS * r);
            for (int32_t j = 0; j < 4; ++j) {
                VIT_DOT(acc[r][j], a, b[j]);
            }
        }
    }
}

/* Scores of ROWS rows, `row` the first one's number, `rows` of them real, through the first sum. */
VIT_APART void scores_of(const window *h, const word_sum *s, int32_t row, int32_t rows,
                         __mmask32 last, __m512i words[ROWS][2])
{
    __m512i acc[ROWS][4];
    multiply_keys(h, acc);
#define VIT_WORDS(r)                                                                               \
    do {                                                                                           \
        const int16_t *o = other_row(s, row + vit_min32(r, rows - 1));                             \
        words[r][0] = first_sum(s, acc[r][0], acc[r][1], _mm512_loadu_si512(o));                   \
        words[r][1] = first_sum(s, acc[r][2], acc[r][3], _mm512_maskz_loadu_epi16(last, o + 32));  \
    } while (0)
    VIT_SIX(VIT_WORDS);
#undef VIT_WORDS
}

/* p = table[min(255, rhu((max - score) / 2^shift))] of a row; returns their sums of eight. */
VIT_INLINE __m512i exponentials(__m512i w0, __m512i w1, __mmask32 last, int32_t shift,
                                const vit_bytes256 *table, __mmask64 real, uint8_t *p)
{
    const __m512i least = _mm512_set1_epi16(INT16_MIN), most8 = _mm512_set1_epi16(255);
    const __m512i both = _mm512_max_epi16(w0, _mm512_mask_mov_epi16(least, last, w1));
    const __m256i half = _mm256_max_epi16(_mm512_castsi512_si256(both),
                                          _mm512_extracti64x4_epi64(both, 1));
    const __m128i eight = _mm_max_epi16(_mm256_castsi256_si128(half),
                                        _mm256_extracti128_si256(half, 1));
    /* x ^ 0x7fff turns the order of signed words into the opposite one of unsigned words. */
    const __m128i flip = _mm_set1_epi16(INT16_MAX);
    const __m128i found = _mm_xor_si128(_mm_minpos_epu16(_mm_xor_si128(eight, flip)), flip);
    const __m512i top = _mm512_broadcastw_epi16(found);
    const __m512i add = _mm512_set1_epi16((int16_t)(shift == 0 ? 0 : 1 << (shift - 1)));
    const __m128i count = _mm_cvtsi32_si128(shift);
    const __m512i d0 = _mm512_adds_epu16(_mm512_sub_epi16(top, w0), add);
    const __m512i d1 = _mm512_adds_epu16(_mm512_sub_epi16(top, w1), add);
    const __m512i index = _mm512_packus_epi16(_mm512_min_epu16(_mm512_srl_epi16(d0, count), most8),
                                              _mm512_min_epu16(_mm512_srl_epi16(d1, count), most8));
    const __m512i weights = _mm512_maskz_mov_epi8(real, vit_lookup(table, index));
    _mm512_store_si512(p, weights);
    return _mm512_sad_epu8(weights, _mm512_setzero_si512());
}

/* Sums of weights of up to four rows at once: each is less than 2^16. */
VIT_INLINE void totals(const __m512i *sad, uint32_t *sum, int32_t rows)
{
    __m512i all = sad[0];
    for (int32_t r = 1; r < rows; ++r) {
        all = _mm512_add_epi64(all, _mm512_slli_epi64(sad[r], 16 * (unsigned)r));
    }
    const uint64_t packed = (uint64_t)_mm512_reduce_add_epi64(all);
    for (int32_t r = 0; r < rows; ++r) {
        sum[r] = (uint32_t)(packed >> (16 * r)) & 0xffff;
    }
}

VIT_INLINE void finish_row(const vit_stage *s, uint32_t sum, __m512i acc0, __m512i acc1,
                           vit_type type, __mmask32 mask, void *y)
{
    const vit_quotient q = vit_divided_by_sum(s, sum);
    const __m512i words = _mm512_packs_epi32(vit_divide(acc0, &q), vit_divide(acc1, &q));
    const __m512i positive = _mm512_max_epi16(words, _mm512_setzero_si512());
    _mm256_mask_storeu_epi8(y, mask, type == VIT_S8 ? _mm512_cvtsepi16_epi8(words)
                                                    : _mm512_cvtusepi16_epi8(positive));
}

VIT_INLINE void weighted_sums(const window *h, int32_t groups, const int32_t *init,
                              __m512i acc[ROWS][2])
{
#define VIT_START(r) acc[r][0] = acc[r][1] = _mm512_set1_epi32(init[r])
    VIT_SIX(VIT_START);
#undef VIT_START
    const int8_t *value = h->value[0][0];
    for (int32_t g = 0; g < groups; ++g, value += 128) {
        const __m512i b0 = _mm512_load_si512(value), b1 = _mm512_load_si512(value + 64);
        const uint8_t *weights = h->p[0] + GROUP[g];
        for (int32_t r = 0; r < ROWS; ++r) {
            const __m512i a = vit_repeat4(weights + 64 * r);
            VIT_DOT(acc[r][0], a, b0);
            VIT_DOT(acc[r][1], a, b1);
        }
    }
}

VIT_APART void finish_rows(const vit_attention_shape *p, const vit_epilogue *e,
                           const int32_t *tokens, int32_t r0, int32_t rows, const window *h,
                           const uint32_t *sum, char *y)
{
    int32_t init[ROWS];
    for (int32_t r = 0; r < ROWS; ++r) {
        init[r] = -p->value_zp * (int32_t)sum[r];
    }
    __m512i acc[ROWS][2];
    weighted_sums(h, (p->n + 3) / 4, init, acc);
    const __mmask32 mask = (__mmask32)vit_first64(p->d);
#define VIT_FINISH(r)                                                                              \
    if (r < rows) {                                                                                \
        finish_row(&e->stages[0], sum[r], acc[r][0], acc[r][1], e->type, mask,                     \
                   y + vit_token(tokens, r0 + r, e->ld));                                          \
    }
    VIT_SIX(VIT_FINISH);
#undef VIT_FINISH
}

/* The bytes of a row of weights that belong to keys. */
static __mmask64 real_weights(int32_t n)
{
    __mmask64 real = 0;
    for (int32_t key = 0; key < n; ++key) {
        real |= (__mmask64)1 << (GROUP[key / 4] + key % 4);
    }
    return real;
}

void vit_window_attention_avx512vnni(const vit_attention_shape *p, const void *q, const void *key,
                                     const void *value, const uint8_t *table,
                                     const vit_epilogue *scores, const vit_epilogue *e,
                                     void *scratch)
{
    window *h = (window *)scratch;
    const vit_bytes256 exponential = vit_load_table(table);
    const __mmask64 real = real_weights(p->n);
    const __mmask32 last = (__mmask32)vit_first64(p->n - 32);
    word_sum sums[MOST_SUMS];
    for (int32_t i = 0; i < scores->count; ++i) {
        sums[i] = sum_of(&scores->stages[i]);
    }
    set_order(h);
    h->steps = (p->k + 3) / 4;
    const int32_t blocks = (p->m + ROWS - 1) / ROWS;
    const vit_range range = vit_share(p->batch * blocks, 1, p->part, p->parts);
    for (int32_t i = range.first; i < range.last;) {
        const int32_t batch = i / blocks;
        const vit_head own = vit_head_of(p, batch, q, key, value, e->y);
        pack_key(p, own.key, own.tokens, h);
        pack_value(p, own.value, own.tokens, h);
        for (; i < range.last && i / blocks == batch; ++i) {
            const int32_t r0 = i % blocks * ROWS, count = vit_min32(ROWS, p->m - r0);
            const int32_t row = batch * p->m + r0;
            __m512i words[ROWS][2], sad[ROWS];
            copy_query(p, own.q, own.tokens, r0, count, h);
            scores_of(h, &sums[0], row, count, last, words);
            for (int32_t r = 0; r < ROWS; ++r) {
                for (int32_t s = 1; s < scores->count; ++s) {
                    const int16_t *o = other_row(&sums[s], row + vit_min32(r, count - 1));
                    words[r][0] = next_sum(&sums[s], words[r][0], _mm512_loadu_si512(o));
                    words[r][1] = next_sum(&sums[s], words[r][1],
                                           _mm512_maskz_loadu_epi16(last, o + 32));
                }
                sad[r] = exponentials(words[r][0], words[r][1], last, p->frac - 4, &exponential,
                                      real, h->p[r]);
            }
            uint32_t sum[ROWS];
            totals(sad, sum, 4);
            totals(sad + 4, sum + 4, 2);
            finish_rows(p, e, own.tokens, r0, count, h, sum, own.y);
        }
    }
}
