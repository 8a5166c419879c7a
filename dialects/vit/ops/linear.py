"""Products on the MAC array: int8 activations, int8 or int4 weights, int32 accumulators.

The result of each is the exact accumulator, whose scale is the product of the operands' scales; a
requantisation, a residual sum or a normalisation consumes it. Zero points belong to the
definition: acc = sum (x - z_x) * (w - z_w) + bias. Weights are output channel first.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    I64,
    IntegerAttr,
    StringAttr,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.vit.attributes import FixedType, Log2Type, QuantizedType, ScaledType
from vit_opt.dialects.vit.ops.base import (
    FACTORS,
    FUNCTIONAL,
    RHU,
    I64Array,
    Shape,
    VitOp,
    check_power_ratio,
    format_of,
    i64_array,
    integers,
    is_fixed,
    product_format,
    require_per_tensor,
    require_storage,
    require_symmetric,
    shape_of,
    storage_of,
    tensor_type,
)


def with_channel_axis(format_: QuantizedType, axis: int) -> QuantizedType:
    """A format whose channel axis, if it has one, is `axis`."""
    return format_.with_axis(axis) if format_.is_per_channel else format_


def check_weight(w: SSAValue) -> None:
    """Weights are stored in 4 or 8 signed bits; scales may vary along the output channels."""
    format_ = format_of(w)
    require_storage(format_, "weight", "i4", "i8", "i16")
    if format_.channel_axis not in (None, 0):
        raise VerifyException(f"weight has channel axis {format_.channel_axis}, expected 0")


def check_bias(bias: SSAValue | None, channels: int, accumulator: QuantizedType) -> None:
    """A bias is an int32 vector on the accumulator's grid."""
    if bias is None:
        return
    if shape_of(bias) != (channels,):
        raise VerifyException(f"bias has shape {list(shape_of(bias))}, expected [{channels}]")
    expected = with_channel_axis(accumulator, 0)
    if format_of(bias) != expected:
        raise VerifyException(f"bias has format {format_of(bias)}, the accumulator {expected}")


@irdl_op_definition
class LinearOp(VitOp):
    """acc[..., n] = sum_k (x[..., k] - z) * w[n, k] + bias[n]; x [..., K], w [N, K], bias [N] i32."""

    name = "vit.linear"
    x = operand_def(TensorType)
    weight = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$x `,` $weight (`,` $bias^)? {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        x, w = shape_of(self.x), shape_of(self.weight)
        if len(w) != 2 or not x or x[-1] != w[1]:
            raise VerifyException(
                f"x has shape {list(x)} and weight {list(w)}; expected [..., K] and [N, K]"
            )
        return [(*x[:-1], w[0])]

    def derived_formats(self) -> Sequence[Attribute | None]:
        x, w = format_of(self.x), format_of(self.weight)
        axis = len(shape_of(self.x)) - 1 if w.is_per_channel else None
        return [product_format(x, w, axis)]

    def verify_formats(self) -> None:
        require_storage(format_of(self.x), "x", *FACTORS)
        require_per_tensor(format_of(self.x), "x")
        check_weight(self.weight)
        accumulator = self.derived_formats()[0]
        assert isinstance(accumulator, QuantizedType)
        check_bias(self.bias, shape_of(self.weight)[0], accumulator)


@irdl_op_definition
class MatmulOp(VitOp):
    """acc = (a - z_a) @ (b - z_b) over equal leading dimensions.

    a [..., M, K]; b [..., K, N], or [..., N, K] with `transpose_b`. The scale of b may vary along N.
    """

    name = "vit.matmul"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    transpose_b = opt_prop_def(UnitAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$a `,` $b {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        a, b = shape_of(self.a), shape_of(self.b)
        if len(a) < 2 or len(a) != len(b) or a[:-2] != b[:-2]:
            raise VerifyException(f"a {list(a)} and b {list(b)} differ in their leading dimensions")
        k, n = (b[-1], b[-2]) if self.transpose_b is not None else (b[-2], b[-1])
        if a[-1] != k:
            raise VerifyException(f"a has {a[-1]} columns to reduce, b {k}")
        return [(*a[:-1], n)]

    def derived_formats(self) -> Sequence[Attribute | None]:
        a, b = format_of(self.a), format_of(self.b)
        axis = len(shape_of(self.a)) - 1 if b.is_per_channel else None
        return [product_format(a, b, axis)]

    def verify_formats(self) -> None:
        b, rank = format_of(self.b), len(shape_of(self.b))
        require_storage(format_of(self.a), "a", *FACTORS)
        require_storage(b, "b", *FACTORS)
        require_per_tensor(format_of(self.a), "a")
        if b.is_per_channel and b.channel_axis != (
            rank - 2 if self.transpose_b is not None else rank - 1
        ):
            require_per_tensor(b, "b")


def window_shape(
    size: tuple[int, int], kernel: tuple[int, int], strides: Shape, pads: Shape, dilations: Shape
) -> tuple[int, int]:
    """Output height and width of a sliding window; raises VerifyException where it does not fit."""
    spans = [dilations[i] * (kernel[i] - 1) + 1 for i in range(2)]
    padded = (size[0] + pads[0] + pads[2], size[1] + pads[1] + pads[3])
    if padded[0] < spans[0] or padded[1] < spans[1]:
        raise VerifyException(f"window {spans} is larger than the padded input {list(padded)}")
    height, width = ((padded[i] - spans[i]) // strides[i] + 1 for i in range(2))
    return height, width


def check_window(strides: Shape, pads: Shape, dilations: Shape = (1, 1)) -> None:
    """Strides and dilations are positive pairs, pads four non-negative sizes (t, l, b, r)."""
    for name, values, count, least in (
        ("strides", strides, 2, 1),
        ("pads", pads, 4, 0),
        ("dilations", dilations, 2, 1),
    ):
        if len(values) != count or any(v < least for v in values):
            raise VerifyException(
                f"{name} {list(values)}: expected {count} values, each >= {least}"
            )


def check_image(x: SSAValue) -> Shape:
    """An image is [batch, height, width, channels]."""
    shape = shape_of(x)
    if len(shape) != 4:
        raise VerifyException(f"x has shape {list(shape)}, expected [N, H, W, C]")
    return shape


def check_kernel(weight: SSAValue) -> tuple[int, int, int, int]:
    """The shape [O, KH, KW, C / groups] of a convolution's weight."""
    shape = shape_of(weight)
    if len(shape) != 4:
        raise VerifyException(f"weight has shape {list(shape)}, expected [O, KH, KW, C / groups]")
    return shape[0], shape[1], shape[2], shape[3]


class ConvBase(VitOp):
    """Operands and fields that both convolutions have."""

    x = operand_def(TensorType)
    weight = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    strides = prop_def(I64Array)
    pads = prop_def(I64Array)
    groups = prop_def(IntegerAttr[I64], default_value=IntegerAttr(1, i64))
    result = result_def(TensorType)

    def channels(self) -> tuple[int, int, int]:
        """Input channels, output channels and groups, checked against each other."""
        groups = self.groups.value.data
        cin, (cout, _, _, per_group) = check_image(self.x)[3], check_kernel(self.weight)
        if groups < 1 or cin % groups or cout % groups or cin // groups != per_group:
            raise VerifyException(
                f"groups {groups} with {cin} input and {cout} output channels does not fit a weight "
                f"of shape {list(shape_of(self.weight))} ([O, KH, KW, C / groups])"
            )
        return cin, cout, groups

    def derived_formats(self) -> Sequence[Attribute | None]:
        x, w = format_of(self.x), format_of(self.weight)
        cin, cout, _ = self.channels()
        axis = 3 if x.is_per_channel or w.is_per_channel else None
        return [product_format(x, w, axis, cout // cin if x.is_per_channel else 1)]

    def verify_formats(self) -> None:
        x = format_of(self.x)
        require_storage(x, "x", *FACTORS)
        cin, cout, groups = self.channels()
        if not (x.channel_axis == 3 and groups == cin):
            require_per_tensor(x, "x")
        check_weight(self.weight)
        accumulator = self.derived_formats()[0]
        assert isinstance(accumulator, QuantizedType)
        check_bias(self.bias, cout, accumulator)


@irdl_op_definition
class Conv2dOp(ConvBase):
    """Convolution over x [N, H, W, C] with weight [O, KH, KW, C / groups]; pads (t, l, b, r).

    Padding inserts the zero point, that is real zero. In a depthwise convolution the scale of x
    may vary per channel.
    """

    name = "vit.conv2d"
    dilations = prop_def(I64Array, default_value=i64_array([1, 1]))
    traits = traits_def(Pure())
    assembly_format = f"$x `,` $weight (`,` $bias^)? {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        n, h, w, _ = check_image(self.x)
        cout, kh, kw, _ = check_kernel(self.weight)
        strides, pads, dilations = map(integers, (self.strides, self.pads, self.dilations))
        check_window(strides, pads, dilations)
        self.channels()
        return [(n, *window_shape((h, w), (kh, kw), strides, pads, dilations), cout)]


@irdl_op_definition
class ConvTranspose2dOp(ConvBase):
    """Transposed convolution: x [N, H, W, C], weight [O, KH, KW, C / groups], exact sum."""

    name = "vit.conv_transpose2d"
    output_padding = prop_def(I64Array, default_value=i64_array([0, 0]))
    traits = traits_def(Pure())
    assembly_format = f"$x `,` $weight (`,` $bias^)? {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        n, h, w, _ = check_image(self.x)
        cout, kh, kw, _ = check_kernel(self.weight)
        strides, pads, extra = map(integers, (self.strides, self.pads, self.output_padding))
        check_window(strides, pads)
        if len(extra) != 2 or any(not 0 <= extra[i] < strides[i] for i in range(2)):
            raise VerifyException(
                f"output_padding {list(extra)}: expected two sizes smaller than strides "
                f"{list(strides)}"
            )
        self.channels()
        height = (h - 1) * strides[0] + kh + extra[0] - pads[0] - pads[2]
        width = (w - 1) * strides[1] + kw + extra[1] - pads[1] - pads[3]
        if height < 1 or width < 1:
            raise VerifyException(f"pads {list(pads)} leave nothing of the result")
        return [(n, height, width, cout)]


@irdl_op_definition
class Log2MatmulOp(VitOp):
    """acc = sum_l v[l] << (14 - code[l]), code 15 contributing nothing: frac e_v + 14.

    codes [..., M, L] of `!vit.log2`, v [..., L, N] (FQ-ViT, attention with log2 probabilities).
    """

    name = "vit.log2_matmul"
    codes = operand_def(TensorType[Log2Type])
    v = operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$codes `,` $v {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        codes, v = shape_of(self.codes), shape_of(self.v)
        if len(codes) < 2 or len(codes) != len(v) or codes[:-2] != v[:-2] or codes[-1] != v[-2]:
            raise VerifyException(f"codes {list(codes)} and v {list(v)} do not multiply")
        return [(*codes[:-1], v[-1])]

    def derived_formats(self) -> Sequence[Attribute | None]:
        v, axis = format_of(self.v), len(shape_of(self.v)) - 1
        unit = FixedType("i32", 14) if is_fixed(v) else ScaledType("i32", 2.0**-14)
        return [product_format(unit, v, axis if v.is_per_channel else None)]

    def verify_formats(self) -> None:
        v = format_of(self.v)
        require_storage(v, "v", "i8")
        if v.is_per_channel and v.channel_axis != len(shape_of(self.v)) - 1:
            require_per_tensor(v, "v")


@irdl_op_definition
class LinearAttnOp(VitOp):
    """ReLU linear attention of EfficientViT on integers (Trio-ViT).

        KV = sat8(round(K^T V, kv_shift)), Ks = satu8(round(sum_n K, ksum_shift))
        y = (Q KV) / (Q Ks), zero where the divisor is; shifted by ksum_shift - kv_shift + e_v - e_y

    q, k [..., N, d] with codes 0..127 (after ReLU, zero point 0), v [..., N, d]. `divisor` is
    "recip" (one reciprocal per token) or "pot" (the divisor rounded to a power of two). The scales
    of q and k cancel.
    """

    name = "vit.linear_attn"
    q = operand_def(TensorType)
    k = operand_def(TensorType)
    v = operand_def(TensorType)
    kv_shift = prop_def(IntegerAttr[I64])
    ksum_shift = prop_def(IntegerAttr[I64])
    divisor = prop_def(StringAttr, default_value=StringAttr("recip"))
    rounding = prop_def(StringAttr, default_value=RHU)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    assembly_format = f"$q `,` $k `,` $v {FUNCTIONAL}"

    def result_shapes(self) -> Sequence[Shape]:
        q, k, v = shape_of(self.q), shape_of(self.k), shape_of(self.v)
        if len(q) < 2 or q[:-2] != k[:-2] or k[:-1] != v[:-1] or q[-1] != k[-1]:
            raise VerifyException(
                f"q {list(q)}, k {list(k)}, v {list(v)}; expected [..., N, d] thrice"
            )
        return [(*q[:-1], v[-1])]

    def verify_formats(self) -> None:
        for what, value in (("q", self.q), ("k", self.k), ("v", self.v)):
            format_ = format_of(value)
            require_storage(format_, what, "i8", "ui8")
            require_per_tensor(format_, what)
            require_symmetric(format_, what)
        if self.divisor.data not in ("recip", "pot"):
            raise VerifyException(f"divisor '{self.divisor.data}' is not recip or pot")
        require_per_tensor(format_of(self.result), "result")
        check_power_ratio(format_of(self.v), format_of(self.result))


__all__ = [
    "Conv2dOp",
    "ConvTranspose2dOp",
    "LinearAttnOp",
    "LinearOp",
    "Log2MatmulOp",
    "MatmulOp",
    "check_image",
    "check_window",
    "storage_of",
    "tensor_type",
    "window_shape",
]
