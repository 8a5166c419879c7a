/* kernel: bilinear resize
 * layout: x NHWC, y NHWC
 * in:     codes with zero point; per axis two source indices and the second's weight in 1/256
 * out:    sat(round(sum w_y w_x (x - zp), shift) + zp), shift = 16 + e_in - e_out
 * method: four products a result; the index tables are constants of the project
 * scratch: none
 */
#include "vit_arith.h"

void vit_resize_linear(const vit_resize_shape *p, const void *x, void *y)
{
    size_t at = 0;
    for (int32_t b = 0; b < p->batch; ++b) {
        for (int32_t oy = 0; oy < p->out_height; ++oy) {
            const int32_t wy1 = p->rows[2 * p->out_height + oy];
            for (int32_t ox = 0; ox < p->out_width; ++ox) {
                const int32_t wx1 = p->columns[2 * p->out_width + ox];
                const int64_t weights[4] = {(int64_t)(256 - wy1) * (256 - wx1),
                                            (int64_t)(256 - wy1) * wx1,
                                            (int64_t)wy1 * (256 - wx1), (int64_t)wy1 * wx1};
                size_t corner[4];
                for (int32_t i = 0; i < 4; ++i) {
                    const int32_t row = p->rows[(i >> 1) * p->out_height + oy];
                    const int32_t column = p->columns[(i & 1) * p->out_width + ox];
                    const size_t line = (size_t)b * (size_t)p->height + (size_t)row;
                    corner[i] = (line * (size_t)p->width + (size_t)column) * (size_t)p->channels;
                }
                for (int32_t c = 0; c < p->channels; ++c, ++at) {
                    int64_t sum = 0;
                    for (int32_t i = 0; i < 4; ++i) {
                        const int64_t code = vit_load_one(x, p->x_type, corner[i] + (size_t)c);
                        sum += weights[i] * (code - p->x_zp);
                    }
                    const int64_t value = vit_round_shift(sum, p->shift, p->rounding);
                    vit_store_one(vit_code(value, p->zp, p->lo, p->hi), y, p->y_type, at);
                }
            }
        }
    }
}
