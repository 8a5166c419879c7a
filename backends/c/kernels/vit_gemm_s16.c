/* kernel: tile of a matrix product, s16 x s16 -> s32
 * layout: a[m][ld], b[n][ld], both along the reduction, zero-padded from k to ld (multiple of 16)
 * in:     a, b s16; bias[n] s32 or NULL; ca, cb: constants missing to the operands (0 for 8 bits)
 * out:    acc[m][ld_acc] = sum_k (a + ca) * (b + cb) + bias
 * method: blocks of 4 rows x 2 columns of dot products, so that a compiler turns the inner loop
 *         into multiply-add instructions on pairs (pmaddwd, smlal, vpdpwssd)
 * bounds: every partial sum fits 32 bits (vit-opt proves this before it emits C); with constants
 *         only the result does, so sums are taken modulo 2^32
 * scratch: none
 */
#include "vit_arith.h"

static void dot_4x2(const int16_t *restrict a, const int16_t *restrict b, int32_t ld,
                    int32_t *restrict acc, int32_t ld_acc)
{
    const int16_t *a1 = a + ld, *a2 = a1 + ld, *a3 = a2 + ld, *b1 = b + ld;
    int32_t s00 = 0, s01 = 0, s10 = 0, s11 = 0, s20 = 0, s21 = 0, s30 = 0, s31 = 0;
    for (int32_t k = 0; k < ld; ++k) {
        s00 += a[k] * b[k];
        s01 += a[k] * b1[k];
        s10 += a1[k] * b[k];
        s11 += a1[k] * b1[k];
        s20 += a2[k] * b[k];
        s21 += a2[k] * b1[k];
        s30 += a3[k] * b[k];
        s31 += a3[k] * b1[k];
    }
    int32_t *r1 = acc + ld_acc, *r2 = r1 + ld_acc, *r3 = r2 + ld_acc;
    acc[0] = s00;
    acc[1] = s01;
    r1[0] = s10;
    r1[1] = s11;
    r2[0] = s20;
    r2[1] = s21;
    r3[0] = s30;
    r3[1] = s31;
}

static int32_t dot(const int16_t *restrict a, const int16_t *restrict b, int32_t ld)
{
    int32_t s = 0;
    for (int32_t k = 0; k < ld; ++k) {
        s += a[k] * b[k];
    }
    return s;
}

static uint32_t sum_of(const int16_t *x, int32_t k)
{
    uint32_t s = 0;
    for (int32_t i = 0; i < k; ++i) {
        s += (uint32_t)x[i];
    }
    return s;
}

/* sum (a + ca)(b + cb) = sum ab + ca sum b + cb sum a + k ca cb, modulo 2^32. */
static void product_with_constants(const vit_gemm_shape *g, const int16_t *a, const int16_t *b,
                                   int32_t *acc, int32_t ld_acc)
{
    const uint32_t ca = (uint32_t)g->ca, cb = (uint32_t)g->cb;
    for (int32_t c = 0; c < g->n; ++c) {
        const int16_t *column = b + (size_t)c * (size_t)g->ld;
        const uint32_t constant = ca * sum_of(column, g->k) + (uint32_t)g->k * ca * cb;
        for (int32_t r = 0; r < g->m; ++r) {
            const int16_t *row = a + (size_t)r * (size_t)g->ld;
            uint32_t s = constant + (cb == 0 ? 0 : cb * sum_of(row, g->k));
            for (int32_t k = 0; k < g->k; ++k) {
                s += (uint32_t)(row[k] * column[k]);
            }
            acc[(size_t)r * (size_t)ld_acc + (size_t)c] = (int32_t)s;
        }
    }
}

static void product(const vit_gemm_shape *g, const int16_t *a, const int16_t *b, int32_t *acc,
                    int32_t ld_acc)
{
    const size_t ld = (size_t)g->ld;
    for (int32_t r = 0; r < g->m; r += 4) {
        const int16_t *row = a + (size_t)r * ld;
        int32_t *out = acc + (size_t)r * (size_t)ld_acc;
        const int32_t rows = vit_min32(4, g->m - r);
        int32_t c = 0;
        for (; rows == 4 && c + 2 <= g->n; c += 2) {
            dot_4x2(row, b + (size_t)c * ld, g->ld, out + c, ld_acc);
        }
        for (; c < g->n; ++c) {
            for (int32_t i = 0; i < rows; ++i) {
                out[(size_t)i * (size_t)ld_acc + (size_t)c] =
                    dot(row + (size_t)i * ld, b + (size_t)c * ld, g->ld);
            }
        }
    }
}

void vit_gemm_s16(const vit_gemm_shape *g, const int16_t *a, const int16_t *b,
                  const int32_t *bias, int32_t *acc, int32_t ld_acc)
{
    if (g->ca != 0 || g->cb != 0) {
        product_with_constants(g, a, b, acc, ld_acc);
    } else {
        product(g, a, b, acc, ld_acc);
    }
    for (int32_t r = 0; bias != NULL && r < g->m; ++r) {
        int32_t *restrict out = acc + (size_t)r * (size_t)ld_acc;
        for (int32_t c = 0; c < g->n; ++c) {
            out[c] = (int32_t)((uint32_t)out[c] + (uint32_t)bias[c]);
        }
    }
}
