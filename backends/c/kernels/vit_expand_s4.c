/* kernel: weights of 4 bits to bytes (or 16-bit words)
 * layout: packed: a bit for each chunk of codes (1: bytes), then panels, each a head, 2-bit shifts of
 *         the columns of its narrow chunks, and the chunks: bytes, or nibbles, the first half of the
 *         chunk in the low ones; out: panels, each a head and codes (backends/c/expand.py)
 * in:     chunks of 8 codes a column; column of code j: j / unit % columns
 * out:    code * 2^(shift + own shift of its column in the chunk) as int8 or int16, exact
 * method: a factor for each code of a chunk, then products of whole chunks
 * scratch: none
 */
#include <string.h>

#include "vit_arith.h"

/* Codes of a chunk at most: 8 for each of 64 columns. */
#define VIT_CHUNK 512

static void store_code(int32_t value, int32_t size, size_t at, void *out)
{
    if (size == 1) {
        ((int8_t *)out)[at] = (int8_t)value;
    } else {
        ((int16_t *)out)[at] = (int16_t)value;
    }
}

/* What each code of a chunk is multiplied by; shifts are counted from `first`. */
static void chunk_factors(const vit_expand_shape *p, const uint8_t *shifts, size_t first, int16_t *by)
{
    const int32_t period = p->columns * p->unit, codes = 8 * p->columns;
    for (int32_t c = 0; c < p->columns; ++c) {
        const size_t at = first + (size_t)c;
        const int32_t own = p->shift_bits != 0 ? shifts[at >> 2] >> (2 * (at & 3)) & 3 : 0;
        for (int32_t i = 0; i < p->unit; ++i) {
            by[c * p->unit + i] = (int16_t)(1 << (p->shift + own));
        }
    }
    for (int32_t j = period; j < codes; j += period) {
        memcpy(by + j, by, (size_t)period * sizeof(*by));
    }
}

static void expand_bytes(int32_t n, const uint8_t *x, int16_t *restrict y)
{
    const int32_t half = (n + 1) / 2;
    for (int32_t i = 0; i < half; ++i) {
        y[i] = (int16_t)((x[i] & 7) - (x[i] & 8));
    }
    for (int32_t i = half; i < n; ++i) {
        y[i] = (int16_t)((x[i - half] >> 4 & 7) - (x[i - half] >> 4 & 8));
    }
}

static void expand_chunk(const vit_expand_shape *p, int32_t n, const uint8_t *x, const int16_t *by,
                         void *out)
{
    int16_t codes[VIT_CHUNK];
    expand_bytes(n, x, codes);
    if (p->size == 1) {
        int8_t *y = (int8_t *)out;
        for (int32_t i = 0; i < n; ++i) {
            y[i] = (int8_t)(codes[i] * by[i]);
        }
    } else {
        int16_t *y = (int16_t *)out;
        for (int32_t i = 0; i < n; ++i) {
            y[i] = (int16_t)(codes[i] * by[i]);
        }
    }
}

static int is_wide(const uint8_t *marks, int32_t chunk)
{
    return marks[chunk >> 3] >> (chunk & 7) & 1;
}

/* Bytes of a panel's shifts and of its chunks. */
static size_t packed_bytes(const vit_expand_shape *p, const uint8_t *marks, size_t *shifts)
{
    const int32_t chunk = 8 * p->columns;
    size_t bytes = 0, columns = 0;
    for (int32_t at = 0, i = 0; at < p->codes; at += chunk, ++i) {
        const size_t n = (size_t)vit_min32(chunk, p->codes - at);
        bytes += is_wide(marks, i) ? n : (n + 1) / 2;
        columns += is_wide(marks, i) ? 0 : (size_t)p->columns;
    }
    *shifts = p->shift_bits != 0 ? (columns + 3) / 4 : 0;
    return bytes;
}

static void expand_panel(const vit_expand_shape *p, const uint8_t *marks, const uint8_t *shifts,
                         const uint8_t *x, uint8_t *out)
{
    const int32_t chunk = 8 * p->columns;
    int16_t by[VIT_CHUNK];
    size_t column = 0;
    for (int32_t at = 0, i = 0; at < p->codes; at += chunk, ++i) {
        const int32_t n = vit_min32(chunk, p->codes - at);
        if (is_wide(marks, i)) {
            for (int32_t j = 0; j < n; ++j) {
                store_code((int8_t)x[j], p->size, (size_t)j, out);
            }
            x += n;
        } else {
            if (p->shift_bits != 0 || at == 0) {
                chunk_factors(p, shifts, column, by);
            }
            expand_chunk(p, n, x, by, out);
            column += (size_t)p->columns;
            x += (n + 1) / 2;
        }
        out += (size_t)n * (size_t)p->size;
    }
}

void vit_expand_s4(const vit_expand_shape *p, const void *packed, void *out)
{
    const int32_t chunks = (p->codes + 8 * p->columns - 1) / (8 * p->columns);
    const uint8_t *marks = (const uint8_t *)packed;
    const size_t head = (size_t)p->head, start = ((size_t)chunks + 7) / 8;
    size_t shifts;
    const size_t codes = packed_bytes(p, marks, &shifts);
    const size_t from = head + shifts + codes, to = head + (size_t)p->codes * (size_t)p->size;
    const vit_range range = vit_share(p->panels, 1, p->part, p->parts);
    for (int32_t i = range.first; i < range.last; ++i) {
        const uint8_t *x = marks + start + (size_t)i * from;
        uint8_t *y = (uint8_t *)out + (size_t)i * to;
        memcpy(y, x, head);
        expand_panel(p, marks, x + head, x + head + shifts, y + head);
    }
}
