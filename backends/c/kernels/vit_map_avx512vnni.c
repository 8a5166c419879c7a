/* kernel: stages on a stored tensor, AVX-512
 * layout: x[rows][cols], y[rows][cols] with row distance e->ld
 * in:     codes of any type up to 32 bits
 * out:    the epilogue's type
 * method: blocks of codes are widened and go through vit_epilogue_apply_avx512vnni()
 * scratch: none
 */
#include "vit_avx512.h"

enum { BLOCK = 4096 };

/* Rows are taken together where they are short, pieces of one row where it is long. */
void vit_map_avx512vnni(const vit_map_shape *p, const void *x, const vit_epilogue *e)
{
    int32_t tile[BLOCK];
    const int32_t width = vit_min32(p->cols, BLOCK), height = BLOCK / width;
    const vit_range rows = vit_share(p->rows, 1, p->part, p->rows > 1 ? p->parts : 0);
    const vit_range cols = vit_share(p->cols, width, p->part, p->rows > 1 ? 0 : p->parts);
    const size_t ld = (size_t)p->cols;
    const int64_t bound = INT64_C(1) << (p->x_type == VIT_S32 ? 31 : 8 * vit_type_size(p->x_type));
    for (int32_t r0 = rows.first; r0 < rows.last; r0 += height) {
        const int32_t n = vit_min32(height, rows.last - r0);
        for (int32_t c0 = cols.first; c0 < cols.last; c0 += width) {
            const int32_t count = vit_min32(width, cols.last - c0);
            if (count == p->cols) {
                vit_load_s32(x, p->x_type, (size_t)r0 * ld, n * p->cols, tile);
            } else {
                vit_load_s32(x, p->x_type, (size_t)r0 * ld + (size_t)c0, count, tile);
            }
            vit_epilogue_apply_avx512vnni(e, bound, tile, width, r0, n, c0, count);
        }
    }
}
