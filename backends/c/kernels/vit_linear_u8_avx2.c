/* kernel: linear layer, 8-bit codes x weights packed as s16, AVX2
 * layout: x[m][k], w panels (vit_narrow_product.h), y[m][n]
 * in:     u8 codes as they are, s8 codes plus 128 (the packing folds zero point and offset)
 * out:    the epilogue's type
 * method: operands are widened to 16 bits, whose products an instruction adds in pairs without
 *         saturating; tiles of 6 rows x 16 columns in 12 registers
 * bounds: partial sums are taken modulo 2^32, final ones are proven to fit at packing
 * scratch: see vit_narrow_product.h
 */
#include <stdint.h>
#include <string.h>

enum { ROWS = 6, GROUP = 2 };

typedef uint8_t vit_byte;
typedef int16_t vit_operand;

#include "vit_tile_avx2.h"

static inline __attribute__((always_inline)) void dot_tile(tile *t, const int16_t *const row[ROWS],
                                                           size_t k, const int16_t *w)
{
    const __m256i b0 = _mm256_loadu_si256((const __m256i *)(const void *)w);
    const __m256i b1 = _mm256_loadu_si256((const __m256i *)(const void *)(w + 16));
    for (int32_t r = 0; r < ROWS; ++r) {
        int32_t two;
        memcpy(&two, row[r] + k, 4);
        const __m256i a = _mm256_set1_epi32(two);
        t->v[r][0] = _mm256_add_epi32(t->v[r][0], _mm256_madd_epi16(a, b0));
        t->v[r][1] = _mm256_add_epi32(t->v[r][1], _mm256_madd_epi16(a, b1));
    }
}

#include "vit_narrow_product.h"

void vit_linear_u8_avx2(const vit_packed_linear_shape *p, const void *x, const void *w,
                           const vit_epilogue *e, void *scratch)
{
    vit_narrow_linear(p, (const uint8_t *)x, (const uint8_t *)w, e, (uint8_t *)scratch);
}
