/* kernel: stages on a stored tensor, AVX-512
 * layout: x[rows][cols], y[rows][cols] with row distance e->ld
 * in:     codes of any type up to 32 bits
 * out:    the epilogue's type
 * method: blocks of codes are widened and go through vit_epilogue_apply_avx512vnni()
 * scratch: none
 */
#include "vit_avx512.h"

enum { BLOCK = 1024 };

/* Rows are taken together where they are short, pieces of one row where it is long. */
void vit_map_avx512vnni(const void *x, vit_type x_type, int32_t rows, int32_t cols,
                        const vit_epilogue *e)
{
    int32_t tile[BLOCK];
    const int32_t width = vit_min32(cols, BLOCK), height = BLOCK / width;
    for (int32_t r0 = 0; r0 < rows; r0 += height) {
        const int32_t n = vit_min32(height, rows - r0);
        for (int32_t c0 = 0; c0 < cols; c0 += width) {
            const int32_t count = vit_min32(width, cols - c0);
            if (count == cols) {
                vit_load_s32(x, x_type, (size_t)r0 * (size_t)cols, n * cols, tile);
            } else {
                vit_load_s32(x, x_type, (size_t)r0 * (size_t)cols + (size_t)c0, count, tile);
            }
            vit_epilogue_apply_avx512vnni(e, tile, width, r0, n, c0, count);
        }
    }
}
