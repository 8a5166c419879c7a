/* kernel: batched product of two activations (scores, probabilities x values)
 * layout: a[batch][m][k] and b[batch][k][n] (or [n][k] if transpose_b), rows a_ld, b_ld elements
 *         apart, matrices a_batch, b_batch elements apart; y[batch * m][n]
 * in:     a, b codes of 8 or 16 bits with zero points; a may hold log2 softmax codes
 * out:    the epilogue's type
 * method: as vit_linear_s16(), columns of b gathered into rows where it is not transposed
 * scratch: (block + 32) * kp * 2 + block * 32 * 4 bytes, kp = k rounded up to 16
 */
#include "vit_arith.h"

/* Columns c0..c0+n of b[k][ld_b] as rows of y. */
static void widen_columns(const vit_matmul_shape *p, const void *b, size_t first, int32_t n,
                          int32_t offset, int32_t ld, int16_t *y)
{
    int16_t row[VIT_PANEL];
    for (int32_t k = 0; k < p->k; ++k) {
        vit_widen_s16(b, p->b_type, first + (size_t)k * (size_t)p->b_ld, n, offset, row);
        for (int32_t c = 0; c < n; ++c) {
            y[(size_t)c * (size_t)ld + (size_t)k] = row[c];
        }
    }
}

static void widen_panel(const vit_matmul_shape *p, const void *b, size_t first, int32_t c0,
                        int32_t n, int32_t offset, int32_t ld, int16_t *y)
{
    if (p->transpose_b != 0) {
        vit_widen_rows(b, p->b_type, first + (size_t)c0 * (size_t)p->b_ld, (size_t)p->b_ld, n,
                       p->k, ld, offset, y);
        return;
    }
    widen_columns(p, b, first + (size_t)c0, n, offset, ld, y);
    for (int32_t c = 0; c < n; ++c) {
        for (int32_t i = p->k; i < ld; ++i) {
            y[(size_t)c * (size_t)ld + (size_t)i] = 0;
        }
    }
}

void vit_matmul_s16(const vit_matmul_shape *p, const void *a, const void *b,
                    const vit_epilogue *e, void *scratch)
{
    const int32_t ld = vit_round_up16(p->k);
    const int32_t a_offset = vit_widen_offset(p->a_type, p->a_zp);
    const int32_t b_offset = vit_widen_offset(p->b_type, p->b_zp);
    int16_t *wa = (int16_t *)scratch;
    int16_t *wb = wa + (size_t)p->block * (size_t)ld;
    int32_t *acc = (int32_t *)(void *)(wb + (size_t)VIT_PANEL * (size_t)ld);
    const vit_range range = vit_share(p->m, 4, p->part, p->parts);
    for (int32_t batch = 0; batch < p->batch; ++batch) {
        const size_t a_first = (size_t)batch * (size_t)p->a_batch;
        const size_t b_first = (size_t)batch * (size_t)p->b_batch;
        for (int32_t r0 = range.first; r0 < range.last; r0 += p->block) {
            const int32_t rows = vit_min32(p->block, range.last - r0);
            vit_widen_rows(a, p->a_type, a_first + (size_t)r0 * (size_t)p->a_ld, (size_t)p->a_ld,
                           rows, p->k, ld, a_offset, wa);
            for (int32_t c0 = 0; c0 < p->n; c0 += VIT_PANEL) {
                const vit_gemm_shape g = {.m = rows,
                                          .n = vit_min32(VIT_PANEL, p->n - c0),
                                          .k = p->k,
                                          .ld = ld,
                                          .ca = a_offset - p->a_zp,
                                          .cb = b_offset - p->b_zp};
                widen_panel(p, b, b_first, c0, g.n, b_offset, ld, wb);
                vit_gemm_s16(&g, wa, wb, NULL, acc, VIT_PANEL);
                vit_epilogue_apply(e, acc, VIT_PANEL, batch * p->m + r0, rows, c0, g.n);
            }
        }
    }
}
