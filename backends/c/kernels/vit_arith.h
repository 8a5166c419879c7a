/* Integer arithmetic shared by the kernels; every function is exact as a mathematical formula. */
#ifndef VIT_ARITH_H
#define VIT_ARITH_H

#include "vit_kernels.h"

/* Far outside every code, and twice it still fits: saturating terms of a sum here is exact. */
#define VIT_LIMIT (((int64_t)1 << 62) - 1)

static inline int64_t vit_clamp64(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : (x > hi ? hi : x);
}

static inline int32_t vit_clamp32(int32_t x, int32_t lo, int32_t hi)
{
    return x < lo ? lo : (x > hi ? hi : x);
}

/* x * 2^s for s >= 0, saturated to the limits of int64. */
static inline int64_t vit_shl(int64_t x, int32_t s)
{
    if (s > 63) {
        s = 63;
    }
    if (x > INT64_MAX >> s) {
        return INT64_MAX;
    }
    if (x < INT64_MIN >> s) {
        return INT64_MIN;
    }
    return (int64_t)((uint64_t)x << s);
}

/* round(x / 2^s) for any s; s < 0 multiplies (see vit_shl). */
static inline int64_t vit_round_shift(int64_t x, int32_t s, vit_rounding rounding)
{
    if (s <= 0) {
        return vit_shl(x, s < -63 ? 63 : -s);
    }
    if (s > 63) { /* |x| / 2^s <= 1/2 */
        return rounding == VIT_FLOOR && x < 0 ? -1 : 0;
    }
    const int64_t whole = x >> s;
    const int64_t half = (x >> (s - 1)) & 1;
    if (rounding == VIT_RHU) {
        return whole + half;
    }
    if (rounding == VIT_RHE) {
        const int64_t sticky = (x & (((int64_t)1 << (s - 1)) - 1)) != 0;
        return whole + (half & (sticky | (whole & 1)));
    }
    return whole;
}

/* The code x + zp, saturated, for any x. */
static inline int64_t vit_code(int64_t x, int32_t zp, int64_t lo, int64_t hi)
{
    return vit_clamp64(x, lo - zp, hi - zp) + zp;
}

/* Position of the leading one plus 1; 0 for 0. */
static inline int32_t vit_blen(uint64_t x)
{
#if defined(__GNUC__)
    return x == 0 ? 0 : 64 - __builtin_clzll(x);
#else
    int32_t n = 0;
    for (int32_t step = 32; step > 0; step >>= 1) {
        if ((x >> step) != 0) {
            x >>= step;
            n += step;
        }
    }
    return n + (x != 0 ? 1 : 0);
#endif
}

/* floor((2a + b) / (2b)) for b > 0: division rounded half up. */
static inline int64_t vit_rdiv(int64_t a, int64_t b)
{
    const int64_t n = 2 * a + b;
    const int64_t d = 2 * b;
    const int64_t q = n / d;
    return n % d < 0 ? q - 1 : q;
}

/* Exponential by shifts (Shiftmax, ShiftGELU): about step * 2^n * exp(d / step), d in steps of
 * 1/step. `log2_step` is log2(step) for a power of two, else -1. Saturates at 2^63-1 (d > 0). */
static inline int64_t vit_exp_shift(int64_t d, int64_t step, int32_t log2_step, int32_t n)
{
    int64_t p = d + (d >> 1) - (d >> 4);
    if (p < -(int64_t)n * step) {
        p = -(int64_t)n * step;
    }
    int64_t octaves = 0; /* floor(-p / step) */
    if (log2_step >= 0) {
        octaves = (-p) >> log2_step;
    } else {
        octaves = -p / step;
        octaves -= -p % step < 0 ? 1 : 0;
    }
    const int64_t mantissa = p + octaves * step + 2 * step;
    const int64_t left = n - octaves;
    if (left > 62 || mantissa > INT64_MAX >> left) {
        return INT64_MAX >> 1;
    }
    return (mantissa << left) >> 1;
}

/* log2 of a power of two, -1 for any other number. */
static inline int32_t vit_exact_log2(int64_t x)
{
    return (x & (x - 1)) == 0 ? vit_blen((uint64_t)x) - 1 : -1;
}

static inline int32_t vit_max_of(const int32_t *x, int32_t n)
{
    int32_t m = x[0];
    for (int32_t i = 1; i < n; ++i) {
        m = x[i] > m ? x[i] : m;
    }
    return m;
}

static inline size_t vit_align64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

static inline int64_t vit_max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int32_t vit_min32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t vit_round_up16(int32_t n)
{
    return (n + 15) & ~15;
}

/* Indices from `first` to `last`, the latter not included. */
typedef struct {
    int32_t first, last;
} vit_range;

/* The share of a worker in n indices, in whole runs of `unit`; all of them if it is alone. */
static inline vit_range vit_share(int32_t n, int32_t unit, int32_t part, int32_t parts)
{
    vit_range range = {0, n};
    if (parts > 1) {
        const int64_t runs = (n + unit - 1) / unit;
        range.first = vit_min32(n, (int32_t)(runs * part / parts) * unit);
        range.last = vit_min32(n, (int32_t)(runs * (part + 1) / parts) * unit);
    }
    return range;
}

/* Whether workers share the columns of a matrix rather than its rows, since that is more even. */
static inline int vit_shares_columns(int32_t rows, int32_t columns, int32_t parts)
{
    if (parts <= 1) {
        return 0;
    }
    const int64_t by_rows = (int64_t)((rows + parts - 1) / parts) * columns;
    return (int64_t)((columns + parts - 1) / parts) * rows < by_rows;
}

/* Elements from row to row of a weight matrix with k columns: int4 rows end on a byte. */
static inline size_t vit_weight_stride(vit_type type, int32_t k)
{
    return type == VIT_S4 ? (size_t)((k + 1) & ~1) : (size_t)k;
}

/* Bytes of an element in memory. */
static inline size_t vit_type_size(vit_type type)
{
    switch (type) {
    case VIT_S16:
    case VIT_U16:
        return 2;
    case VIT_S32:
    case VIT_U32:
        return 4;
    case VIT_S64:
        return 8;
    default:
        return 1;
    }
}

/* Index of the first element of `other` that meets row `row`, column `col`. */
static inline size_t vit_other_index(const vit_stage *s, int32_t row, int32_t col)
{
    int32_t r = row;
    if (s->other_repeat > 1) {
        r = row / (s->other_inner * s->other_repeat) * s->other_inner + row % s->other_inner;
    }
    r = s->other_rows > 0 ? r % s->other_rows : r;
    return (size_t)r * (size_t)s->other_ld + (size_t)col;
}

/* Steps an index over dims[rank] to the next one in row-major order; returns the dimension that
 * was raised (those behind it went back to 0), or -1 after the last index. */
static inline int32_t vit_next_index(const int32_t *dims, int32_t rank, int32_t *index)
{
    int32_t d = rank - 1;
    while (d >= 0 && ++index[d] == dims[d]) {
        index[d--] = 0;
    }
    return d;
}

#endif
