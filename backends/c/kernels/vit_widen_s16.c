/* kernel: widen codes of any storage type to the s16 operands of a product
 * layout: n consecutive codes starting at element `first`
 * in:     8-bit codes minus their zero point (fits s16); 16-bit codes minus vit_widen_offset();
 *         VIT_S4 nibbles, low first; VIT_LOG2 codes as the powers of two they stand for
 * out:    y[n] s16
 * scratch: none
 */
#include "vit_arith.h"

/* The number subtracted from a code so that it fits s16: the zero point itself where the code has
 * 8 bits or less. For 16 bits the rest, offset - zero point, is added by vit_gemm_s16(). */
int32_t vit_widen_offset(vit_type type, int32_t zp)
{
    switch (type) {
    case VIT_S16:
        return 0;
    case VIT_U16:
        return 32768;
    default:
        return zp;
    }
}

static void widen_s4(const uint8_t *x, size_t first, int32_t n, int32_t offset, int16_t *y)
{
    for (int32_t i = 0; i < n; ++i) {
        const size_t at = first + (size_t)i;
        const int32_t nibble = (at & 1) != 0 ? x[at >> 1] >> 4 : x[at >> 1] & 15;
        y[i] = (int16_t)((nibble ^ 8) - 8 - offset);
    }
}

void vit_widen_s16(const void *x, vit_type type, size_t first, int32_t n, int32_t offset,
                   int16_t *restrict y)
{
#define VIT_WIDEN(ctype)                                                                           \
    do {                                                                                           \
        const ctype *restrict src = (const ctype *)x + first;                                      \
        for (int32_t i = 0; i < n; ++i) {                                                          \
            y[i] = (int16_t)(src[i] - offset);                                                     \
        }                                                                                          \
    } while (0)
    switch (type) {
    case VIT_S8:
        VIT_WIDEN(int8_t);
        break;
    case VIT_S16:
        VIT_WIDEN(int16_t);
        break;
    case VIT_U16:
        VIT_WIDEN(uint16_t);
        break;
    case VIT_S4:
        widen_s4((const uint8_t *)x, first, n, offset, y);
        break;
    case VIT_LOG2: {
        const uint8_t *codes = (const uint8_t *)x + first;
        for (int32_t i = 0; i < n; ++i) {
            y[i] = (int16_t)((1 << 14 >> (codes[i] & 15)) & -(codes[i] < 15));
        }
        break;
    }
    default:
        VIT_WIDEN(uint8_t);
        break;
    }
#undef VIT_WIDEN
}

void vit_widen_rows(const void *x, vit_type type, size_t first, size_t stride, int32_t rows,
                    int32_t k, int32_t ld, int32_t offset, int16_t *y)
{
    for (int32_t r = 0; r < rows; ++r) {
        int16_t *row = y + (size_t)r * (size_t)ld;
        vit_widen_s16(x, type, first + (size_t)r * stride, k, offset, row);
        for (int32_t i = k; i < ld; ++i) {
            row[i] = 0;
        }
    }
}
