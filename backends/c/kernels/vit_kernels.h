/* vit-opt integer kernel library: the interface.
 *
 * Everything here is C11 on fixed-width integers: no floating point, no heap, no global state.
 * A kernel reads and writes the caller's memory only; what it needs besides its operands is a
 * `scratch` block, 64-byte aligned, whose size is stated in the header of its source file.
 *
 * Number format: a code c of a tensor with `frac` fractional bits and zero point zp stands for
 * the real number (c - zp) * 2^-frac. Kernels see shifts only, never fracs.
 *
 * Accumulators never reach memory as whole tensors: every kernel that sums products computes a
 * tile of them and hands it to vit_epilogue_apply(), which runs a short list of stages
 * (requantise, add a residual, normalise, table) over the tile and stores the final type.
 *
 * Several workers can share a call: with `part` of `parts` in the shape, a kernel computes that piece
 * of the result only, with scratch of its own. Without (0 parts) it computes all of it.
 */
#ifndef VIT_KERNELS_H
#define VIT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

_Static_assert((-1 >> 1) == -1, "the kernels need an arithmetic right shift of signed integers");

/* Storage types of tensors in memory. Two int4 weights share a byte, low nibble first. */
typedef enum {
    VIT_S8,
    VIT_U8,
    VIT_S16,
    VIT_U16,
    VIT_S32,
    VIT_U32,
    VIT_S64,
    VIT_S4,  /* packed weights only */
    VIT_LOG2 /* log2 softmax codes 0..15 in a byte: the value 2^(14-code), 15 stands for 0 */
} vit_type;

/* Rounding of a right shift: half up, half to even, floor. */
typedef enum { VIT_RHU, VIT_RHE, VIT_FLOOR } vit_rounding;

typedef enum {
    VIT_REQUANT,   /* y = sat(round((v - zp_in) / 2^shift) + zp) */
    VIT_DYADIC,    /* y = sat(rhe((v - zp_in) * multiplier / 2^shift) + zp) */
    VIT_ADD,       /* y = sat(round(((v - zp_in) << left_v) + ((o - o_zp) << left_o), shift) + zp) */
    VIT_ADD_SEPARATE, /* y = sat(round((v - zp_in) * multiplier, shift)
                             + round((o - o_zp) * multiplier_o, shift_o) + zp) */
    VIT_MUL, /* y = sat(round((v - zp_in) * (o - o_zp) * multiplier, shift) + zp) */
    VIT_NORMALIZE, /* y = sat(round(v * floor(2^(nb+15) / sum), nb + shift) + zp), nb = blen(sum) */
    VIT_LUT,       /* y = table[v - lut_min] */
    VIT_LUT16,     /* y = interpolated 257-entry table of a 16-bit code */
    VIT_CLAMP      /* y = min(max(v, lo), hi) */
} vit_stage_kind;

/* One elementwise step on an int32 tile. A `*_c` array, where not NULL, holds one value per
 * column (output channel) and replaces the scalar of the same name. */
typedef struct {
    vit_stage_kind kind;
    vit_rounding rounding;
    int32_t zp_in;
    int32_t zp;
    int32_t lo, hi;         /* saturation bounds, inclusive, in output codes */
    int32_t shift;          /* right shift; negative: left */
    const int32_t *shift_c;
    int32_t left_v, left_o; /* VIT_ADD: alignment shifts of the tile and of the other operand */
    const int32_t *left_v_c, *left_o_c;
    int32_t multiplier, multiplier_o, shift_o; /* VIT_DYADIC, VIT_ADD_SEPARATE */
    const int32_t *multiplier_c, *multiplier_o_c, *shift_o_c;
    const void *other;      /* VIT_ADD, VIT_MUL: second operand; VIT_NORMALIZE: uint32 row sums */
    vit_type other_type;
    int32_t other_zp;
    int32_t other_ld;       /* elements from row to row of `other`; 0 repeats one row */
    int32_t other_inner, other_repeat; /* each run of `other_inner` rows of `other` meets
                                        * `other_repeat` runs of the result; 0: one */
    int32_t other_rows;     /* rows of `other` before it repeats; 0: as many as the result has */
    const void *table;      /* VIT_LUT, VIT_LUT16 */
    vit_type table_type;
    int32_t lut_min;
} vit_stage;

/* What happens to accumulators: `count` stages, then a store as `type` to y[row * ld + column],
 * unless y is NULL. Each of the branches goes on from there. */
typedef struct vit_epilogue {
    const vit_stage *stages;
    int32_t count;
    vit_type type;
    void *y;
    int32_t ld;
    int32_t branches;
    const struct vit_epilogue *branch;
} vit_epilogue;

int64_t vit_load_one(const void *x, vit_type type, size_t at);
void vit_store_one(int64_t value, void *y, vit_type type, size_t at);
void vit_load_s32(const void *x, vit_type type, size_t first, int32_t n, int32_t *y);
void vit_store_s32(const int32_t *x, int32_t n, void *y, vit_type type, size_t first);
void vit_epilogue_apply(const vit_epilogue *e, int32_t *tile, int32_t ld_tile, int32_t row0,
                        int32_t rows, int32_t col0, int32_t cols);
/* The same; no element of the tile is further than `bound` from 0. */
void vit_epilogue_apply_avx512vnni(const vit_epilogue *e, int64_t bound, int32_t *tile,
                                   int32_t ld_tile, int32_t row0, int32_t rows, int32_t col0,
                                   int32_t cols);
void vit_stage_apply(const vit_stage *s, int32_t *tile, int32_t ld_tile, int32_t row0,
                     int32_t rows, int32_t col0, int32_t cols);

/* ---- products ---------------------------------------------------------------------------- */

/* s16 operand of a product: value = code - offset, see vit_widen_s16(). */
int32_t vit_widen_offset(vit_type type, int32_t zp);
void vit_widen_s16(const void *x, vit_type type, size_t first, int32_t n, int32_t offset,
                   int16_t *y);

/* `rows` rows of k codes, `stride` elements apart, as rows of ld s16 values (0 beyond k). */
void vit_widen_rows(const void *x, vit_type type, size_t first, size_t stride, int32_t rows,
                    int32_t k, int32_t ld, int32_t offset, int16_t *y);

/* Most dimensions of a strided view. */
#define VIT_MAX_RANK 8

/* Columns of a product computed at a time. */
#define VIT_PANEL 32

typedef struct {
    int32_t m, n, k; /* tile rows, tile columns, reduction length */
    int32_t ld;      /* elements from row to row of both operands, k rounded up to 16 */
    int32_t ca, cb;  /* what is missing to the true operand values: offset - zero point */
} vit_gemm_shape;

void vit_gemm_s16(const vit_gemm_shape *g, const int16_t *a, const int16_t *b,
                  const int32_t *bias, int32_t *acc, int32_t ld_acc);

typedef struct {
    int32_t m, n, k;
    int32_t block; /* rows widened at a time */
    vit_type x_type, w_type;
    int32_t x_zp, w_zp;
    int32_t part, parts;
} vit_linear_shape;

void vit_linear_s16(const vit_linear_shape *p, const void *x, const void *w,
                    const int32_t *bias, const vit_epilogue *e, void *scratch);

/* ---- packed products: one interface, one source file per instruction level -------------------
 *
 * Weights are laid out for the level when a project is emitted, with zero points, bias and the
 * constants of the epilogue's rounding folded in where that is exact. `finish` names the stages
 * that this covers; the kernel reads the rest (tables, residuals) from the epilogue's stages. */
typedef enum {
    VIT_BY_STAGES, /* nothing is folded: accumulators with bias go through all stages */
    VIT_TO_S8,     /* VIT_REQUANT to all of s8 */
    VIT_TO_U8,     /* VIT_REQUANT to all of u8 */
    VIT_TO_TABLE,  /* VIT_REQUANT to all of 8 bits, VIT_LUT to 8 bits */
    VIT_TO_S16,    /* VIT_REQUANT to all of s16 */
    VIT_TO_SUM,    /* VIT_ADD of a s16 tensor on the grid of the s16 result */
    VIT_TO_WORDS   /* VIT_REQUANT, or VIT_ADD of a s16 tensor, in 32 bits, then stages in 16 bits;
                    * or a VIT_REQUANT at the start of each of two branches (AVX-512) */
} vit_finish;

/* Rows of accumulators handed to the stages at a time. */
#define VIT_TILE_ROWS 48

typedef struct {
    int32_t m, n, k;
    int32_t ld;       /* bytes from row to row of the u8 operand */
    int32_t step;     /* bytes that the operand moves on for every 64 columns: grouped products */
    int32_t row, col; /* place of the product's first element in the result */
    vit_finish finish;
} vit_packed_shape;

typedef struct {
    int32_t m, n, k;
    int32_t block;
    int32_t ld, step; /* grouped products of u8 codes: see vit_packed_shape; ld 0: k */
    vit_type x_type;  /* VIT_S8 or VIT_U8 */
    vit_finish finish;
    int32_t part, parts;
} vit_packed_linear_shape;

void vit_linear_u8_avxvnni(const vit_packed_linear_shape *p, const void *x, const void *w,
                           const vit_epilogue *e, void *scratch);
void vit_linear_u8_avx2(const vit_packed_linear_shape *p, const void *x, const void *w,
                        const vit_epilogue *e, void *scratch);
void vit_linear_u8_neon(const vit_packed_linear_shape *p, const void *x, const void *w,
                        const vit_epilogue *e, void *scratch);

typedef struct {
    int32_t batch, height, width, channels;
    int32_t out_height, out_width, out_channels;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int32_t planar;   /* 1: x is NCHW */
    int32_t padding;  /* unsigned code of zero */
    int32_t block;    /* output pixels at a time */
    int32_t patterns; /* depthwise: 64 outputs each, before the channels repeat */
    vit_type x_type;
    vit_finish finish;
    int32_t part, parts;
} vit_packed_conv_shape;

void vit_gemm_u8_avx512vnni(const vit_packed_shape *p, const uint8_t *x, const int8_t *w,
                            const vit_epilogue *e, int32_t *tile);
void vit_linear_u8_avx512vnni(const vit_packed_linear_shape *p, const void *x, const void *w,
                              const vit_epilogue *e, void *scratch);

void vit_dwconv2d_u8_avx512vnni(const vit_packed_conv_shape *p, const void *x, const void *w,
                                const vit_epilogue *e, void *scratch);
void vit_dwconv2d_u8_avxvnni(const vit_packed_conv_shape *p, const void *x, const void *w,
                             const vit_epilogue *e, void *scratch);
void vit_dwconv2d_u8_avx2(const vit_packed_conv_shape *p, const void *x, const void *w,
                          const vit_epilogue *e, void *scratch);
void vit_dwconv2d_u8_neon(const vit_packed_conv_shape *p, const void *x, const void *w,
                          const vit_epilogue *e, void *scratch);
void vit_conv2d_u8_avx512vnni(const vit_packed_conv_shape *p, const void *x, const void *w,
                              const vit_epilogue *e, void *scratch);
void vit_conv2d_u8_avxvnni(const vit_packed_conv_shape *p, const void *x, const void *w,
                           const vit_epilogue *e, void *scratch);
void vit_conv2d_u8_avx2(const vit_packed_conv_shape *p, const void *x, const void *w,
                        const vit_epilogue *e, void *scratch);
void vit_conv2d_u8_neon(const vit_packed_conv_shape *p, const void *x, const void *w,
                        const vit_epilogue *e, void *scratch);

typedef struct {
    int32_t batch, m, n, k;
    int32_t block;
    int32_t transpose_b; /* b is [n][k] instead of [k][n] */
    vit_type a_type, b_type;
    int32_t a_zp, b_zp;
    int32_t a_ld, b_ld;     /* elements from row to row */
    int32_t a_batch, b_batch; /* elements from matrix to matrix */
    int32_t part, parts;
} vit_matmul_shape;

void vit_matmul_s16(const vit_matmul_shape *p, const void *a, const void *b,
                    const vit_epilogue *e, void *scratch);

typedef struct {
    int32_t batch, height, width, channels; /* input, NHWC */
    int32_t out_height, out_width, out_channels;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int32_t groups;
    int32_t transposed; /* 1: transposed convolution */
    int32_t block;      /* output pixels gathered at a time */
    vit_type x_type, w_type;
    int32_t x_zp, w_zp;
    int32_t part, parts;
} vit_conv2d_shape;

void vit_conv2d_s16(const vit_conv2d_shape *p, const void *x, const void *w, const int32_t *bias,
                    const vit_epilogue *e, void *scratch);
void vit_dwconv2d_s8(const vit_conv2d_shape *p, const void *x, const int8_t *w,
                     const int32_t *bias, const vit_epilogue *e, void *scratch);

typedef struct {
    int32_t batch, m, n, k, d; /* heads, query rows, key rows, query columns, value columns */
    int32_t block;             /* query rows at a time */
    int32_t heads;             /* inner part of batch = outer * heads */
    /* Elements from row to row, head to head and outer to outer; rows of q, value and y are dense,
     * of key either key_row (from n to n) or key_step (from k to k) is 1. */
    int32_t q_ld, q_head, q_outer;
    int32_t key_row, key_step, key_head, key_outer;
    int32_t value_ld, value_head, value_outer;
    int32_t y_head, y_outer; /* the row distance of y is that of the epilogue */
    vit_type q_type, key_type, value_type;
    int32_t q_zp, key_zp, value_zp;
    int32_t frac; /* of the scores that enter the exponentials */
    /* Where tokens are, in rows: [batch / heads][m] for q, key, value and y alike, whose `outer`
     * distances are 0; m = n, key_step 1. NULL: one after the other (AVX-512 alone has others). */
    const int32_t *rows;
    int32_t part, parts;
} vit_attention_shape;

void vit_attention_u8(const vit_attention_shape *p, const void *q, const void *key,
                      const void *value, const uint8_t *table, const vit_epilogue *scores,
                      const vit_epilogue *e, void *scratch);
void vit_attention_u8_avx512vnni(const vit_attention_shape *p, const void *q, const void *key,
                                 const void *value, const uint8_t *table,
                                 const vit_epilogue *scores, const vit_epilogue *e, void *scratch);
void vit_attention_u8_avxvnni(const vit_attention_shape *p, const void *q, const void *key,
                              const void *value, const uint8_t *table, const vit_epilogue *scores,
                              const vit_epilogue *e, void *scratch);
void vit_attention_u8_avx2(const vit_attention_shape *p, const void *q, const void *key,
                           const void *value, const uint8_t *table, const vit_epilogue *scores,
                           const vit_epilogue *e, void *scratch);
void vit_attention_u8_neon(const vit_attention_shape *p, const void *q, const void *key,
                           const void *value, const uint8_t *table, const vit_epilogue *scores,
                           const vit_epilogue *e, void *scratch);

/* ---- elementwise --------------------------------------------------------------------------- */

typedef struct {
    int32_t rows, cols;
    vit_type x_type;
    int32_t part, parts;
} vit_map_shape;

void vit_map(const vit_map_shape *p, const void *x, const vit_epilogue *e);
void vit_map_avx512vnni(const vit_map_shape *p, const void *x, const vit_epilogue *e);

/* Broadcast view of an elementwise operation with two operands. */
typedef struct {
    int32_t rank;
    int32_t dims[VIT_MAX_RANK];
    int32_t a_strides[VIT_MAX_RANK], b_strides[VIT_MAX_RANK]; /* elements, 0 repeats */
    int32_t c_strides[VIT_MAX_RANK]; /* index into per-channel parameters */
    vit_type a_type, b_type;
} vit_binary_shape;

void vit_binary(const vit_binary_shape *p, const void *a, const void *b, const vit_stage *stage,
                void *y, vit_type y_type);

typedef struct {
    int32_t outer, channels, inner;
    vit_type x_type, y_type;
    vit_rounding rounding;
    int64_t lo, hi;
    int32_t zp_in, zp;
    int32_t shift, multiplier;
    const int32_t *shift_c, *multiplier_c; /* one per channel, or NULL */
} vit_requant_shape;

void vit_requant_s64(const vit_requant_shape *p, const void *x, void *y);

/* ShiftGELU; `step`, `n` and `numerator` as in vit_shiftmax_shape, frac of the standard form. */
typedef struct {
    int32_t rows, cols;
    vit_type x_type, y_type;
    int32_t x_zp;
    int32_t frac;
    int64_t step;
    int32_t n;
    int64_t numerator;
} vit_shift_gelu_shape;

void vit_shift_gelu(const vit_shift_gelu_shape *p, const void *x, void *y);
void vit_shift_gelu_ivit(const vit_shift_gelu_shape *p, const void *x, void *y, void *scratch);

/* ---- rows ---------------------------------------------------------------------------------- */

void vit_softmax_exp_u8(const void *x, vit_type x_type, int32_t rows, int32_t cols, int32_t frac,
                        const uint8_t *table, uint8_t *p, uint32_t *sum, void *scratch);

typedef struct {
    int32_t rows, cols;
    vit_type x_type, y_type;
    int64_t step;      /* I0: steps of the input per unit */
    int32_t n;         /* octaves */
    int32_t bits;      /* of the result */
    int64_t numerator; /* 2^31-1, or 2^31 as published */
    vit_rounding rounding;
} vit_shiftmax_shape;

void vit_shiftmax(const vit_shiftmax_shape *p, const void *x, void *y, void *scratch);
void vit_log2_softmax_u8(const vit_shiftmax_shape *p, const void *x, uint8_t *y, void *scratch);

typedef struct {
    int32_t rows, cols;
    vit_type x_type, gamma_type, y_type;
    int32_t x_zp, zp, lo, hi;
    vit_rounding rounding;
    uint64_t eps;           /* eps_q, on the grid of V */
    const int32_t *align;   /* left shift of every input channel, or NULL */
    int32_t shift;          /* 10 + e_gamma - e_out */
    const int32_t *shift_c; /* the same per channel, or NULL */
    int32_t part, parts;
} vit_layernorm_shape;

/* beta is aligned: codes of frac 10 + e_gamma. */
void vit_layernorm(const vit_layernorm_shape *p, const void *x, const void *gamma,
                   const int64_t *beta, void *y, void *scratch);
/* s16 codes without zero point; gamma and beta are s32, what rounding and zero point add is part of
 * beta, shift_c is not NULL. */
void vit_layernorm_s16(const vit_layernorm_shape *p, const void *x, const int32_t *gamma,
                       const int32_t *beta, void *y);
void vit_layernorm_s16_avx512vnni(const vit_layernorm_shape *p, const void *x,
                                  const int32_t *gamma, const int32_t *beta, void *y);
/* I-ViT's form: y = normalised value in Q.30 + bias; gamma is in the scale of the result. */
void vit_layernorm_ivit(const vit_layernorm_shape *p, const void *x, const int64_t *bias, void *y,
                        void *scratch);

typedef struct {
    int32_t batch, tokens, key_tokens, dim, value_dim;
    int32_t y_ld, y_head; /* elements from token to token and from head to head */
    vit_type y_type;
    int32_t zp, lo, hi;
    vit_rounding rounding;
    int32_t kv_shift, ksum_shift;
    int32_t shift; /* ksum_shift - kv_shift + e_v - e_out */
    int32_t pot;   /* 1: divisor rounded to a power of two */
    int32_t part, parts;
} vit_linear_attn_shape;

/* An operand: dense rows, one a token, whose elements go through stages without other operands. */
typedef struct {
    const void *x;
    vit_type type;
    int32_t ld, head; /* elements from token to token and from head to head */
    int32_t count;
    const vit_stage *stages;
} vit_tokens;

void vit_linear_attn(const vit_linear_attn_shape *p, const vit_tokens *q, const vit_tokens *k,
                     const vit_tokens *v, void *y, void *scratch);
void vit_linear_attn_avx512vnni(const vit_linear_attn_shape *p, const vit_tokens *q,
                                const vit_tokens *k, const vit_tokens *v, void *y, void *scratch);

/* ---- windows ------------------------------------------------------------------------------- */

typedef struct {
    int32_t rank;                     /* kept dimensions, then `reduced` dimensions */
    int32_t reduced;
    int32_t dims[VIT_MAX_RANK];
    int32_t x_strides[VIT_MAX_RANK];  /* elements */
    vit_type x_type, y_type;
    int32_t x_zp, zp, lo, hi;
    int32_t shift; /* e_out - e_in */
    int32_t part, parts;
} vit_mean_shape;

void vit_mean(const vit_mean_shape *p, const void *x, void *y);

typedef struct {
    int32_t batch, height, width, channels;
    int32_t out_height, out_width;
    int32_t kernel_h, kernel_w, stride_h, stride_w;
    int32_t pad_top, pad_left, pad_bottom, pad_right;
    int32_t count_pad; /* average: padding counts as elements */
    vit_type x_type, y_type;
    int32_t x_zp, zp, lo, hi;
    int32_t shift; /* e_out - e_in */
} vit_pool2d_shape;

void vit_avg_pool2d(const vit_pool2d_shape *p, const void *x, void *y);
void vit_max_pool2d(const vit_pool2d_shape *p, const void *x, void *y);

typedef struct {
    int32_t batch, height, width, channels;
    int32_t out_height, out_width;
    const int32_t *rows;    /* [3][out_height]: two source rows and the weight of the second */
    const int32_t *columns; /* [3][out_width]; weights in 1/256 */
    vit_type x_type, y_type;
    vit_rounding rounding;
    int32_t x_zp, zp, lo, hi;
    int32_t shift; /* 16 + e_in - e_out */
} vit_resize_shape;

void vit_resize_linear(const vit_resize_shape *p, const void *x, void *y);

/* ---- weights ------------------------------------------------------------------------------- */

typedef struct {
    int32_t panels;
    int32_t head;       /* bytes of a panel that are copied as they are */
    int32_t codes;      /* of a panel; 8 for each column make a chunk, the last one may have fewer */
    int32_t columns;    /* of a panel, at most 64 */
    int32_t unit;       /* neighbouring codes of one column */
    int32_t size;       /* bytes of an expanded code: 1, 2 */
    int32_t shift;      /* of all narrow codes, to the left */
    int32_t shift_bits; /* of a column's own shift in a chunk: 0, 2 */
    int32_t part, parts;
} vit_expand_shape;

void vit_expand_s4(const vit_expand_shape *p, const void *packed, void *out);

/* ---- data movement ------------------------------------------------------------------------- */

typedef struct {
    int32_t rank;
    int32_t size; /* bytes of an element: 1, 2, 4, 8 */
    int32_t dims[VIT_MAX_RANK];
    int32_t x_strides[VIT_MAX_RANK], y_strides[VIT_MAX_RANK]; /* elements, may be negative */
    int32_t part, parts;
} vit_copy_shape;

void vit_copy(const vit_copy_shape *p, const void *x, void *y);
void vit_fill(int32_t value, vit_type type, int32_t n, void *y);

/* y[outer][count][inner] = x[outer][indices[count]][inner], `inner` in bytes. */
typedef struct {
    int32_t outer, length, count, inner;
} vit_gather_shape;

void vit_gather(const vit_gather_shape *p, const int32_t *indices, const void *x, void *y);

#endif
