/* kernel: stages of an epilogue on a stored tensor (requantise, table, clamp, aligned add)
 * layout: x[rows][cols] of any type up to 32 bits, dense; y as the epilogue says
 * in:     codes
 * out:    the epilogue's type
 * method: blocks of a row are loaded as int32, go through the stages and are stored
 * scratch: none
 */
#include "vit_arith.h"

#define VIT_BLOCK 512

void vit_map(const vit_map_shape *p, const void *x, const vit_epilogue *e)
{
    int32_t tile[VIT_BLOCK];
    const vit_range rows = vit_share(p->rows, 1, p->part, p->rows > 1 ? p->parts : 0);
    const vit_range cols = vit_share(p->cols, VIT_BLOCK, p->part, p->rows > 1 ? 0 : p->parts);
    for (int32_t r = rows.first; r < rows.last; ++r) {
        for (int32_t c = cols.first; c < cols.last; c += VIT_BLOCK) {
            const int32_t n = vit_min32(VIT_BLOCK, cols.last - c);
            vit_load_s32(x, p->x_type, (size_t)r * (size_t)p->cols + (size_t)c, n, tile);
            vit_epilogue_apply(e, tile, VIT_BLOCK, r, 1, c, n);
        }
    }
}
