/* kernel: stages of an epilogue on a stored tensor (requantise, table, clamp, aligned add)
 * layout: x[rows][cols] of any type up to 32 bits, dense; y as the epilogue says
 * in:     codes
 * out:    the epilogue's type
 * method: blocks of a row are loaded as int32, go through the stages and are stored
 * scratch: none
 */
#include "vit_arith.h"

#define VIT_BLOCK 512

void vit_map(const void *x, vit_type x_type, int32_t rows, int32_t cols, const vit_epilogue *e)
{
    int32_t tile[VIT_BLOCK];
    for (int32_t r = 0; r < rows; ++r) {
        for (int32_t c = 0; c < cols; c += VIT_BLOCK) {
            const int32_t n = vit_min32(VIT_BLOCK, cols - c);
            vit_load_s32(x, x_type, (size_t)r * (size_t)cols + (size_t)c, n, tile);
            vit_epilogue_apply(e, tile, VIT_BLOCK, r, 1, c, n);
        }
    }
}
