/* kernel: linear layer, any 4-, 8- or 16-bit codes, weights s8, s4 or s16
 * layout: x[m][k], w[n][k] (s4: two a byte, each row padded to a byte), bias[n], y[m][n]
 * in:     x codes with zero point, w codes, bias s32 or NULL
 * out:    the epilogue's type
 * method: `block` rows of x and VIT_PANEL rows of w are widened to s16, one tile of accumulators
 *         is computed and goes through the epilogue while it is in cache
 * scratch: (block + 32) * kp * 2 + block * 32 * 4 bytes, kp = k rounded up to 16
 */
#include "vit_arith.h"

void vit_linear_s16(const vit_linear_shape *p, const void *x, const void *w,
                    const int32_t *bias, const vit_epilogue *e, void *scratch)
{
    const int32_t ld = vit_round_up16(p->k);
    const size_t stride = vit_weight_stride(p->w_type, p->k);
    const int32_t x_offset = vit_widen_offset(p->x_type, p->x_zp);
    const int32_t w_offset = vit_widen_offset(p->w_type, p->w_zp);
    int16_t *a = (int16_t *)scratch;
    int16_t *b = a + (size_t)p->block * (size_t)ld;
    int32_t *acc = (int32_t *)(void *)(b + (size_t)VIT_PANEL * (size_t)ld);
    const int by_columns =
        vit_shares_columns((p->m + 3) / 4, (p->n + VIT_PANEL - 1) / VIT_PANEL, p->parts);
    const vit_range all_rows = vit_share(p->m, 4, p->part, by_columns ? 0 : p->parts);
    const vit_range cols = vit_share(p->n, VIT_PANEL, p->part, by_columns ? p->parts : 0);
    for (int32_t r0 = all_rows.first; r0 < all_rows.last; r0 += p->block) {
        const int32_t rows = vit_min32(p->block, all_rows.last - r0);
        vit_widen_rows(x, p->x_type, (size_t)r0 * (size_t)p->k, (size_t)p->k, rows, p->k, ld,
                       x_offset, a);
        for (int32_t c0 = cols.first; c0 < cols.last; c0 += VIT_PANEL) {
            const vit_gemm_shape g = {.m = rows,
                                      .n = vit_min32(VIT_PANEL, cols.last - c0),
                                      .k = p->k,
                                      .ld = ld,
                                      .ca = x_offset - p->x_zp,
                                      .cb = w_offset - p->w_zp};
            vit_widen_rows(w, p->w_type, (size_t)c0 * stride, stride, g.n, p->k, ld, w_offset, b);
            vit_gemm_s16(&g, a, b, bias == NULL ? NULL : bias + c0, acc, VIT_PANEL);
            vit_epilogue_apply(e, acc, VIT_PANEL, r0, rows, c0, g.n);
        }
    }
}
