/* Depthwise convolution line by line: what all instruction levels share.
 *
 * Pixels and channels of an output row are one line of bytes; a tap is the same line, moved. Input
 * lines wait in a ring of line buffers, with padding on both sides, and sorted by their column modulo
 * the stride, so that a tap is one piece of memory.
 *
 * A source file that includes this has defined GROUP, the taps that an instruction multiplies, and
 * defines output_line() afterwards.
 *
 * scratch: (window height + 1) lines of line_bytes, rounded up to 64, each; then, for VIT_BY_STAGES,
 *          out_width * channels * 4 + 256 bytes */
#ifndef VIT_DWCONV_LINES_H
#define VIT_DWCONV_LINES_H

#include <string.h>

#include "vit_arith.h"

enum { MAX_TAPS = 64 };

typedef struct {
    uint8_t *lines;
    size_t line_bytes, phase_bytes;
    int32_t window_h; /* lines from the first tap to the last */
    int32_t groups;   /* of GROUP taps */
    int32_t outputs;  /* of a line: out_width * channels */
    int32_t *tile;
    uint8_t flip;     /* what bytes are xored with on their way into a line */
} workspace;

/* The output line whose first pixel is `row` of the result, from the lines of all taps. */
static void output_line(const vit_packed_conv_shape *p, const workspace *s,
                        const uint8_t *const *taps, const uint8_t *w, const vit_epilogue *e,
                        int32_t row);

/* Pixels of one column modulo the stride, from the first tap of the first output to the last. */
static int32_t phase_pixels(const vit_packed_conv_shape *p)
{
    return p->out_width + (p->kernel_w - 1) * p->dilation_w / p->stride_w;
}

static workspace carve(const vit_packed_conv_shape *p, uint8_t flip, void *scratch)
{
    workspace s;
    s.phase_bytes = vit_align64((size_t)phase_pixels(p) * (size_t)p->channels + 64);
    s.line_bytes = s.phase_bytes * (size_t)p->stride_w;
    s.window_h = (p->kernel_h - 1) * p->dilation_h + 1;
    s.groups = (p->kernel_h * p->kernel_w + GROUP - 1) / GROUP;
    s.outputs = p->out_width * p->channels;
    s.lines = (uint8_t *)scratch;
    s.tile = (int32_t *)(void *)(s.lines + (size_t)(s.window_h + 1) * s.line_bytes);
    s.flip = flip;
    return s;
}

static inline void copy_pixels(const uint8_t *restrict x, size_t bytes, uint8_t flip,
                               uint8_t *restrict y)
{
    if (flip == 0) {
        memcpy(y, x, bytes);
        return;
    }
    for (size_t i = 0; i < bytes; ++i) {
        y[i] = (uint8_t)(x[i] ^ flip);
    }
}

/* One input line into its buffer; what lies beside the image stays the padding set before. */
static void copy_line(const vit_packed_conv_shape *p, const workspace *s, const uint8_t *row,
                      uint8_t *line)
{
    const size_t depth = (size_t)p->channels;
    const int32_t pixels = phase_pixels(p);
    if (p->stride_w == 1) {
        const int32_t count = vit_min32(p->width, pixels - p->pad_left);
        if (count > 0) {
            copy_pixels(row, (size_t)count * depth, s->flip, line + (size_t)p->pad_left * depth);
        }
        return;
    }
    for (int32_t ix = 0; ix < p->width; ++ix) {
        const int32_t at = ix + p->pad_left;
        if (at / p->stride_w < pixels) {
            uint8_t *phase = line + (size_t)(at % p->stride_w) * s->phase_bytes;
            copy_pixels(row + (size_t)ix * depth, depth, s->flip,
                        phase + (size_t)(at / p->stride_w) * depth);
        }
    }
}

/* The lines of all taps for one output row; missing taps, whose weights are 0, repeat the first. */
static void find_taps(const vit_packed_conv_shape *p, const workspace *s, int32_t oy,
                      const uint8_t *taps[MAX_TAPS])
{
    const uint8_t *padding = s->lines + (size_t)s->window_h * s->line_bytes;
    int32_t tap = 0;
    for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
        const int32_t iy = oy * p->stride_h - p->pad_top + ky * p->dilation_h;
        const uint8_t *line = iy < 0 || iy >= p->height
                                  ? padding
                                  : s->lines + (size_t)(iy % s->window_h) * s->line_bytes;
        for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
            const int32_t at = kx * p->dilation_w;
            taps[tap++] = line + (size_t)(at % p->stride_w) * s->phase_bytes +
                          (size_t)(at / p->stride_w) * (size_t)p->channels;
        }
    }
    while (tap % GROUP != 0) {
        taps[tap++] = taps[0];
    }
}

/* Output lines of an image; `row` is the first output pixel of the image in the result. */
static void lines_of_image(const vit_packed_conv_shape *p, const workspace *s, const uint8_t *x,
                           const uint8_t *w, const vit_epilogue *e, vit_range lines, int32_t row)
{
    /* first input line that is not in the ring */
    int32_t next = lines.first * p->stride_h - p->pad_top;
    next = next < 0 ? 0 : next;
    row += lines.first * p->out_width;
    for (int32_t oy = lines.first; oy < lines.last; ++oy, row += p->out_width) {
        const int32_t last = oy * p->stride_h - p->pad_top + s->window_h - 1;
        for (; next <= last && next < p->height; ++next) {
            copy_line(p, s, x + (size_t)next * (size_t)p->width * (size_t)p->channels,
                      s->lines + (size_t)(next % s->window_h) * s->line_bytes);
        }
        const uint8_t *taps[MAX_TAPS];
        find_taps(p, s, oy, taps);
        output_line(p, s, taps, w, e, row);
    }
}

static inline void vit_dwconv_lines(const vit_packed_conv_shape *p, const uint8_t *x,
                                    const uint8_t *w, const vit_epilogue *e, uint8_t flip,
                                    void *scratch)
{
    const workspace s = carve(p, flip, scratch);
    const size_t image = (size_t)p->height * (size_t)p->width * (size_t)p->channels;
    memset(s.lines, p->padding, (size_t)(s.window_h + 1) * s.line_bytes);
    for (int32_t b = 0; b < p->batch; ++b) {
        const vit_range lines = vit_share(p->out_height, 1, p->part, p->parts);
        lines_of_image(p, &s, x + (size_t)b * image, w, e, lines,
                       b * p->out_height * p->out_width);
    }
}

#endif
