"""What each operation of the `vit` dialect is in float ONNX, on the real values of its operands.

A product of dequantised integers is the accumulator, a requantisation is a QDQ pair and nothing
else, the two halves of a deferred softmax are one Softmax, a table is the function it tabulates.
What only exists in integers (base-2 logarithmic softmax, the published I-ViT forms, tables of no
known function) has no such form and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.ir import Operation, SSAValue

from vit_opt.backends.onnx_qdq.graph import TO_NCHW, TO_NHWC, OnnxGraph
from vit_opt.dialects.assets import AssetStore, attribute_array
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType
from vit_opt.dialects.vit.functions import function_parts
from vit_opt.dialects.vit.ops.base import VitOp, format_of, integers, label_of, shape_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Rule: TypeAlias = Callable[["Writer", Any], None]

TINY = 1e-15
"""Added to the divisor of linear attention, which may be zero; its numerator is zero then, too."""


class Writer:
    """Writes operations of one module into an ONNX graph."""

    def __init__(self, store: AssetStore) -> None:
        self.store = store
        self.graph = OnnxGraph()
        self.inner = self.factor = 1.0
        """What the next operand and result are multiplied by: tables hold functions with factors."""

    def hint(self, op: VitOp) -> str:
        """A name for the nodes of an operation."""
        return op.node_name.data if op.node_name is not None else op.name.removeprefix("vit.")

    def codes(self, value: SSAValue, what: str) -> Array:
        """The codes of a value that must be a constant."""
        if not isinstance(value.owner, ops.ConstantOp):
            raise VitError(f"--export-qdq: {what} is not a constant")
        return attribute_array(self.store, value.owner.value)

    def result(self, op: VitOp, name: str, *, nchw: bool = False) -> None:
        """The tensor of an operation that rounds its result, unless a clamp follows at once."""
        value = op.results[0]
        limited = all(isinstance(use.operation, ops.ClampOp) for use in value.uses)
        rounds = not limited or not any(value.uses)
        if self.factor != 1.0:
            factor = self.graph.floats(self.factor, "factor")
            name = self.graph.node("Mul", [name, factor], f"{self.hint(op)}.scaled")
        self.graph.write(value, name, self.hint(op), nchw=nchw, rounds=rounds)

    def unary(self, op: VitOp, operator: str, *more: str, **attributes: Any) -> None:
        """An operator that works element by element, in the layout of its operand."""
        name, nchw = self.operand(op)
        node = self.graph.node(operator, [name, *more], self.hint(op), **attributes)
        self.result(op, node, nchw=nchw)

    def operand(self, op: VitOp) -> tuple[str, bool]:
        """The tensor that an operation on each element reads, in its layout: whether that is NCHW."""
        nchw = self.graph.layout(op.operands[0])
        name = self.graph.read(op.operands[0], nchw)
        if self.inner != 1.0:
            factor = self.graph.floats(self.inner, "factor")
            name = self.graph.node("Mul", [name, factor], f"{self.hint(op)}.operand")
        return name, nchw

    def moved(self, op: VitOp, operator: str, *more: str, **attributes: Any) -> None:
        """An operator that moves values without rounding, on the layout of the module."""
        inputs = [*(self.graph.read(operand) for operand in op.operands), *more]
        name = self.graph.node(operator, inputs, self.hint(op), **attributes)
        self.graph.write(op.results[0], name, self.hint(op))


def constant(w: Writer, op: ops.ConstantOp) -> None:
    """A constant that an operation reads as an activation; weights are written by their readers."""
    readers = (ops.LinearOp, ops.Conv2dOp, ops.ConvTranspose2dOp, ops.LayerNormOp, ops.LutOp)
    if all(isinstance(use.operation, readers) and use.index > 0 for use in op.result.uses):
        return
    format_ = format_of(op.result)
    codes = attribute_array(w.store, op.value).reshape(shape_of(op.result))
    name = w.graph.dequantized(codes, format_, w.hint(op), format_.channel_axis)
    w.graph.write(op.result, name, w.hint(op))


def passed_on(w: Writer, op: VitOp) -> None:
    """The same real value: a requantisation is its QDQ pair, a border or a division nothing."""
    name, nchw = w.operand(op)
    if isinstance(op, ops.DequantizeOp):
        w.graph.write(op.result, name, w.hint(op), nchw=nchw)
    else:
        w.result(op, name, nchw=nchw)


def biased(w: Writer, op: VitOp, name: str, bias: SSAValue | None) -> str:
    """A tensor [..., N] plus a bias [N]."""
    if bias is None:
        return name
    added = [name, bias_of(w, op, bias)]
    return w.graph.node("Add", added, f"{w.hint(op)}.biased")


def bias_of(w: Writer, op: VitOp, bias: SSAValue) -> str:
    """A bias, dequantised."""
    codes = w.codes(bias, f"the bias of {label_of(op)}")
    return w.graph.dequantized(codes, format_of(bias), f"{w.hint(op)}.bias", 0)


def linear(w: Writer, op: ops.LinearOp) -> None:
    """MatMul with the transposed weight [K, N], whose channels lie along dimension 1."""
    weight = w.codes(op.weight, f"the weight of {label_of(op)}").T
    hint = f"{w.hint(op)}.weight"
    inputs = [w.graph.read(op.x), w.graph.dequantized(weight, format_of(op.weight), hint, 1)]
    name = w.graph.node("MatMul", inputs, w.hint(op))
    w.result(op, biased(w, op, name, op.bias))


def matmul(w: Writer, op: ops.MatmulOp) -> None:
    """MatMul, the second factor turned where the operation says so."""
    b = w.graph.read(op.b)
    if op.transpose_b is not None:
        b = w.graph.node("Transpose", [b], f"{w.hint(op)}.turned", perm=swapped(op.b))
    w.result(op, w.graph.node("MatMul", [w.graph.read(op.a), b], w.hint(op)))


def swapped(value: SSAValue) -> list[int]:
    """The permutation that swaps the last two dimensions."""
    rank = len(shape_of(value))
    return [*range(rank - 2), rank - 1, rank - 2]


def conv(w: Writer, op: ops.Conv2dOp) -> None:
    """Conv on [N, C, H, W] with the weight [O, C / groups, kh, kw]."""
    codes = w.codes(op.weight, f"the weight of {label_of(op)}").transpose(TO_NCHW)
    weight = w.graph.dequantized(codes, format_of(op.weight), f"{w.hint(op)}.weight", 0)
    window(w, op, "Conv", weight, dilations=integers(op.dilations))


def conv_transpose(w: Writer, op: ops.ConvTranspose2dOp) -> None:
    """ConvTranspose: ONNX keeps its weight as [C, O / groups, kh, kw]."""
    codes = w.codes(op.weight, f"the weight of {label_of(op)}")
    cout, kh, kw, per_group = codes.shape
    groups = op.groups.value.data
    grouped = codes.reshape(groups, cout // groups, kh, kw, per_group).transpose(0, 4, 1, 2, 3)
    stored = grouped.reshape(groups * per_group, cout // groups, kh, kw)
    format_, axis = _stored_format(format_of(op.weight), groups, per_group, label_of(op))
    weight = w.graph.dequantized(stored, format_, f"{w.hint(op)}.weight", axis)
    window(w, op, "ConvTranspose", weight, output_padding=integers(op.output_padding))


def window(
    w: Writer, op: ops.Conv2dOp | ops.ConvTranspose2dOp, operator: str, weight: str, **more: Any
) -> None:
    """A convolution on [N, C, H, W], with the attributes that both kinds have."""
    inputs = [w.graph.read(op.x, nchw=True), weight]
    if op.bias is not None:
        inputs.append(bias_of(w, op, op.bias))
    name = w.graph.node(
        operator,
        inputs,
        w.hint(op),
        strides=integers(op.strides),
        pads=integers(op.pads),
        group=op.groups.value.data,
        **more,
    )
    w.result(op, name, nchw=True)


def _stored_format(
    format_: QuantizedType, groups: int, per_group: int, what: str
) -> tuple[QuantizedType, int]:
    """The format of a transposed convolution's weight in ONNX's order, and its channel dimension.

    Output channels are spread over two dimensions there; scales may vary along one of them.
    """
    import numpy as np

    if not format_.is_per_channel or groups == 1:
        return format_, 1
    assert isinstance(format_, FixedType)
    fracs = format_.channel_fracs().reshape(groups, -1)
    if (fracs == fracs[:1]).all():
        return FixedType(format_.storage, fracs[0], axis=1), 1
    if (fracs == fracs[:, :1]).all():
        return FixedType(format_.storage, np.repeat(fracs[:, 0], per_group), axis=0), 0
    raise VitError(
        f"--export-qdq: {what}: scales vary along groups and the channels in each, which ONNX "
        f"cannot say of the weight of a ConvTranspose"
    )


def arithmetic(operator: str) -> Rule:
    """A sum or product of two values, in the layout of the first where both are images."""

    def rule(w: Writer, op: ops.AddOp | ops.MulOp) -> None:
        images = all(len(shape_of(operand)) == 4 for operand in op.operands)
        nchw = images and any(w.graph.layout(operand) for operand in op.operands)
        inputs = [w.graph.read(operand, nchw) for operand in op.operands]
        w.result(op, w.graph.node(operator, inputs, w.hint(op)), nchw=nchw)

    return rule


def clamp(w: Writer, op: ops.ClampOp) -> None:
    """Relu or Clip on real values; the limits are codes of the format."""
    format_ = format_of(op.result)
    scale, zero = float(format_.channel_scales().max()), format_.zero_point
    codes = op.min.value.data, op.max.value.data
    if format_.is_per_channel and codes != (zero, format_.bounds[1]):
        raise VitError(f"--export-qdq: {label_of(op)}: limits with a scale per channel")
    if codes == (zero, format_.bounds[1]):
        w.unary(op, "Relu")
        return
    limits = [
        "" if code == bound else w.graph.floats((code - zero) * scale, "limit")
        for code, bound in zip(codes, format_.bounds, strict=True)
    ]
    w.unary(op, "Clip", *limits)


def reinterpret(w: Writer, op: ops.ReinterpretOp) -> None:
    """The same integers on a grid that is 2^exponent as coarse: a Mul."""
    w.unary(op, "Mul", w.graph.floats(2.0**op.exponent.value.data, "factor"))


def softmax_exp(w: Writer, op: ops.SoftmaxExpOp) -> None:
    """The whole Softmax; the division by the row sums, which follows, is then nothing."""
    name = w.graph.node("Softmax", [w.graph.read(op.s)], w.hint(op), axis=-1)
    w.graph.write(op.p, name, w.hint(op))


def sigmoid_product(factor: float) -> Rule:
    """x * sigmoid(factor * x): SiLU, and the sigmoid form of GELU."""

    def rule(w: Writer, op: ops.LutOp | ops.ShiftGeluOp) -> None:
        (x, nchw), hint = w.operand(op), w.hint(op)
        inner = (
            x if factor == 1 else w.graph.node("Mul", [x, w.graph.floats(factor)], f"{hint}.arg")
        )
        gate = w.graph.node("Sigmoid", [inner], f"{hint}.gate")
        w.result(op, w.graph.node("Mul", [x, gate], hint), nchw=nchw)

    return rule


FUNCTIONS: dict[str, Rule] = {
    "gelu": lambda w, op: w.unary(op, "Gelu"),
    "gelu_tanh": lambda w, op: w.unary(op, "Gelu", approximate="tanh"),
    "quick_gelu": sigmoid_product(1.702),
    "silu": sigmoid_product(1.0),
    "sigmoid": lambda w, op: w.unary(op, "Sigmoid"),
    "hardsigmoid": lambda w, op: w.unary(op, "HardSigmoid", alpha=1 / 6, beta=0.5),
    "hardswish": lambda w, op: w.unary(op, "HardSwish"),
    "tanh": lambda w, op: w.unary(op, "Tanh"),
    "erf": lambda w, op: w.unary(op, "Erf"),
    "exp": lambda w, op: w.unary(op, "Exp"),
    "relu": lambda w, op: w.unary(op, "Relu"),
    "relu6": lambda w, op: w.unary(op, "Clip", w.graph.floats(0), w.graph.floats(6)),
    "softplus": lambda w, op: w.unary(op, "Softplus"),
    "abs": lambda w, op: w.unary(op, "Abs"),
    "neg": lambda w, op: w.unary(op, "Neg"),
    "identity": passed_on,
}
"""Functions that a `vit.lut` may name, in ONNX."""


def lut(w: Writer, op: ops.LutOp) -> None:
    """The function that the table holds, with factors before and behind it."""
    name, w.inner, w.factor = function_parts("" if op.function is None else op.function.data)
    rule = FUNCTIONS.get(name)
    if rule is None:
        raise VitError(
            f"--export-qdq: {label_of(op)}: a table of no function that ONNX has; export before "
            f"the pass fuse"
        )
    rule(w, op)
    w.inner = w.factor = 1.0


def layer_norm(w: Writer, op: ops.LayerNormOp) -> None:
    """LayerNormalization; weight and bias, whose grids are fine, as float numbers."""
    if op.mode.data != "standard":
        raise VitError(f"--export-qdq: {label_of(op)}: mode '{op.mode.data}' has no form in ONNX")
    parameters = [
        w.graph.floats(
            w.codes(value, f"the {what} of {label_of(op)}") * format_of(value).channel_scales(),
            f"{w.hint(op)}.{what}",
        )
        for what, value in (("scale", op.gamma), ("bias", op.beta))
    ]
    scale = float(format_of(op.x).channel_scales().min())
    epsilon = op.eps_q.value.data * (scale / shape_of(op.x)[-1]) ** 2
    inputs = [w.graph.read(op.x), *parameters]
    w.result(op, w.graph.node("LayerNormalization", inputs, w.hint(op), axis=-1, epsilon=epsilon))


def linear_attention(w: Writer, op: ops.LinearAttnOp) -> None:
    """(Q (K^T V)) / (Q sum K), as products, a ReduceSum and a Div."""
    graph, hint = w.graph, w.hint(op)
    q, k, v = (graph.read(value) for value in (op.q, op.k, op.v))
    turned = graph.node("Transpose", [k], f"{hint}.kt", perm=swapped(op.k))
    state = graph.node("MatMul", [turned, v], f"{hint}.state")
    total = graph.node("ReduceSum", [turned, graph.integers([-1])], f"{hint}.sum", keepdims=1)
    above = graph.node("MatMul", [q, state], f"{hint}.numerator")
    below = graph.node("MatMul", [q, total], f"{hint}.denominator")
    safe = graph.node("Add", [below, graph.floats(TINY, "epsilon")], f"{hint}.divisor")
    w.result(op, graph.node("Div", [above, safe], hint))


def mean(w: Writer, op: ops.MeanOp) -> None:
    """ReduceMean."""
    axes, keep = integers(op.axes), op.keepdims is not None
    nchw = w.graph.layout(op.x) and (keep or axes == (1, 2))
    chosen = [TO_NCHW.index(axis) for axis in axes] if nchw else axes
    inputs = [w.graph.read(op.x, nchw), w.graph.integers(chosen, "axes")]
    name = w.graph.node("ReduceMean", inputs, w.hint(op), keepdims=int(keep))
    w.result(op, name, nchw=nchw and keep)


def pool(operator: str) -> Rule:
    """Average or maximum pooling."""

    def rule(w: Writer, op: ops.AvgPool2dOp | ops.MaxPool2dOp) -> None:
        attributes: dict[str, Any] = {
            "kernel_shape": integers(op.kernel),
            "strides": integers(op.strides),
            "pads": integers(op.pads),
        }
        if isinstance(op, ops.AvgPool2dOp):
            attributes["count_include_pad"] = int(op.count_include_pad is not None)
        name = w.graph.node(operator, [w.graph.read(op.x, True)], w.hint(op), **attributes)
        if isinstance(op, ops.AvgPool2dOp):
            w.result(op, name, nchw=True)
        else:
            w.graph.write(op.result, name, w.hint(op), nchw=True)

    return rule


def resize(w: Writer, op: ops.ResizeOp) -> None:
    """Resize to a size, nearest or linear."""
    n, height, width, channels = shape_of(op.result)
    inputs = [w.graph.read(op.x, True), "", "", w.graph.integers([n, channels, height, width])]
    name = w.graph.node(
        "Resize",
        inputs,
        w.hint(op),
        mode=op.mode.data,
        coordinate_transformation_mode=op.coordinates.data,
        nearest_mode=op.nearest.data,
    )
    w.result(op, name, nchw=True)


def reshape(w: Writer, op: ops.ReshapeOp) -> None:
    """Reshape."""
    w.moved(op, "Reshape", w.graph.integers(shape_of(op.result), "shape"))


def transpose(w: Writer, op: ops.TransposeOp) -> None:
    """Transpose; one between the two layouts of an image only renames."""
    permutation = integers(op.permutation)
    if permutation == TO_NCHW:
        w.graph.write(op.result, w.graph.read(op.x, True), w.hint(op))
    elif permutation == TO_NHWC:
        w.graph.write(op.result, w.graph.read(op.x), w.hint(op), nchw=True)
    else:
        w.moved(op, "Transpose", perm=permutation)


def slice_(w: Writer, op: ops.SliceOp) -> None:
    """Slice along every dimension that it shortens."""
    shape, last = shape_of(op.x), math.inf
    fields = list(
        zip(integers(op.offsets), integers(op.sizes), integers(op.strides), shape, strict=True)
    )
    axes = [i for i, (_, size, _, whole) in enumerate(fields) if size != whole]
    starts = [fields[i][0] for i in axes]
    ends = [min(last, fields[i][0] + (fields[i][1] - 1) * fields[i][2] + 1) for i in axes]
    steps = [fields[i][2] for i in axes]
    parts = [w.graph.integers([int(v) for v in each]) for each in (starts, ends, axes, steps)]
    w.moved(op, "Slice", *parts)


def gather(w: Writer, op: ops.GatherOp) -> None:
    """Gather along one dimension."""
    w.moved(
        op, "Gather", w.graph.integers(integers(op.indices), "indices"), axis=op.axis.value.data
    )


def pad(w: Writer, op: ops.PadOp) -> None:
    """Pad with real zeros."""
    w.moved(op, "Pad", w.graph.integers([*integers(op.low), *integers(op.high)], "pads"))


RULES: dict[type[Operation], Rule] = {
    ops.ConstantOp: constant,
    ops.QuantizeOp: passed_on,
    ops.DequantizeOp: passed_on,
    ops.PotRequantOp: passed_on,
    ops.RequantOp: passed_on,
    ops.NormalizeOp: passed_on,
    ops.LinearOp: linear,
    ops.MatmulOp: matmul,
    ops.Conv2dOp: conv,
    ops.ConvTranspose2dOp: conv_transpose,
    ops.AddOp: arithmetic("Add"),
    ops.MulOp: arithmetic("Mul"),
    ops.ClampOp: clamp,
    ops.ReinterpretOp: reinterpret,
    ops.SoftmaxExpOp: softmax_exp,
    ops.ShiftmaxOp: lambda w, op: w.unary(op, "Softmax", axis=-1),
    ops.LutOp: lut,
    ops.ShiftGeluOp: sigmoid_product(1.702),
    ops.LayerNormOp: layer_norm,
    ops.LinearAttnOp: linear_attention,
    ops.MeanOp: mean,
    ops.AvgPool2dOp: pool("AveragePool"),
    ops.MaxPool2dOp: pool("MaxPool"),
    ops.ResizeOp: resize,
    ops.ReshapeOp: reshape,
    ops.TransposeOp: transpose,
    ops.SliceOp: slice_,
    ops.ConcatOp: lambda w, op: w.moved(op, "Concat", axis=op.axis.value.data),
    ops.GatherOp: gather,
    ops.PadOp: pad,
}
"""The rule of every operation that has a float form."""


def write(w: Writer, op: VitOp) -> None:
    """Write one operation; raises VitError, naming it, where ONNX has nothing for it."""
    rule = RULES.get(type(op))
    if rule is None:
        raise VitError(f"--export-qdq: {label_of(op)} has no form in ONNX's operators")
    rule(w, op)


__all__ = ["RULES", "Writer", "write"]
