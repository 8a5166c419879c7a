/* kernel: linear layer, 8-bit codes x packed s8 weights, Arm NEON with dot products
 * layout: x[m][k], w panels (vit_narrow_product.h), y[m][n]
 * in:     s8 codes as they are, u8 codes minus 128 (the packing folds zero point and offset)
 * out:    the epilogue's type
 * method: vit_narrow_product.h on the tiles of vit_level_neon.h
 * bounds: partial sums are taken modulo 2^32, final ones are proven to fit at packing
 * scratch: see vit_narrow_product.h
 */
#include "vit_level_neon.h"
#include "vit_narrow_product.h"

void vit_linear_u8_neon(const vit_packed_linear_shape *p, const void *x, const void *w,
                        const vit_epilogue *e, void *scratch)
{
    vit_narrow_linear(p, (const uint8_t *)x, (const uint8_t *)w, e, (uint8_t *)scratch);
}
