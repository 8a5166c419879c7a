/* kernel: LayerNorm over the last axis, standard integer form, s16 codes without zero point
 * layout: x[rows][cols] s16; gamma[cols] s32; beta[cols] s32, rounding constant and zero point times
 *         2^shift folded in; shift_c[cols] 0..31; y[rows][cols]
 * in:     one frac for all channels
 * out:    y = sat((N * gamma + beta) >> shift), all of s8, u8 or s16; N as in vit_layernorm()
 * method: as vit_layernorm(). The numerator of N, (cols * x - sum) * R + 2^(nb - 1), is
 *         x * (cols * R) + constant; 2^62 is added before the shift and what becomes of it taken off
 *         afterwards, so that a logical shift will do: compilers have vector instructions for all of
 *         this
 * bounds: V * 2^12 fits unsigned 64 bits (cols < 2048), N * gamma + beta 32 bits, proven at emission
 * scratch: none
 */
#include "vit_arith.h"

enum { BLOCK = 64 };

/* floor(sqrt(x)), bit by bit from the top. */
static uint64_t root_of(uint64_t x)
{
    uint64_t root = 0, rest = 0;
    for (int32_t pair = (vit_blen(x) - 1) & ~1; pair >= 0; pair -= 2) {
        rest = (rest << 2) | ((x >> pair) & 3);
        const uint64_t trial = (root << 2) | 1;
        const uint64_t fits = rest >= trial ? 1 : 0;
        rest -= trial & (0 - fits);
        root = (root << 1) | fits;
    }
    return root;
}

typedef struct {
    int64_t constant, offset;
    int32_t factor; /* below 2^28 */
    int32_t nb;
} row_scale;

static row_scale scale_of(const vit_layernorm_shape *p, const int16_t *restrict x)
{
    int32_t sum = 0;
    uint64_t squares = 0;
    for (int32_t c = 0; c < p->cols; ++c) {
        sum += x[c];
        squares += (uint64_t)(x[c] * x[c]);
    }
    const uint64_t total = (uint64_t)(int64_t)sum;
    const uint64_t root = root_of(((uint64_t)p->cols * squares - total * total + p->eps) << 12);
    const uint64_t divisor = root == 0 ? 1 : root;
    row_scale s;
    s.nb = vit_blen(divisor);
    const int64_t reciprocal = (int64_t)(((uint64_t)1 << (s.nb + 16)) / divisor);
    s.factor = (int32_t)(p->cols * reciprocal);
    s.constant = ((int64_t)1 << 62) + ((int64_t)1 << (s.nb - 1)) - sum * reciprocal;
    s.offset = ((int64_t)1 << 62) >> s.nb;
    return s;
}

static void block_of_row(const row_scale *s, const int16_t *restrict x,
                         const int32_t *restrict gamma, const int32_t *restrict beta,
                         const int32_t *restrict shift, int32_t n, int32_t *restrict y)
{
    const uint64_t constant = (uint64_t)s->constant;
    const uint32_t offset = (uint32_t)(uint64_t)s->offset;
    const int32_t factor = s->factor;
    for (int32_t c = 0; c < n; ++c) {
        const int32_t code = x[c];
        const uint64_t scaled = (uint64_t)((int64_t)code * factor) + constant;
        const int32_t normal = (int32_t)((uint32_t)(scaled >> s->nb) - offset);
        y[c] = (normal * gamma[c] + beta[c]) >> shift[c];
    }
}

void vit_layernorm_s16(const vit_layernorm_shape *p, const void *x, const int32_t *gamma,
                       const int32_t *beta, void *y)
{
    const vit_range rows = vit_share(p->rows, 1, p->part, p->parts);
    for (int32_t r = rows.first; r < rows.last; ++r) {
        const size_t first = (size_t)r * (size_t)p->cols;
        const int16_t *row = (const int16_t *)x + first;
        const row_scale s = scale_of(p, row);
        for (int32_t c = 0; c < p->cols; c += BLOCK) {
            const int32_t n = vit_min32(BLOCK, p->cols - c);
            int32_t codes[BLOCK];
            block_of_row(&s, row + c, gamma + c, beta + c, p->shift_c + c, n, codes);
            for (int32_t i = 0; i < n; ++i) {
                codes[i] = vit_clamp32(codes[i], p->lo, p->hi);
            }
            vit_store_s32(codes, n, y, p->y_type, first + (size_t)c);
        }
    }
}
