/* kernel: linear layer, 8-bit codes x packed s8 weights, AVX512-VNNI
 * layout: x[m][k], w panels of vit_gemm_u8_avx512vnni(), y[m][n]
 * in:     u8 codes as they are, s8 codes plus 128 (the packing folds zero point and offset)
 * out:    the epilogue's type
 * method: a grouped product takes the columns of its panel's groups only (p->step); rows that are
 *         s8 or do not end on four bytes are copied to scratch first, `block` at a time; others are
 *         read where they are
 * scratch: block * ceil(k / 4) * 4 bytes where rows are copied, then VIT_TILE_ROWS * 64 * 4 bytes,
 *         each rounded up to 64
 */
#include "vit_avx512.h"

static void offset_row(const uint8_t *x, uint8_t flip, int32_t k, uint8_t *y)
{
    const __m512i bits = _mm512_set1_epi8((char)flip);
    for (int32_t i = 0; i < k; i += 64) {
        const __mmask64 mask = vit_first64(k - i);
        const __m512i codes = _mm512_maskz_loadu_epi8(mask, x + i);
        _mm512_mask_storeu_epi8(y + i, mask, _mm512_xor_si512(codes, bits));
    }
    for (int32_t i = k; i < ((k + 3) & ~3); ++i) {
        y[i] = 0;
    }
}

void vit_linear_u8_avx512vnni(const vit_packed_linear_shape *p, const void *x, const void *w,
                              const vit_epilogue *e, void *scratch)
{
    vit_packed_shape g = {.k = p->k, .ld = p->k, .finish = p->finish};
    if (p->ld != 0) {
        g.ld = p->ld;
        g.step = p->step;
    }
    const int by_columns = vit_shares_columns((p->m + 5) / 6, (p->n + 63) / 64, p->parts);
    const vit_range all = vit_share(p->m, 6, p->part, by_columns ? 0 : p->parts);
    const vit_range cols = vit_share(p->n, 64, p->part, by_columns ? p->parts : 0);
    const size_t panels = (size_t)cols.first / 64;
    const int8_t *weights = (const int8_t *)w + panels * vit_panel_bytes(p->k);
    g.col = cols.first;
    g.n = cols.last - cols.first;
    const uint8_t flip = p->x_type == VIT_S8 ? 128 : 0;
    if (flip == 0 && p->k % 4 == 0) {
        const size_t from = (size_t)all.first * (size_t)g.ld + panels * (size_t)g.step;
        g.row = all.first;
        g.m = all.last - all.first;
        vit_gemm_u8_avx512vnni(&g, (const uint8_t *)x + from, weights, e, (int32_t *)scratch);
        return;
    }
    uint8_t *rows = (uint8_t *)scratch;
    g.ld = (int32_t)vit_round_up4(p->k);
    int32_t *tile = (int32_t *)(void *)(rows + vit_align64((size_t)p->block * (size_t)g.ld));
    for (g.row = all.first; g.row < all.last; g.row += p->block) {
        g.m = vit_min32(p->block, all.last - g.row);
        for (int32_t r = 0; r < g.m; ++r) {
            const size_t from = (size_t)(g.row + r) * (size_t)p->k;
            offset_row((const uint8_t *)x + from, flip, p->k, rows + (size_t)r * (size_t)g.ld);
        }
        vit_gemm_u8_avx512vnni(&g, rows, weights, e, tile);
    }
}
