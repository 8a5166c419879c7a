/* kernel: 2-D convolution, 8-bit codes x packed weights, AVX2
 * layout: as vit_conv2d_u8_avx512vnni(), panels as for vit_linear_u8_avx2()
 * in:     s8 or u8 codes; padding has the code of zero
 * out:    the epilogue's type
 * method: vit_narrow_conv.h on the tiles of vit_level_avx2.h
 * scratch: see vit_narrow_conv.h
 */
#include "vit_level_avx2.h"
#include "vit_narrow_conv.h"

void vit_conv2d_u8_avx2(const vit_packed_conv_shape *p, const void *x, const void *w,
                        const vit_epilogue *e, void *scratch)
{
    vit_narrow_conv(p, (const uint8_t *)x, (const uint8_t *)w, e, (uint8_t *)scratch);
}
