/* kernel: exponentials of the deferred softmax, and their row sums
 * layout: x[rows][cols] of any type up to 32 bits, p[rows][cols] u8, sum[rows] u32
 * in:     scores with `frac` fractional bits; table[256] = floor(255 exp(-u/16) + 1/2)
 * out:    p = table[min(255, rhu((max - x) / 2^(frac - 4)))], sum = sum of p, at least 255
 * method: distances to the maximum are below 2^32, so unsigned 32-bit shifts are exact
 * scratch: cols * 4 bytes
 */
#include "vit_arith.h"

static uint32_t index_of(uint32_t distance, int32_t shift)
{
    if (shift <= 0) {
        const int32_t left = shift < -8 ? 8 : -shift;
        return distance > 255 ? 255 : distance << left;
    }
    if (shift > 32) {
        return 0;
    }
    const uint32_t half = (distance >> (shift - 1)) & 1;
    return (shift == 32 ? 0 : distance >> shift) + half;
}

void vit_softmax_exp_u8(const void *x, vit_type x_type, int32_t rows, int32_t cols, int32_t frac,
                        const uint8_t *table, uint8_t *p, uint32_t *sum, void *scratch)
{
    int32_t *row = (int32_t *)scratch;
    for (int32_t r = 0; r < rows; ++r) {
        const size_t first = (size_t)r * (size_t)cols;
        vit_load_s32(x, x_type, first, cols, row);
        const int32_t largest = vit_max_of(row, cols);
        uint32_t total = 0;
        for (int32_t c = 0; c < cols; ++c) {
            const uint32_t u = index_of((uint32_t)largest - (uint32_t)row[c], frac - 4);
            const uint8_t weight = table[u > 255 ? 255 : u];
            p[first + (size_t)c] = weight;
            total += weight;
        }
        sum[r] = total;
    }
}
