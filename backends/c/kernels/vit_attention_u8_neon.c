/* kernel: attention with deferred softmax, Arm NEON with dot products
 * layout: as vit_attention_u8()
 * in:     as vit_attention_u8_avx512vnni()
 * out:    s8 or u8, all of it; one stage VIT_NORMALIZE, rounding half up, shift >= 1, no shift_c
 * method: vit_narrow_attention.h on the tiles of vit_level_neon.h
 * scratch: see vit_narrow_attention.h
 */
#include "vit_level_neon.h"
#include "vit_narrow_attention.h"

void vit_attention_u8_neon(const vit_attention_shape *p, const void *q, const void *key,
                           const void *value, const uint8_t *table, const vit_epilogue *scores,
                           const vit_epilogue *e, void *scratch)
{
    vit_narrow_attention(p, q, key, value, table, scores, e, scratch);
}
