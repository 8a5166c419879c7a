"""What each operation of the float graph becomes in integers.

A rule reads the integers of its operands from the `IntegerGraph` in the form it needs, emits
integer operations and defines its results. The structure that decides accuracy is here: products
read 8 bits, sums and LayerNorm 16, an accumulator goes straight into a sum, softmax stays divided
into exponentials and their total until after the product with the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import FloatAttr
from xdsl.ir import Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx.base import integer, integers, real
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType, ScaledType, storage_of
from vit_opt.dialects.vit.functions import function_name
from vit_opt.dialects.vit.ops.base import format_of, shape_of
from vit_opt.passes.algorithms.exponents import covering_fracs
from vit_opt.passes.algorithms.ptf import FACTORS
from vit_opt.passes.calibrate import statistics_of
from vit_opt.passes.quantization.formats import (
    covering_type,
    layernorm_types,
    power_exponent,
    scaled_epsilon,
)
from vit_opt.passes.quantization.graph import IntegerGraph, label_of
from vit_opt.passes.quantization.linear_attention import linear_attention
from vit_opt.passes.quantization.options import activation_bits, readers_through
from vit_opt.passes.quantization.products import (
    constant_of,
    conv,
    conv_transpose,
    linear,
    migrated_type,
)
from vit_opt.passes.quantization.tables import (
    FUNCTION_OF,
    changing_range,
    part_of_table,
    scaled_operand,
    scaled_table,
    table_codes,
    table_operand,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Rule: TypeAlias = Callable[["IntegerGraph", Any], None]

MOVEMENT = (
    onnx.Reshape,
    onnx.Flatten,
    onnx.Squeeze,
    onnx.Unsqueeze,
    onnx.Transpose,
    onnx.Slice,
    onnx.Split,
    onnx.Gather,
    onnx.Concat,
    onnx.Pad,
    onnx.Expand,
    onnx.MaxPool,
    onnx.Resize,
    onnx.Relu,
    onnx.Clip,
)
"""Operations that pass on the precision their result needs."""

PRODUCTS = (onnx.MatMul, onnx.Linear, onnx.Conv, onnx.ConvTranspose)
"""Operations that read 8 bits."""


FINEST_NORM = 2.0**-24
"""Finest grid of a LayerNorm's operand, in channels times the root of epsilon: where it is finer,
epsilon outweighs the variance, and on a finer grid epsilon would leave 48 bits."""


def wanted_bits(value: SSAValue) -> int:
    """8 if everything that reads a value takes 8 bits, else 16."""
    for use in value.uses:
        reader = use.operation
        if isinstance(reader, MOVEMENT):
            if any(wanted_bits(result) == 16 for result in reader.results):
                return 16
        elif type(reader) in FUNCTION_OF or part_of_table(reader):
            if wanted_bits(reader.results[0]) == 16:
                return 16
        elif not isinstance(reader, PRODUCTS) or activation_bits(reader) == 16:
            return 16
    return 8


def feeds_softmax(value: SSAValue) -> bool:
    """Whether a value reaches a softmax through sums and movement only."""
    passing = (onnx.Add, onnx.Mul, *MOVEMENT)
    return any(
        isinstance(use.operation, onnx.Softmax)
        or (
            isinstance(use.operation, passing)
            and any(feeds_softmax(result) for result in use.operation.results)
        )
        for use in value.uses
    )


def alignable(summand: QuantizedType, total: QuantizedType) -> bool:
    """Whether a summand can be aligned in 64 bits with another one that can, too.

    At most one of the two is an accumulator. A grid far finer than the sum's carries next to nothing
    into it, and one far coarser belongs to a sum that cancels: such summands are brought to the
    sum's grid first. The bounds leave a bit each for folding to powers of two.
    """
    scales, totals = summand.channel_scales(), total.channel_scales()
    wide = summand.storage.width.data == 32
    finer, coarser = (30, 6) if wide else (22, 14)
    fine_enough = scales.min() >= totals.max() * 2.0**-finer
    return bool(fine_enough and scales.max() <= totals.min() * 2.0**coarser)


def add(graph: IntegerGraph, op: onnx.Add) -> None:
    """A sum on the result's grid, rounded once; accumulators are added as they are."""
    left, right = op.inputs
    type_ = residual_type(graph, op) or graph.type_for(
        op.y, wanted_bits(op.y), symmetric=True, pot=feeds_softmax(op.y)
    )
    last = any(
        value in graph.records and graph.records[value].channels_last for value in op.inputs
    ) and all(len(shape_of(value)) == 4 for value in op.inputs)
    if last:
        a, b = (graph.codes(value, 16, channels_last=True) for value in op.inputs)
    else:
        a = graph.operand(left)
        wide = format_of(a).storage.width.data == 32
        b = graph.codes(right, 16, channelwise=True) if wide else graph.operand(right)
    a, b = (
        summand
        if alignable(format_of(summand), type_)
        else graph.typed(v, type_, channels_last=last)
        for v, summand in ((left, a), (right, b))
    )
    graph.define(op.y, graph.emit(ops.AddOp.of(a, b, type=type_), op).result, channels_last=last)


def residual_type(graph: IntegerGraph, op: onnx.Add) -> QuantizedType | None:
    """The format of a sum of the residual stream, where it is kept in 8 bits; else None.

    With PTF the channels that a LayerNorm reads have powers of two of their own, up to 2^3 finer
    than the one that covers them all (FQ-ViT, P2-ViT).
    """
    import numpy as np

    if graph.options.residual == "int16" or feeds_softmax(op.y):
        return None
    readers = list(readers_through(op.y))
    if not any(isinstance(reader, onnx.Add | onnx.LayerNormalization) for reader in readers):
        return None
    found = statistics_of(op.y, graph.constants.store)
    common = graph.type_for(op.y, 8, symmetric=True, pot=graph.options.residual == "int8-ptf")
    if found is None or not isinstance(common, FixedType):
        return common
    magnitude = found.magnitude
    fracs = covering_fracs(-magnitude, magnitude, *common.bounds)
    fracs = np.clip(fracs, common.frac, common.frac + FACTORS - 1)
    return FixedType("i8", fracs, axis=len(shape_of(op.y)) - 1)


def multiply(graph: IntegerGraph, op: onnx.Mul) -> None:
    """A product of values; by a power of two it is a change of frac and moves no integer."""
    left, right = op.inputs
    if graph.constants.array(left) is not None:
        left, right = right, left
    factor = graph.constants.scalar(right)
    owner = scaled_table(op)
    if owner is not None and factor is not None and owner.y not in graph.records:
        tabulate(graph, owner, op.y, factor)
        return
    if tabulated_with(graph, op) is not None:
        return
    exponent = power_exponent(factor) if factor is not None and factor > 0 else None
    if exponent is not None and shape_of(left) == shape_of(op.y):
        record = graph.record(left)
        graph.settle(record)
        scaled = graph.emit(ops.ReinterpretOp.of(record.raw, exponent=exponent), op)
        graph.define(op.y, scaled.result, channels_last=record.channels_last)
        return
    type_ = graph.type_for(op.y, wanted_bits(op.y), pot=feeds_softmax(op.y))
    a, b = graph.codes(left, 16), graph.codes(right, 8 if factor is not None else 16)
    graph.define(op.y, graph.emit(ops.MulOp.of(a, b, type=type_), op).result)


def layer_norm(graph: IntegerGraph, op: onnx.LayerNormalization) -> None:
    """LayerNorm over the last dimension, from up to 16 bits to what its readers take."""
    import numpy as np

    channels = shape_of(op.x)[-1]
    if integer(op.axis) % len(shape_of(op.x)) != len(shape_of(op.x)) - 1:
        raise VitError(f"{op.label}: LayerNorm over several dimensions is not supported")
    x = graph.codes(op.x, 16, channelwise=True)
    gamma = constant_of(graph, op.scale, f"{op.label}: the scale")
    beta = np.zeros(channels) if op.bias is None else constant_of(graph, op.bias, op.label)
    gamma_type, beta_type = layernorm_types(gamma, beta)
    finest = channels * math.sqrt(real(op.epsilon)) * FINEST_NORM
    if float(format_of(x).channel_scales().min()) < finest:
        x = graph.typed(op.x, ScaledType("i16", finest))
    scale = float(format_of(x).channel_scales().min())
    normalized = ops.LayerNormOp.of(
        x,
        graph.constant(label_of(op.scale), gamma, gamma_type),
        graph.constant(label_of(op.bias) if op.bias else op.label, beta, beta_type),
        type=graph.type_for(op.y, wanted_bits(op.y), symmetric=True, pot=True),
        eps_q=scaled_epsilon(real(op.epsilon), channels, scale),
    )
    graph.define(op.y, graph.emit(normalized, op).result)


def tabulated_with(graph: IntegerGraph, op: onnx.Mul) -> Operation | None:
    """The function whose table a scaling in front of it becomes part of, if it does."""
    readers = [use.operation for use in op.y.uses]
    if len(readers) != 1 or scaled_operand(readers[0]) is not op or op.y in graph.given:
        return None
    shifted = graph.options.gelu == "shift" and isinstance(readers[0], onnx.Gelu)
    return None if shifted else readers[0]


def function(graph: IntegerGraph, op: onnx.Gelu | onnx.HardSwish | onnx.Sigmoid) -> None:
    """Any function of one value: a table over its codes, which scalings around it become part of."""
    readers = [use.operation for use in op.y.uses]
    if graph.options.gelu == "shift" and isinstance(op, onnx.Gelu):
        last = graph.record(op.x).channels_last
        graph.define(op.y, shifted_gelu(graph, op, last), channels_last=last)
    elif len(readers) != 1 or scaled_table(readers[0]) is not op:
        tabulate(graph, op, op.y)


def tabulate(graph: IntegerGraph, op: Any, y: SSAValue, factor: float = 1.0) -> None:
    """A table of `factor` times the function `op` from its operand, before any scaling, to `y`.

    The codes cover only the part of the operand's range where the result changes: below about -3
    GELU has one result. A result of 16 bits is interpolated from a 16-bit operand.
    """
    value, inner, scaling = op.x, None, scaled_operand(op)
    if scaling is not None and tabulated_with(graph, scaling) is op:
        value, inner = scaling.inputs[0], graph.constants.scalar(scaling.inputs[1])
    name = function_name(FUNCTION_OF[type(op)](op), 1.0 if inner is None else inner, factor)
    record = graph.record(value)
    graph.settle(record)
    last, bits = record.channels_last, wanted_bits(y)
    type_ = table_type(graph, y, bits)
    x_type, own = format_of(record.raw), graph.given.get(value)
    if own is not None and own.fits(bits, symmetric=bits == 16, pot=False):
        x_type = own.type
    elif x_type.storage.width.data > bits or x_type.is_per_channel:
        low, high = changing_range(name, *graph.range(value), type_)
        x_type = table_operand(low, high, bits)
    x = graph.typed(value, x_type, channels_last=last)
    codes = table_codes(name, format_of(x), type_)
    store, inline = graph.constants.store, graph.constants.inline
    table = ops.ConstantOp.make(store, f"{op.label}.table", codes, type_, inline=inline)
    lut = ops.LutOp.of(x, graph.emit(table).result, function=name)
    origin = y.owner if isinstance(y.owner, onnx.OnnxOp) else op
    graph.define(y, graph.emit(lut, origin).result, channels_last=last)


def table_type(graph: IntegerGraph, value: SSAValue, bits: int) -> QuantizedType:
    """The format of a table's results; 13 of 16 bits where a product reads them, which sums many."""
    products = all(isinstance(reader, PRODUCTS) for reader in readers_through(value))
    if bits == 8 or not products:
        return graph.type_for(value, bits)
    low, high = graph.range(value)
    return covering_type(8 * low, 8 * high, 16, symmetric=True, pot=False)


def shifted_gelu(graph: IntegerGraph, op: onnx.Gelu, channels_last: bool) -> SSAValue:
    """GELU by shifts (I-ViT), from 8 bits on a power-of-two grid to 16 bits."""
    low, high = changing_range("gelu", *graph.span(op.x, 8), graph.type_for(op.y, 8))
    found = covering_type(low, high, 8, symmetric=True, pot=True)
    assert isinstance(found, FixedType)
    x_type = FixedType("i8", min(max(found.frac, 0), 15))
    x = graph.typed(op.x, x_type, channels_last=channels_last)
    return graph.emit(ops.ShiftGeluOp.of(x), op).result


def rectify(graph: IntegerGraph, op: onnx.Relu | onnx.Clip) -> None:
    """ReLU and Clip: requantise to a grid that covers the result, then limit the codes.

    Codes of a model's own grid stay on it.
    """
    record = graph.record(op.x)
    graph.settle(record)
    last = record.channels_last
    type_ = migrated_type(graph, *(use.operation for use in op.y.uses))
    type_ = type_ or graph.type_for(op.y, wanted_bits(op.y))
    own = graph.given.get(op.x)
    if own is not None and own.fits(8, symmetric=False, pot=False):
        type_ = own.type
    x = graph.typed(op.x, type_, channels_last=last)
    low, high = type_.bounds
    scale = float(type_.channel_scales().max())
    limits = (0.0, None) if isinstance(op, onnx.Relu) else (op.min, op.max)
    values = [real(v) if isinstance(v, FloatAttr) else v for v in limits]
    codes = [None if v is None else round(v / scale) + type_.zero_point for v in values]
    low = low if codes[0] is None else min(max(codes[0], low), high)
    high = high if codes[1] is None else min(max(codes[1], low), high)
    if (low, high) != type_.bounds:
        x = graph.emit(ops.ClampOp.of(x, min=low, max=high), op).result
    graph.define(op.y, x, channels_last=last)


def reduce_mean(graph: IntegerGraph, op: onnx.ReduceMean | onnx.GlobalAveragePool) -> None:
    """A mean over some dimensions, on a grid that differs by a power of two."""
    x = graph.codes(op.x, 16)
    pooled = isinstance(op, onnx.GlobalAveragePool)
    rank = len(shape_of(op.x))
    axes = (2, 3) if pooled else tuple(axis % rank for axis in integers(op.axes))
    bits = 16 if wanted_bits(op.y) == 16 else 8
    type_ = graph.averaged_type(op.y, format_of(x), bits)
    keep = pooled or bool(integer(op.keepdims))
    mean = ops.MeanOp.of(x, type=type_, axes=axes, keepdims=keep)
    graph.define(op.y, graph.emit(mean, op).result)


def average_pool(graph: IntegerGraph, op: onnx.AveragePool) -> None:
    """Average pooling, channels last."""
    x = graph.codes(op.x, 16, channels_last=True)
    bits = wanted_bits(op.y)
    pooled = ops.AvgPool2dOp.of(
        x,
        type=graph.averaged_type(op.y, format_of(x), bits),
        kernel=integers(op.kernel_shape),
        strides=integers(op.strides),
        pads=integers(op.pads),
        count_include_pad=bool(integer(op.count_include_pad)),
    )
    graph.define(op.y, graph.emit(pooled, op).result, channels_last=True)


def max_pool(graph: IntegerGraph, op: onnx.MaxPool) -> None:
    """Maximum pooling, channels last, on the codes."""
    x = graph.codes(op.x, wanted_bits(op.y), channels_last=True)
    pooled = ops.MaxPool2dOp.of(
        x,
        kernel=integers(op.kernel_shape),
        strides=integers(op.strides),
        pads=integers(op.pads),
    )
    graph.define(op.y, graph.emit(pooled, op).result, channels_last=True)


def resize(graph: IntegerGraph, op: onnx.Resize) -> None:
    """Nearest or bilinear resampling, channels last, on the operand's grid."""
    x = graph.codes(op.x, wanted_bits(op.y), channels_last=True)
    n, c, h, w = shape_of(op.y)
    resized = ops.ResizeOp.of(
        x,
        type=format_of(x),
        shape=(n, h, w, c),
        mode=op.mode.data,
        coordinates=op.coordinates.data,
        nearest=op.rounding.data,
    )
    graph.define(op.y, graph.emit(resized, op).result, channels_last=True)


def quantize_linear(graph: IntegerGraph, op: onnx.QuantizeLinear) -> None:
    """The model's own rounding to 8 bits; it becomes the format of the value."""
    record = graph.record(op.inputs[0])
    if record.total is not None:  # a deferred softmax keeps its finer, undivided form
        graph.define(op.y, record.raw, total=record.total)
        return
    scale = constant_of(graph, op.inputs[1], f"{op.label}: the scale")
    zero = op.inputs[2] if len(op.inputs) > 2 else None
    zeros = graph.constants.array(zero)
    if scale.size != 1:
        raise VitError(f"{op.label}: activations with a scale per channel are not supported")
    unsigned = zeros is None or zeros.dtype.kind == "u"
    width = 8 if zeros is None else 8 * zeros.dtype.itemsize
    zero_point = 0 if zeros is None else int(zeros.flat[0])
    storage = storage_of(f"{'u' if unsigned else ''}i{width}")
    type_ = ScaledType(storage, float(scale.flat[0]), zero_point)
    last = record.channels_last
    graph.define(op.y, graph.typed(op.inputs[0], type_, channels_last=last), channels_last=last)


def dequantize_linear(graph: IntegerGraph, op: onnx.DequantizeLinear) -> None:
    """Back to real values: the same integers."""
    record = graph.record(op.inputs[0])
    graph.define(op.y, record.raw, channels_last=record.channels_last, total=record.total)


def activation_type(graph: IntegerGraph, value: SSAValue) -> QuantizedType:
    """The format of a model input."""
    bits, own = wanted_bits(value), graph.given.get(value)
    if own is not None and own.fits(bits, symmetric=False, pot=False):
        return own.type
    return covering_type(*graph.span(value, bits), bits, symmetric=True, pot=False)


RULES: dict[type[Operation], Rule] = {
    onnx.Linear: linear,
    onnx.LinearAttention: linear_attention,
    onnx.Add: add,
    onnx.Mul: multiply,
    onnx.LayerNormalization: layer_norm,
    onnx.Relu: rectify,
    onnx.Clip: rectify,
    onnx.ReduceMean: reduce_mean,
    onnx.GlobalAveragePool: reduce_mean,
    onnx.Conv: conv,
    onnx.ConvTranspose: conv_transpose,
    onnx.AveragePool: average_pool,
    onnx.MaxPool: max_pool,
    onnx.Resize: resize,
    onnx.QuantizeLinear: quantize_linear,
    onnx.DequantizeLinear: dequantize_linear,
    **dict.fromkeys(FUNCTION_OF, function),
}
"""The rule of every float operation that has one; movement is in `movement`."""

__all__ = ["RULES", "activation_type", "feeds_softmax", "wanted_bits"]
