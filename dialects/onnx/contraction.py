"""Matrix products and convolutions (NCHW images, OIHW weights, as in ONNX)."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import StringAttr
from xdsl.irdl import (
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    var_operand_def,
)

from vit_opt.dialects.onnx.base import (
    TENSOR,
    IntsAttribute,
    OnnxOp,
    broadcast,
    dims,
    int_prop,
    integer,
    integers,
    ints_prop,
    real_prop,
    require,
    shape_of,
)


def expect_shape(got: Sequence[int], expected: Sequence[int]) -> None:
    """Require that a result has the shape that the operands give."""
    require(
        tuple(got) == tuple(expected),
        f"result shape {dims(got)} differs from {dims(expected)}, which the operands give",
    )


def expect_bias(bias: Sequence[int], channels: int) -> None:
    """Require a bias with one element per output channel."""
    require(
        tuple(bias) == (channels,),
        f"bias has shape {dims(bias)}, but there are {channels} output channels",
    )


@irdl_op_definition
class MatMul(OnnxOp):
    """numpy.matmul: a[..., M, K] @ b[..., K, N], leading dimensions broadcast."""

    name = "onnx.MatMul"
    a = operand_def(TENSOR)
    b = operand_def(TENSOR)
    y = result_def(TENSOR)

    def verify_(self) -> None:
        a, b = shape_of(self.a), shape_of(self.b)
        require(bool(a and b), f"operands of shapes {dims(a)} and {dims(b)} have no columns")
        inner_b = b[-2:][0]
        require(
            a[-1] == inner_b, f"inner dimensions differ: a has K = {a[-1]}, b has K = {inner_b}"
        )
        batch = broadcast([a[:-2], b[:-2]])
        expect_shape(shape_of(self.y), batch + a[-2:-1] + (b[-1:] if len(b) > 1 else ()))


@irdl_op_definition
class Gemm(OnnxOp):
    """alpha * a' @ b' + beta * c with optional transposition of a and b; c broadcasts."""

    name = "onnx.Gemm"
    a = operand_def(TENSOR)
    b = operand_def(TENSOR)
    c = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    alpha = real_prop(1.0)
    beta = real_prop(1.0)
    trans_a = int_prop(0)
    trans_b = int_prop(0)

    def verify_(self) -> None:
        a, b = shape_of(self.a), shape_of(self.b)
        require(len(a) == len(b) == 2, f"operands of shapes {dims(a)} and {dims(b)} are not 2-D")
        a = a[::-1] if integer(self.trans_a) else a
        b = b[::-1] if integer(self.trans_b) else b
        require(a[1] == b[0], f"inner dimensions differ: a has K = {a[1]}, b has K = {b[0]}")
        if self.c is not None:
            got = broadcast([shape_of(self.c), (a[0], b[1])])
            require(got == (a[0], b[1]), f"c of shape {dims(shape_of(self.c))} does not broadcast")
        expect_shape(shape_of(self.y), (a[0], b[1]))


@irdl_op_definition
class Linear(OnnxOp):
    """Raised: y[..., n] = sum_k x[..., k] * w[n, k] + bias[n], with constant weights w[N, K].

    Stands for MatMul or Gemm with a constant, and the Add of its bias.
    """

    name = "onnx.Linear"
    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    bias = opt_operand_def(TENSOR)
    y = result_def(TENSOR)

    def verify_(self) -> None:
        x, w = shape_of(self.x), shape_of(self.w)
        require(len(w) == 2 and len(x) > 0, f"w has shape {dims(w)}, expected [N, K]")
        inner = x[-1:]
        require(
            inner == w[1:],
            f"inner dimensions differ: x has K = {dims(inner)}, w has K = {dims(w[1:])}",
        )
        if self.bias is not None:
            expect_bias(shape_of(self.bias), w[0])
        expect_shape(shape_of(self.y), (*x[:-1], w[0]))


@irdl_op_definition
class LinearAttention(OnnxOp):
    """Raised: ReLU linear attention (EfficientViT), q, k[..., N, D] and v[..., N, E].

    With q' = relu(q), k' = relu(k):
    y = (q' @ (k'^T @ v)) / (q' @ sum_n k'[n] + eps).
    """

    name = "onnx.LinearAttention"
    q = operand_def(TENSOR)
    k = operand_def(TENSOR)
    v = operand_def(TENSOR)
    y = result_def(TENSOR)
    eps = real_prop(1e-15)

    def verify_(self) -> None:
        q, k, v = (shape_of(value) for value in (self.q, self.k, self.v))
        require(len(q) >= 2, f"q has shape {dims(q)}, expected [..., N, D]")
        require(
            q[:-2] == k[:-2] == v[:-2] and q[-1] == k[-1] and k[-2] == v[-2],
            f"shapes of q {dims(q)}, k {dims(k)} and v {dims(v)} do not fit together",
        )
        expect_shape(shape_of(self.y), (*q[:-1], v[-1]))


@irdl_op_definition
class Einsum(OnnxOp):
    """numpy.einsum with an explicit or implicit equation."""

    name = "onnx.Einsum"
    inputs = var_operand_def(TENSOR)
    y = result_def(TENSOR)
    equation = prop_def(StringAttr)

    def verify_(self) -> None:
        terms = self.equation.data.split("->")[0].split(",")
        require(
            len(terms) == len(self.inputs),
            f"equation {self.equation.data} names {len(terms)} operands, got {len(self.inputs)}",
        )


def window_output(size: int, kernel: int, stride: int, pads: int, dilation: int) -> int:
    """Output size of a strided window along one dimension (floor, as ONNX without ceil_mode)."""
    return (size + pads - dilation * (kernel - 1) - 1) // stride + 1


def expect_window(
    strides: IntsAttribute, pads: IntsAttribute, dilations: IntsAttribute
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Check a 2-D window: strides [h, w], pads [top, left, bottom, right], dilations [h, w]."""
    values = integers(strides), integers(pads), integers(dilations)
    require(len(values[0]) == 2 and min(values[0]) > 0, f"strides {dims(values[0])}: want 2 > 0")
    require(len(values[1]) == 4 and min(values[1]) >= 0, f"pads {dims(values[1])}: want 4 >= 0")
    require(
        len(values[2]) == 2 and min(values[2]) > 0, f"dilations {dims(values[2])} are not 2 > 0"
    )
    return values


@irdl_op_definition
class Conv(OnnxOp):
    """2-D convolution: x[N, C, H, W], w[O, C / group, kh, kw], bias[O]."""

    name = "onnx.Conv"
    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    bias = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    strides = ints_prop(1, 1)
    pads = ints_prop(0, 0, 0, 0)
    dilations = ints_prop(1, 1)
    group = int_prop(1)

    def verify_(self) -> None:
        x, w, group = shape_of(self.x), shape_of(self.w), integer(self.group)
        require(len(x) == len(w) == 4, f"x has shape {dims(x)}, w {dims(w)}; both must be 4-D")
        strides, pads, dilations = expect_window(self.strides, self.pads, self.dilations)
        require(
            group > 0 and x[1] == w[1] * group,
            f"x has {x[1]} channels, w of shape {dims(w)} with group {group} takes {w[1] * group}",
        )
        require(w[0] % group == 0, f"{w[0]} output channels do not divide into {group} groups")
        if self.bias is not None:
            expect_bias(shape_of(self.bias), w[0])
        spatial = [
            window_output(x[2 + d], w[2 + d], strides[d], pads[d] + pads[2 + d], dilations[d])
            for d in range(2)
        ]
        expect_shape(shape_of(self.y), (x[0], w[0], *spatial))


@irdl_op_definition
class ConvTranspose(OnnxOp):
    """2-D transposed convolution: x[N, C, H, W], w[C, O / group, kh, kw], bias[O]."""

    name = "onnx.ConvTranspose"
    x = operand_def(TENSOR)
    w = operand_def(TENSOR)
    bias = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    strides = ints_prop(1, 1)
    pads = ints_prop(0, 0, 0, 0)
    dilations = ints_prop(1, 1)
    output_padding = ints_prop(0, 0)
    group = int_prop(1)

    def verify_(self) -> None:
        x, w, group = shape_of(self.x), shape_of(self.w), integer(self.group)
        require(len(x) == len(w) == 4, f"x has shape {dims(x)}, w {dims(w)}; both must be 4-D")
        strides, pads, dilations = expect_window(self.strides, self.pads, self.dilations)
        extra = integers(self.output_padding)
        require(x[1] == w[0], f"x has {x[1]} channels, w of shape {dims(w)} takes {w[0]}")
        require(
            group > 0 and w[0] % group == 0,
            f"{w[0]} input channels do not divide into {group} groups",
        )
        if self.bias is not None:
            expect_bias(shape_of(self.bias), w[1] * group)
        spatial = [
            strides[d] * (x[2 + d] - 1)
            + extra[d]
            + (w[2 + d] - 1) * dilations[d]
            + 1
            - pads[d]
            - pads[2 + d]
            for d in range(2)
        ]
        expect_shape(shape_of(self.y), (x[0], w[1] * group, *spatial))
