/* kernel: linear layer, 8-bit codes x packed s8 weights, AVX-VNNI
 * layout: x[m][k], w panels (vit_narrow_product.h), y[m][n]
 * in:     u8 codes as they are, s8 codes plus 128 (the packing folds zero point and offset)
 * out:    the epilogue's type
 * method: vit_narrow_product.h on the tiles of vit_level_avxvnni.h
 * bounds: partial sums are taken modulo 2^32, final ones are proven to fit at packing
 * scratch: see vit_narrow_product.h
 */
#include "vit_level_avxvnni.h"
#include "vit_narrow_product.h"

void vit_linear_u8_avxvnni(const vit_packed_linear_shape *p, const void *x, const void *w,
                           const vit_epilogue *e, void *scratch)
{
    vit_narrow_linear(p, (const uint8_t *)x, (const uint8_t *)w, e, (uint8_t *)scratch);
}
