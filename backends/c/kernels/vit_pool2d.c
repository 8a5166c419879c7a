/* kernel: average and maximum pooling
 * layout: x NHWC, y NHWC
 * in:     codes with zero point
 * out:    average: sat(rdiv(sum << max(0, s), N << max(0, -s)) + zp), s = e_out - e_in, N the
 *         window's elements, with or without padding; maximum: the code itself
 * method: element by element
 * scratch: none
 */
#include "vit_arith.h"

/* The part of a window that lies on the image, and the number of its elements with padding. */
typedef struct {
    int32_t y0, y1, x0, x1, padded;
} window;

static int32_t max32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static window window_at(const vit_pool2d_shape *p, int32_t oy, int32_t ox)
{
    const int32_t top = oy * p->stride_h - p->pad_top, left = ox * p->stride_w - p->pad_left;
    const int32_t bottom = top + p->kernel_h, right = left + p->kernel_w;
    const window w = {.y0 = max32(top, 0),
                      .y1 = vit_min32(bottom, p->height),
                      .x0 = max32(left, 0),
                      .x1 = vit_min32(right, p->width),
                      .padded = (vit_min32(bottom, p->height + p->pad_bottom) - top) *
                                (vit_min32(right, p->width + p->pad_right) - left)};
    return w;
}

static size_t index_of(const vit_pool2d_shape *p, int32_t b, int32_t y, int32_t x, int32_t c)
{
    const size_t row = (size_t)b * (size_t)p->height + (size_t)y;
    return (row * (size_t)p->width + (size_t)x) * (size_t)p->channels + (size_t)c;
}

static int64_t average(const vit_pool2d_shape *p, const void *x, const window *w, int32_t b,
                       int32_t c)
{
    int64_t sum = 0;
    for (int32_t iy = w->y0; iy < w->y1; ++iy) {
        for (int32_t ix = w->x0; ix < w->x1; ++ix) {
            sum += vit_load_one(x, p->x_type, index_of(p, b, iy, ix, c)) - p->x_zp;
        }
    }
    const int64_t real = (int64_t)(w->y1 - w->y0) * (w->x1 - w->x0);
    const int64_t count = p->count_pad != 0 ? w->padded : real;
    const int64_t mean = vit_rdiv(vit_shl(sum, p->shift > 0 ? p->shift : 0),
                                  vit_shl(count < 1 ? 1 : count, p->shift < 0 ? -p->shift : 0));
    return vit_code(mean, p->zp, p->lo, p->hi);
}

static int64_t maximum(const vit_pool2d_shape *p, const void *x, const window *w, int32_t b,
                       int32_t c)
{
    int64_t best = p->lo;
    for (int32_t iy = w->y0; iy < w->y1; ++iy) {
        for (int32_t ix = w->x0; ix < w->x1; ++ix) {
            const int64_t code = vit_load_one(x, p->x_type, index_of(p, b, iy, ix, c));
            best = code > best ? code : best;
        }
    }
    return best;
}

static void pool(const vit_pool2d_shape *p, const void *x, void *y,
                 int64_t (*reduce)(const vit_pool2d_shape *, const void *, const window *, int32_t,
                                   int32_t))
{
    size_t at = 0;
    for (int32_t b = 0; b < p->batch; ++b) {
        for (int32_t oy = 0; oy < p->out_height; ++oy) {
            for (int32_t ox = 0; ox < p->out_width; ++ox) {
                const window w = window_at(p, oy, ox);
                for (int32_t c = 0; c < p->channels; ++c, ++at) {
                    vit_store_one(reduce(p, x, &w, b, c), y, p->y_type, at);
                }
            }
        }
    }
}

void vit_avg_pool2d(const vit_pool2d_shape *p, const void *x, void *y)
{
    pool(p, x, y, average);
}

void vit_max_pool2d(const vit_pool2d_shape *p, const void *x, void *y)
{
    pool(p, x, y, maximum);
}
