/* kernel: addition and product of two tensors with broadcasting
 * layout: y dense [dims]; a, b and the per-channel parameters are read with strides, 0 repeating
 * in:     codes up to 32 bits, parameters as in vit_stage; its `other*` fields are not used, its
 *         zero point of b is other_zp
 * out:    y_type
 * method: the innermost dimension is gathered into blocks and goes through the stage
 * scratch: none
 */
#include "vit_arith.h"

#define VIT_BLOCK 256

static void load_strided(const void *x, vit_type type, size_t first, int32_t stride, int32_t n,
                         int32_t *y)
{
    if (stride == 1) {
        vit_load_s32(x, type, first, n, y);
        return;
    }
    for (int32_t i = 0; i < n; ++i) {
        y[i] = (int32_t)vit_load_one(x, type, first + (size_t)i * (size_t)stride);
    }
}

static const int32_t *from(const int32_t *per_channel, size_t channel)
{
    return per_channel == NULL ? NULL : per_channel + channel;
}

/* The stage for elements whose per-channel parameters begin at `channel`; with `one` set, that
 * channel's parameters serve them all. */
static vit_stage stage_at(const vit_stage *s, size_t channel, int one, const int32_t *other)
{
    vit_stage t = *s;
    t.other = other;
    t.other_type = VIT_S32;
    t.other_ld = 0;
    t.other_rows = 0;
    const int32_t **arrays[] = {&t.shift_c,      &t.left_v_c,       &t.left_o_c,
                                &t.multiplier_c, &t.multiplier_o_c, &t.shift_o_c};
    int32_t *scalars[] = {&t.shift,      &t.left_v,       &t.left_o,
                          &t.multiplier, &t.multiplier_o, &t.shift_o};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; ++i) {
        *arrays[i] = from(*arrays[i], channel);
        if (one != 0 && *arrays[i] != NULL) {
            *scalars[i] = **arrays[i];
            *arrays[i] = NULL;
        }
    }
    return t;
}

static void inner_row(const vit_binary_shape *p, const void *a, const void *b,
                      const vit_stage *stage, size_t a0, size_t b0, size_t c0, void *y,
                      vit_type y_type, size_t y0)
{
    int32_t tile[VIT_BLOCK], other[VIT_BLOCK];
    const int32_t last = p->rank - 1;
    const int32_t a_stride = p->a_strides[last], b_stride = p->b_strides[last];
    const int32_t c_stride = p->c_strides[last];
    for (int32_t i = 0; i < p->dims[last]; i += VIT_BLOCK) {
        const int32_t n = vit_min32(VIT_BLOCK, p->dims[last] - i);
        const size_t at = (size_t)i;
        load_strided(a, p->a_type, a0 + at * (size_t)a_stride, a_stride, n, tile);
        load_strided(b, p->b_type, b0 + at * (size_t)b_stride, b_stride, n, other);
        const vit_stage s =
            stage_at(stage, c0 + at * (size_t)c_stride, c_stride == 0, other);
        vit_stage_apply(&s, tile, VIT_BLOCK, 0, 1, 0, n);
        vit_store_s32(tile, n, y, y_type, y0 + at);
    }
}

void vit_binary(const vit_binary_shape *p, const void *a, const void *b, const vit_stage *stage,
                void *y, vit_type y_type)
{
    const int32_t last = p->rank - 1;
    int32_t index[VIT_MAX_RANK] = {0};
    size_t y0 = 0;
    for (int32_t d = 0; d >= 0; y0 += (size_t)p->dims[last]) {
        size_t a0 = 0, b0 = 0, c0 = 0;
        for (int32_t i = 0; i < last; ++i) {
            a0 += (size_t)index[i] * (size_t)p->a_strides[i];
            b0 += (size_t)index[i] * (size_t)p->b_strides[i];
            c0 += (size_t)index[i] * (size_t)p->c_strides[i];
        }
        inner_row(p, a, b, stage, a0, b0, c0, y, y_type, y0);
        d = vit_next_index(p->dims, last, index);
    }
}
