/* kernel: LayerNorm over the last axis, standard integer form
 * layout: x[rows][cols] up to 32 bits, gamma[cols] s8 or s16, beta[cols] s64, y[rows][cols]
 * in:     codes with zero point; `align` brings channels of different frac to one grid
 * out:    y = sat(round((N * gamma + beta) / 2^shift) + zp), N = (x - mean) / sd in Q.10
 * method: sums in 64 bits, V = C * sum(x^2) - sum(x)^2 + eps, T = floor(sqrt(V * 2^12)),
 *         one division a row, R = floor(2^(nb + 16) / T); N = rhu((C x - sum) * R, nb)
 * scratch: cols * 4 bytes
 */
#include "vit_arith.h"

/* floor(sqrt(v * 2^12)), longhand, so that the 76-bit radicand is never formed. */
static uint64_t root_q6(uint64_t v)
{
    uint64_t root = 0, rest = 0;
    for (int32_t pair = 62; pair >= -12; pair -= 2) {
        rest = (rest << 2) | (pair >= 0 ? (v >> pair) & 3 : 0);
        const uint64_t trial = (root << 2) | 1;
        root <<= 1;
        if (rest >= trial) {
            rest -= trial;
            root |= 1;
        }
    }
    return root;
}

static void load_row(const vit_layernorm_shape *p, const void *x, size_t first, int32_t *row)
{
    vit_load_s32(x, p->x_type, first, p->cols, row);
    for (int32_t c = 0; p->x_zp != 0 && c < p->cols; ++c) {
        row[c] -= p->x_zp;
    }
    for (int32_t c = 0; p->align != NULL && c < p->cols; ++c) {
        row[c] = row[c] * (1 << p->align[c]);
    }
}

void vit_layernorm(const vit_layernorm_shape *p, const void *x, const void *gamma,
                   const int64_t *beta, void *y, void *scratch)
{
    int32_t *row = (int32_t *)scratch;
    const int8_t *g8 = (const int8_t *)gamma;
    const int16_t *g16 = (const int16_t *)gamma;
    const vit_range rows = vit_share(p->rows, 1, p->part, p->parts);
    for (int32_t r = rows.first; r < rows.last; ++r) {
        const size_t first = (size_t)r * (size_t)p->cols;
        load_row(p, x, first, row);
        int64_t sum = 0;
        uint64_t squares = 0;
        for (int32_t c = 0; c < p->cols; ++c) {
            sum += row[c];
            squares += (uint64_t)((int64_t)row[c] * row[c]);
        }
        const uint64_t total = (uint64_t)sum;
        const uint64_t root = root_q6((uint64_t)p->cols * squares - total * total + p->eps);
        const uint64_t divisor = root == 0 ? 1 : root;
        const int32_t nb = vit_blen(divisor);
        const int64_t reciprocal = (int64_t)(((uint64_t)1 << (nb + 16)) / divisor);
        for (int32_t c = 0; c < p->cols; ++c) {
            const int64_t scaled = ((int64_t)p->cols * row[c] - sum) * reciprocal;
            const int64_t norm = (scaled >> nb) + ((scaled >> (nb - 1)) & 1);
            const int64_t affine = norm * (p->gamma_type == VIT_S8 ? g8[c] : g16[c]) + beta[c];
            const int32_t shift = p->shift_c == NULL ? p->shift : p->shift_c[c];
            const int64_t code = vit_round_shift(affine, shift, p->rounding);
            row[c] = (int32_t)vit_code(code, p->zp, p->lo, p->hi);
        }
        vit_store_s32(row, p->cols, y, p->y_type, first);
    }
}
