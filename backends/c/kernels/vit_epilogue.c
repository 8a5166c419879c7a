/* kernel: epilogue of accumulating kernels, and the stages it is made of
 * layout: tile[rows][ld_tile] int32, row-major; row0 and col0 place the tile in the whole result
 * in:     accumulators or loaded codes, int32
 * out:    e->y[row * e->ld + column] of type e->type
 * method: one pass over the tile per stage; common cases (rounding half up to at most 16 bits)
 *         stay in 32 bits, everything else goes through exact 64-bit arithmetic
 * scratch: none
 */
#include "vit_arith.h"

void vit_load_s32(const void *x, vit_type type, size_t first, int32_t n, int32_t *restrict y)
{
#define VIT_LOAD(ctype)                                                                            \
    do {                                                                                           \
        const ctype *restrict src = (const ctype *)x + first;                                      \
        for (int32_t i = 0; i < n; ++i) {                                                          \
            y[i] = (int32_t)src[i];                                                                \
        }                                                                                          \
    } while (0)
    switch (type) {
    case VIT_S8:
        VIT_LOAD(int8_t);
        break;
    case VIT_S16:
        VIT_LOAD(int16_t);
        break;
    case VIT_U16:
        VIT_LOAD(uint16_t);
        break;
    case VIT_S32:
        VIT_LOAD(int32_t);
        break;
    case VIT_U32:
        VIT_LOAD(uint32_t);
        break;
    case VIT_S64:
        VIT_LOAD(int64_t);
        break;
    default:
        VIT_LOAD(uint8_t);
        break;
    }
#undef VIT_LOAD
}

void vit_store_s32(const int32_t *restrict x, int32_t n, void *y, vit_type type, size_t first)
{
#define VIT_STORE(ctype)                                                                           \
    do {                                                                                           \
        ctype *restrict dst = (ctype *)y + first;                                                  \
        for (int32_t i = 0; i < n; ++i) {                                                          \
            dst[i] = (ctype)x[i];                                                                  \
        }                                                                                          \
    } while (0)
    switch (type) {
    case VIT_S8:
        VIT_STORE(int8_t);
        break;
    case VIT_S16:
        VIT_STORE(int16_t);
        break;
    case VIT_U16:
        VIT_STORE(uint16_t);
        break;
    case VIT_S32:
        VIT_STORE(int32_t);
        break;
    case VIT_U32:
        VIT_STORE(uint32_t);
        break;
    case VIT_S64:
        VIT_STORE(int64_t);
        break;
    default:
        VIT_STORE(uint8_t);
        break;
    }
#undef VIT_STORE
}

/* True where every shift of the columns lies in 1..31. */
static int shifts_are_short(const int32_t *shifts, int32_t shift, int32_t cols)
{
    if (shifts == NULL) {
        return shift >= 1 && shift <= 31;
    }
    for (int32_t c = 0; c < cols; ++c) {
        if (shifts[c] < 1 || shifts[c] > 31) {
            return 0;
        }
    }
    return 1;
}

static int fits_32_bits(const vit_stage *s, int32_t limit)
{
    return s->lo >= -limit && s->hi <= limit && s->zp >= -limit && s->zp <= limit;
}

/* Rounding half up in 32 bits: (v >> s) + bit s-1 of v never overflows. */
static void requant_short(const int32_t *shifts, int32_t shift, int32_t lo, int32_t hi,
                          int32_t zp, int32_t *restrict v, int32_t cols)
{
    if (shifts == NULL) {
        for (int32_t c = 0; c < cols; ++c) {
            const int32_t y = (v[c] >> shift) + ((v[c] >> (shift - 1)) & 1);
            v[c] = vit_clamp32(y, lo - zp, hi - zp) + zp;
        }
    } else {
        for (int32_t c = 0; c < cols; ++c) {
            const int32_t y = (v[c] >> shifts[c]) + ((v[c] >> (shifts[c] - 1)) & 1);
            v[c] = vit_clamp32(y, lo - zp, hi - zp) + zp;
        }
    }
}

static void requant(const vit_stage *s, int32_t *tile, int32_t ld, int32_t rows, int32_t col0,
                    int32_t cols)
{
    const int32_t *shifts = s->shift_c == NULL ? NULL : s->shift_c + col0;
    if (s->rounding == VIT_RHU && s->zp_in == 0 && fits_32_bits(s, 1 << 20) &&
        shifts_are_short(shifts, s->shift, cols)) {
        for (int32_t r = 0; r < rows; ++r) {
            requant_short(shifts, s->shift, s->lo, s->hi, s->zp, tile + (size_t)r * (size_t)ld,
                          cols);
        }
        return;
    }
    for (int32_t r = 0; r < rows; ++r) {
        int32_t *v = tile + (size_t)r * (size_t)ld;
        for (int32_t c = 0; c < cols; ++c) {
            const int32_t shift = shifts == NULL ? s->shift : shifts[c];
            const int64_t y = vit_round_shift((int64_t)v[c] - s->zp_in, shift, s->rounding);
            v[c] = (int32_t)vit_code(y, s->zp, s->lo, s->hi);
        }
    }
}

static int32_t pick(const int32_t *per_column, int32_t scalar, int32_t col)
{
    return per_column == NULL ? scalar : per_column[col];
}

static void dyadic(const vit_stage *s, int32_t *tile, int32_t ld, int32_t rows, int32_t col0,
                   int32_t cols)
{
    for (int32_t r = 0; r < rows; ++r) {
        int32_t *v = tile + (size_t)r * (size_t)ld;
        for (int32_t c = 0; c < cols; ++c) {
            const int64_t m = pick(s->multiplier_c, s->multiplier, col0 + c);
            const int32_t shift = pick(s->shift_c, s->shift, col0 + c);
            const int64_t y = vit_round_shift(((int64_t)v[c] - s->zp_in) * m, shift, s->rounding);
            v[c] = (int32_t)vit_code(y, s->zp, s->lo, s->hi);
        }
    }
}

#define VIT_OTHER_BLOCK 256

static int64_t add_one(const vit_stage *s, int32_t v, int32_t o, int32_t col)
{
    const int32_t shift = pick(s->shift_c, s->shift, col);
    const int64_t a = vit_shl((int64_t)v - s->zp_in, pick(s->left_v_c, s->left_v, col));
    const int64_t b = vit_shl((int64_t)o - s->other_zp, pick(s->left_o_c, s->left_o, col));
    const int64_t sum =
        vit_clamp64(a, -VIT_LIMIT, VIT_LIMIT) + vit_clamp64(b, -VIT_LIMIT, VIT_LIMIT);
    return vit_code(vit_round_shift(sum, shift, s->rounding), s->zp, s->lo, s->hi);
}

static int64_t add_separate_one(const vit_stage *s, int32_t v, int32_t o, int32_t col)
{
    const int64_t a = ((int64_t)v - s->zp_in) * pick(s->multiplier_c, s->multiplier, col);
    const int64_t b = ((int64_t)o - s->other_zp) * pick(s->multiplier_o_c, s->multiplier_o, col);
    const int64_t ra = vit_round_shift(a, pick(s->shift_c, s->shift, col), s->rounding);
    const int64_t rb = vit_round_shift(b, pick(s->shift_o_c, s->shift_o, col), s->rounding);
    const int64_t sum =
        vit_clamp64(ra, -VIT_LIMIT, VIT_LIMIT) + vit_clamp64(rb, -VIT_LIMIT, VIT_LIMIT);
    return vit_code(sum, s->zp, s->lo, s->hi);
}

static int64_t mul_one(const vit_stage *s, int32_t v, int32_t o, int32_t col)
{
    const int32_t shift = pick(s->shift_c, s->shift, col);
    const int64_t product = ((int64_t)v - s->zp_in) * ((int64_t)o - s->other_zp);
    const int64_t scaled = product * pick(s->multiplier_c, s->multiplier, col);
    return vit_code(vit_round_shift(scaled, shift, s->rounding), s->zp, s->lo, s->hi);
}

static int64_t combine(const vit_stage *s, int32_t v, int32_t o, int32_t col)
{
    switch (s->kind) {
    case VIT_ADD:
        return add_one(s, v, o, col);
    case VIT_ADD_SEPARATE:
        return add_separate_one(s, v, o, col);
    default:
        return mul_one(s, v, o, col);
    }
}

/* The residual is on the result's grid: round the accumulator, then add, all in 32 bits. */
static int add_is_short(const vit_stage *s, int32_t col0, int32_t cols)
{
    if (s->kind != VIT_ADD || s->rounding != VIT_RHU || s->zp_in != 0 || s->left_v != 0 ||
        s->left_v_c != NULL || !fits_32_bits(s, 1 << 20) ||
        (s->other_type != VIT_S16 && s->other_type != VIT_S8 && s->other_type != VIT_U8)) {
        return 0;
    }
    if (s->other_zp < -(1 << 20) || s->other_zp > 1 << 20) {
        return 0;
    }
    const int32_t *shifts = s->shift_c == NULL ? NULL : s->shift_c + col0;
    if (!shifts_are_short(shifts, s->shift, cols)) {
        return 0;
    }
    for (int32_t c = 0; c < cols; ++c) {
        if (pick(s->left_o_c, s->left_o, col0 + c) != (shifts == NULL ? s->shift : shifts[c])) {
            return 0;
        }
    }
    return 1;
}

static void add_short(const vit_stage *s, int32_t *restrict v, const int32_t *restrict o,
                      int32_t col, int32_t n)
{
    const int32_t bias = s->zp - s->other_zp;
    for (int32_t c = 0; c < n; ++c) {
        const int32_t shift = pick(s->shift_c, s->shift, col + c);
        const int32_t y = (v[c] >> shift) + ((v[c] >> (shift - 1)) & 1); /* |y| <= 2^30 */
        v[c] = vit_clamp32(y + o[c] + bias, s->lo, s->hi);
    }
}

/* The same shifts for all columns, and terms that need no more than 30 bits. */
static int add_is_uniform(const vit_stage *s)
{
    const int32_t limit = 1 << 16;
    return s->kind == VIT_ADD && s->rounding == VIT_RHU && s->left_v_c == NULL &&
           s->left_o_c == NULL && s->shift_c == NULL && s->shift >= 1 && s->shift <= 30 &&
           s->left_v >= 0 && s->left_v <= 12 && s->left_o >= 0 && s->left_o <= 12 &&
           s->zp_in >= -limit && s->zp_in <= limit && s->other_zp >= -limit &&
           s->other_zp <= limit && fits_32_bits(s, 1 << 20) &&
           (s->other_type == VIT_S16 || s->other_type == VIT_S8 || s->other_type == VIT_U8);
}

static int all_within_16_bits(const int32_t *v, int32_t n)
{
    int32_t bits = 0;
    for (int32_t c = 0; c < n; ++c) {
        bits |= v[c] ^ (v[c] >> 31);
    }
    return bits < 1 << 16;
}

static void add_uniform(const vit_stage *s, int32_t *restrict v, const int32_t *restrict o,
                        int32_t n)
{
    const int32_t left_v = 1 << s->left_v, left_o = 1 << s->left_o, shift = s->shift;
    const int32_t zp = s->zp, lo = s->lo - zp, hi = s->hi - zp;
    const int32_t constant = -s->zp_in * left_v - s->other_zp * left_o; /* below 2^30 */
    for (int32_t c = 0; c < n; ++c) {
        const int32_t sum = v[c] * left_v + o[c] * left_o + constant;
        v[c] = vit_clamp32((sum >> shift) + ((sum >> (shift - 1)) & 1), lo, hi) + zp;
    }
}

static void add_or_mul(const vit_stage *s, int32_t *tile, int32_t ld, int32_t row0, int32_t rows,
                       int32_t col0, int32_t cols)
{
    int32_t other[VIT_OTHER_BLOCK];
    const int is_short = add_is_short(s, col0, cols), is_uniform = add_is_uniform(s);
    for (int32_t r = 0; r < rows; ++r) {
        int32_t *row = tile + (size_t)r * (size_t)ld;
        for (int32_t c0 = 0; c0 < cols; c0 += VIT_OTHER_BLOCK) {
            const int32_t n = vit_min32(VIT_OTHER_BLOCK, cols - c0);
            const int32_t col = col0 + c0;
            int32_t *v = row + c0;
            vit_load_s32(s->other, s->other_type, vit_other_index(s, row0 + r, col), n, other);
            if (is_short) {
                add_short(s, v, other, col, n);
                continue;
            }
            if (is_uniform && all_within_16_bits(v, n)) {
                add_uniform(s, v, other, n);
                continue;
            }
            for (int32_t c = 0; c < n; ++c) {
                v[c] = (int32_t)combine(s, v[c], other[c], col + c);
            }
        }
    }
}

static void normalize(const vit_stage *s, int32_t *tile, int32_t ld, int32_t row0, int32_t rows,
                      int32_t col0, int32_t cols)
{
    const uint32_t *sums = (const uint32_t *)s->other;
    for (int32_t r = 0; r < rows; ++r) {
        int32_t *restrict v = tile + (size_t)r * (size_t)ld;
        const uint32_t sum = sums[row0 + r] == 0 ? 1 : sums[row0 + r];
        const int32_t nb = vit_blen(sum);
        const int64_t reciprocal = (int64_t)(((uint64_t)1 << (nb + 15)) / sum);
        const int32_t shift = nb + s->shift;
        if (s->shift_c == NULL && s->rounding == VIT_RHU && shift >= 1 && shift <= 62) {
            for (int32_t c = 0; c < cols; ++c) {
                const int64_t p = (int64_t)v[c] * reciprocal;
                const int64_t y = (p >> shift) + ((p >> (shift - 1)) & 1) + s->zp;
                v[c] = (int32_t)vit_clamp64(y, s->lo, s->hi);
            }
            continue;
        }
        for (int32_t c = 0; c < cols; ++c) {
            const int32_t sc = s->shift_c == NULL ? shift : nb + s->shift_c[col0 + c];
            const int64_t y = vit_round_shift((int64_t)v[c] * reciprocal, sc, s->rounding);
            v[c] = (int32_t)vit_code(y, s->zp, s->lo, s->hi);
        }
    }
}

static void lut(const vit_stage *s, int32_t *tile, int32_t ld, int32_t rows, int32_t cols)
{
#define VIT_LOOKUP(ctype)                                                                          \
    do {                                                                                           \
        const ctype *table = (const ctype *)s->table;                                              \
        for (int32_t r = 0; r < rows; ++r) {                                                       \
            int32_t *v = tile + (size_t)r * (size_t)ld;                                            \
            for (int32_t c = 0; c < cols; ++c) {                                                   \
                v[c] = table[(v[c] - s->lut_min) & 255];                                           \
            }                                                                                      \
        }                                                                                          \
    } while (0)
    switch (s->table_type) {
    case VIT_S8:
        VIT_LOOKUP(int8_t);
        break;
    case VIT_U8:
        VIT_LOOKUP(uint8_t);
        break;
    case VIT_U16:
        VIT_LOOKUP(uint16_t);
        break;
    case VIT_S32:
        VIT_LOOKUP(int32_t);
        break;
    default:
        VIT_LOOKUP(int16_t);
        break;
    }
#undef VIT_LOOKUP
}

static void lut16(const vit_stage *s, int32_t *tile, int32_t ld, int32_t rows, int32_t cols)
{
    const int16_t *table = (const int16_t *)s->table;
    for (int32_t r = 0; r < rows; ++r) {
        int32_t *v = tile + (size_t)r * (size_t)ld;
        for (int32_t c = 0; c < cols; ++c) {
            const int32_t code = v[c] - s->lut_min;
            const int32_t i = (code >> 8) & 255;
            const int32_t slope = ((int32_t)table[i + 1] - table[i]) * (code & 255);
            v[c] = table[i] + (slope >> 8) + ((slope >> 7) & 1);
        }
    }
}

static void clamp(const vit_stage *s, int32_t *tile, int32_t ld, int32_t rows, int32_t cols)
{
    for (int32_t r = 0; r < rows; ++r) {
        int32_t *restrict v = tile + (size_t)r * (size_t)ld;
        for (int32_t c = 0; c < cols; ++c) {
            v[c] = vit_clamp32(v[c], s->lo, s->hi);
        }
    }
}

void vit_stage_apply(const vit_stage *s, int32_t *tile, int32_t ld_tile, int32_t row0,
                     int32_t rows, int32_t col0, int32_t cols)
{
    switch (s->kind) {
    case VIT_REQUANT:
        requant(s, tile, ld_tile, rows, col0, cols);
        break;
    case VIT_DYADIC:
        dyadic(s, tile, ld_tile, rows, col0, cols);
        break;
    case VIT_ADD:
    case VIT_ADD_SEPARATE:
    case VIT_MUL:
        add_or_mul(s, tile, ld_tile, row0, rows, col0, cols);
        break;
    case VIT_NORMALIZE:
        normalize(s, tile, ld_tile, row0, rows, col0, cols);
        break;
    case VIT_LUT:
        lut(s, tile, ld_tile, rows, cols);
        break;
    case VIT_LUT16:
        lut16(s, tile, ld_tile, rows, cols);
        break;
    default:
        clamp(s, tile, ld_tile, rows, cols);
        break;
    }
}

/* A branch on a copy of the tile, piece by piece. */
static void apply_to_copy(const vit_epilogue *e, const int32_t *tile, int32_t ld_tile, int32_t row0,
                          int32_t rows, int32_t col0, int32_t cols)
{
    int32_t piece[VIT_OTHER_BLOCK];
    for (int32_t r = 0; r < rows; ++r) {
        for (int32_t c0 = 0; c0 < cols; c0 += VIT_OTHER_BLOCK) {
            const int32_t n = vit_min32(VIT_OTHER_BLOCK, cols - c0);
            for (int32_t c = 0; c < n; ++c) {
                piece[c] = tile[(size_t)r * (size_t)ld_tile + (size_t)(c0 + c)];
            }
            vit_epilogue_apply(e, piece, n, row0 + r, 1, col0 + c0, n);
        }
    }
}

void vit_epilogue_apply(const vit_epilogue *e, int32_t *tile, int32_t ld_tile, int32_t row0,
                        int32_t rows, int32_t col0, int32_t cols)
{
    for (int32_t i = 0; i < e->count; ++i) {
        vit_stage_apply(&e->stages[i], tile, ld_tile, row0, rows, col0, cols);
    }
    for (int32_t r = 0; e->y != NULL && r < rows; ++r) {
        const size_t first = (size_t)(row0 + r) * (size_t)e->ld + (size_t)col0;
        vit_store_s32(tile + (size_t)r * (size_t)ld_tile, cols, e->y, e->type, first);
    }
    for (int32_t i = 0; i < e->branches; ++i) {
        apply_to_copy(&e->branch[i], tile, ld_tile, row0, rows, col0, cols);
    }
}
