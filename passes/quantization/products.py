"""Products with constant weights: linear layers and convolutions.

The inputs of a depthwise convolution may have a power of two for each channel, where `migrate` found
that this helps: the convolution keeps channels apart, so that weights and accumulators have these
powers in their own scales and nothing else changes (Trio-ViT's channel-wise migration).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.ir import Operation, OpResult, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx.base import integer, integers
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, ScaledType
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.passes.algorithms.given import given_scales
from vit_opt.passes.algorithms.migration import migrated_fracs
from vit_opt.passes.calibrate import MOMENTS, STATISTICS
from vit_opt.passes.quantization.channels import INPUT_CHANNELS, input_channels
from vit_opt.passes.quantization.formats import weight_scales
from vit_opt.passes.quantization.graph import NHWC, IntegerGraph, label_of
from vit_opt.passes.quantization.options import activation_bits
from vit_opt.passes.quantization.weights import BYTE_GROUPS, weight_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

CHANNELS_LAST = 3
"""The channel axis of an image, channels last."""


def migrated_type(graph: IntegerGraph, *readers: Operation) -> FixedType | None:
    """The format of a value with a power of two per channel, if all its readers take that."""
    if graph.given or not readers:
        return None
    found = [reader.attributes.get(INPUT_CHANNELS) for reader in readers]
    ranges = input_channels(readers[0])
    if ranges is None or any(each != found[0] for each in found):
        return None
    if any(activation_bits(reader) != 8 for reader in readers):
        return None
    storage = "ui8" if (ranges[0] >= 0).all() else "i8"
    return FixedType(storage, migrated_fracs(*ranges), axis=CHANNELS_LAST)


def constant_of(graph: IntegerGraph, value: SSAValue | None, what: str) -> Array:
    """The array of an operand that must be constant."""
    array = graph.constants.array(value)
    if array is None:
        raise VitError(f"{what} must be a constant")
    return array


def quantized_weight(
    graph: IntegerGraph,
    op: onnx.Linear | onnx.Conv | onnx.ConvTranspose,
    weight: Array,
    x: SSAValue,
) -> tuple[SSAValue, SSAValue | None]:
    """Weight [N, ...] and bias of a product as constants, a scale per output channel."""
    bias = None if op.bias is None else constant_of(graph, op.bias, f"{op.label}: the bias")
    x_scale = format_of(x).channel_scales()
    if x_scale.size > 1:  # a depthwise convolution
        x_scale = x_scale.repeat(weight.shape[0] // x_scale.size)
    bits = weight_bits(op)
    scales = weight_scales(weight, bias, x_scale, bits)
    if graph.given and x_scale.size == 1:
        own = given_scales(weight.reshape(weight.shape[0], -1), bias, float(x_scale), bits)
        scales = scales if own is None else own
    type_ = ScaledType(f"i{bits}", scales, axis=0)
    statistics = op.attributes.get(MOMENTS)
    if isinstance(op, onnx.Linear) and isinstance(op.x, OpResult):
        statistics = op.x.op.attributes.get(STATISTICS)
    w = graph.constant(label_of(op.w), weight, type_, statistics)
    if BYTE_GROUPS in op.attributes and isinstance(w, OpResult):
        w.op.attributes[BYTE_GROUPS] = op.attributes[BYTE_GROUPS]
    if bias is None:
        return w, None
    product = ScaledType("i32", scales * x_scale, axis=0)
    return w, graph.constant(label_of(cast("SSAValue", op.bias)), bias, product)


def linear(graph: IntegerGraph, op: onnx.Linear) -> None:
    """A product with constant weights; the accumulator is requantised by its readers."""
    x = graph.codes(op.x, activation_bits(op))
    weight = constant_of(graph, op.w, f"{op.label}: the weight")
    w, bias = quantized_weight(graph, op, weight, x)
    graph.define(op.y, graph.emit(ops.LinearOp.of(x, w, bias), op).result)


def conv(graph: IntegerGraph, op: onnx.Conv) -> None:
    """Convolution, channels last."""
    migrated = migrated_type(graph, op)
    if migrated is None:
        x = graph.codes(op.x, activation_bits(op), channels_last=True)
    else:
        x = graph.typed(op.x, migrated, channels_last=True)
    weight = constant_of(graph, op.w, f"{op.label}: the weight").transpose(NHWC)
    w, bias = quantized_weight(graph, op, weight, x)
    product = ops.Conv2dOp.of(
        x,
        w,
        bias,
        strides=integers(op.strides),
        pads=integers(op.pads),
        dilations=integers(op.dilations),
        groups=integer(op.group),
    )
    graph.define(op.y, graph.emit(product, op).result, channels_last=True)


def conv_transpose(graph: IntegerGraph, op: onnx.ConvTranspose) -> None:
    """Transposed convolution, channels last; ONNX keeps its weight input channel first."""
    if integers(op.dilations) != (1, 1):
        raise VitError(f"{op.label}: a dilated transposed convolution is not supported")
    x = graph.codes(op.x, 8, channels_last=True)
    stored = constant_of(graph, op.w, f"{op.label}: the weight")
    groups = integer(op.group)
    cin, per_group, kh, kw = stored.shape
    grouped = stored.reshape(groups, cin // groups, per_group, kh, kw)
    weight = grouped.transpose(0, 2, 3, 4, 1).reshape(groups * per_group, kh, kw, cin // groups)
    w, bias = quantized_weight(graph, op, weight, x)
    product = ops.ConvTranspose2dOp.of(
        x,
        w,
        bias,
        strides=integers(op.strides),
        pads=integers(op.pads),
        output_padding=integers(op.output_padding),
        groups=groups,
    )
    graph.define(op.y, graph.emit(product, op).result, channels_last=True)


__all__ = [
    "constant_of",
    "conv",
    "conv_transpose",
    "linear",
    "migrated_type",
]
