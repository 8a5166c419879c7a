/* kernel: depthwise 2-D convolution, 8-bit codes x packed s8 weights, AVX2
 * layout: as vit_dwconv2d_u8_avx512vnni(), panels of vit_narrow_dwconv.h
 * in:     s8 or u8 codes; padding has the code of zero
 * out:    the epilogue's type
 * method: vit_narrow_dwconv.h on the stripes of vit_level_avx2.h
 * scratch: see vit_dwconv_lines.h
 */
#include "vit_level_avx2.h"
#include "vit_narrow_dwconv.h"

void vit_dwconv2d_u8_avx2(const vit_packed_conv_shape *p, const void *x, const void *w,
                          const vit_epilogue *e, void *scratch)
{
    vit_narrow_dwconv(p, x, w, e, scratch);
}
