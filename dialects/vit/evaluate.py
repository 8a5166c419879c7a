"""What each operation computes: `semantics` applied with the parameters its types imply.

`evaluate_op` is the reference that the interpreter runs and that C kernels and accelerator must
equal bit for bit. Values are integer arrays of codes in any integer dtype wide enough; results come
in the dtype of their storage. At the border `vit.quantize` takes and `vit.dequantize` gives float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation, SSAValue

from vit_opt.dialects.assets import AssetStore, attribute_array, dtype_of
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, Log2Type, QuantizedType
from vit_opt.dialects.vit.ops.base import format_of, integers, is_fixed, shape_of, tensor_type
from vit_opt.dialects.vit.semantics import (
    activation,
    convolution,
    layernorm,
    linear,
    linear_attention,
    pooling,
    quantize,
    requant,
    resize,
    softmax,
)
from vit_opt.dialects.vit.semantics.arithmetic import Rounding

Array: TypeAlias = NDArray[Any]
Ints: TypeAlias = NDArray[np.int64]
Rule: TypeAlias = Callable[[Any, Sequence[Array]], "Array | tuple[Array, ...]"]


def along_axis(vector: Array, format_: QuantizedType, rank: int) -> Array:
    """A per-channel vector shaped to broadcast over a tensor of `rank` dimensions."""
    if format_.channel_axis is None:
        return vector
    shape = [1] * rank
    shape[format_.channel_axis] = -1
    return vector.reshape(shape)


def fracs_of(value: SSAValue) -> Ints:
    """Fractional bits of a fixed value, shaped to broadcast over it."""
    format_ = format_of(value)
    assert isinstance(format_, FixedType)
    return along_axis(format_.channel_fracs(), format_, len(shape_of(value)))


def scales_of(value: SSAValue) -> NDArray[np.float64]:
    """Scales of a value, shaped to broadcast over it."""
    return along_axis(format_of(value).channel_scales(), format_of(value), len(shape_of(value)))


def shift_between(source: SSAValue, target: SSAValue) -> Ints:
    """frac of `source` minus frac of `target`, for scales that differ by powers of two."""
    if is_fixed(format_of(source), format_of(target)):
        return fracs_of(source) - fracs_of(target)
    _, exponent = np.frexp(scales_of(target) / scales_of(source))
    return exponent.astype(np.int64) - 1


def _result(op: Operation) -> tuple[int, int, int]:
    """Smallest code, largest code and zero point of the first result."""
    format_ = format_of(op.results[0])
    return *format_.bounds, format_.zero_point


def _zero(value: SSAValue) -> int:
    return format_of(value).zero_point


def _rounding(op: Any) -> Rounding:
    return cast("Rounding", op.rounding.data)


def _quantize(op: ops.QuantizeOp, args: Sequence[Array]) -> Array:
    low, high, zp = _result(op)
    return quantize.quantize_scaled(args[0], scales_of(op.result), low, high, zp)


def _dequantize(op: ops.DequantizeOp, args: Sequence[Array]) -> Array:
    return quantize.dequantize_scaled(args[0], scales_of(op.x), _zero(op.x))


def _pot_requant(op: ops.PotRequantOp, args: Sequence[Array]) -> Array:
    low, high, zp = _result(op)
    shift = shift_between(op.x, op.result)
    return requant.pot_requant(args[0], shift, low, high, _zero(op.x), zp, _rounding(op))


def dyadic_between(source: SSAValue, target: SSAValue) -> tuple[Ints, Ints]:
    """Multiplier and shift that take codes of `source` to the grid of `target` (I-ViT)."""
    return requant.dyadic_multiplier(scales_of(source) / scales_of(target))


def _requant(op: ops.RequantOp, args: Sequence[Array]) -> Array:
    low, high, zp = _result(op)
    multiplier, shift = dyadic_between(op.x, op.result)
    return requant.dyadic_requant(args[0], multiplier, shift, low, high, _zero(op.x), zp)


def _add(op: ops.AddOp, args: Sequence[Array]) -> Array:
    low, high, zp = _result(op)
    zeros = (_zero(op.a), _zero(op.b), zp)
    a, b = args
    if is_fixed(format_of(op.a), format_of(op.b), format_of(op.result)):
        fracs = fracs_of(op.a), fracs_of(op.b), fracs_of(op.result)
        return requant.add(a, b, *fracs, low, high, zeros, _rounding(op))
    (ma, sa), (mb, sb) = (dyadic_between(x, op.result) for x in (op.a, op.b))
    return requant.dyadic_add(a, b, (ma, mb), (sa, sb), low, high, zeros)


def _mul(op: ops.MulOp, args: Sequence[Array]) -> Array:
    low, high, zp = _result(op)
    zeros = (_zero(op.a), _zero(op.b), zp)
    if is_fixed(format_of(op.a), format_of(op.b), format_of(op.result)):
        shift = fracs_of(op.a) + fracs_of(op.b) - fracs_of(op.result)
        return requant.mul(args[0], args[1], shift, low, high, zeros, _rounding(op))
    product = (args[0].astype(np.int64) - zeros[0]) * (args[1].astype(np.int64) - zeros[1])
    ratio = scales_of(op.a) * scales_of(op.b) / scales_of(op.result)
    multiplier, shift = requant.dyadic_multiplier(ratio)
    return requant.dyadic_requant(product, multiplier, shift, low, high, 0, zp)


def _clamp(op: ops.ClampOp, args: Sequence[Array]) -> Array:
    return requant.clamp(args[0], op.min.value.data, op.max.value.data)


def _linear(op: ops.LinearOp, args: Sequence[Array]) -> Array:
    bias = args[2] if op.bias is not None else None
    return linear.linear(args[0], args[1], bias, _zero(op.x), _zero(op.weight))


def _matmul(op: ops.MatmulOp, args: Sequence[Array]) -> Array:
    transposed = op.transpose_b is not None
    return linear.matmul(args[0], args[1], _zero(op.a), _zero(op.b), transposed)


def _conv2d(op: ops.Conv2dOp, args: Sequence[Array]) -> Array:
    return convolution.conv2d(
        args[0],
        args[1],
        args[2] if op.bias is not None else None,
        strides=cast("tuple[int, int]", integers(op.strides)),
        pads=cast("tuple[int, int, int, int]", integers(op.pads)),
        dilations=cast("tuple[int, int]", integers(op.dilations)),
        groups=op.groups.value.data,
        x_zp=_zero(op.x),
        w_zp=_zero(op.weight),
    )


def _conv_transpose2d(op: ops.ConvTranspose2dOp, args: Sequence[Array]) -> Array:
    return convolution.conv_transpose2d(
        args[0],
        args[1],
        args[2] if op.bias is not None else None,
        strides=cast("tuple[int, int]", integers(op.strides)),
        pads=cast("tuple[int, int, int, int]", integers(op.pads)),
        output_padding=cast("tuple[int, int]", integers(op.output_padding)),
        groups=op.groups.value.data,
        x_zp=_zero(op.x),
        w_zp=_zero(op.weight),
    )


def _log2_matmul(op: ops.Log2MatmulOp, args: Sequence[Array]) -> Array:
    return softmax.log2_matmul(args[0], args[1], _zero(op.v))


def _linear_attn(op: ops.LinearAttnOp, args: Sequence[Array]) -> Array:
    low, high, zp = _result(op)
    return linear_attention.linear_attention(
        args[0],
        args[1],
        args[2],
        op.kv_shift.value.data,
        op.ksum_shift.value.data,
        shift_between(op.v, op.result),
        low,
        high,
        cast("linear_attention.Divisor", op.divisor.data),
        zp,
        _rounding(op),
    )


def _softmax_exp(op: ops.SoftmaxExpOp, args: Sequence[Array]) -> tuple[Array, ...]:
    return softmax.softmax_exp(args[0], int(fracs_of(op.s)))


def _normalize(op: ops.NormalizeOp, args: Sequence[Array]) -> Array:
    low, high, zp = _result(op)
    shift = shift_between(op.acc, op.result)
    return softmax.normalize(args[0], args[1], shift, low, high, zp, _rounding(op))


def published_step(format_: QuantizedType) -> int:
    """Integer steps of one unit of the exponent, ceil(1 / scale), as I-ViT computes it."""
    return int(-np.floor(np.float32(-1.0) / np.float32(format_.channel_scales())))


def _shiftmax(op: ops.ShiftmaxOp, args: Sequence[Array]) -> Array:
    bits, n = format_of(op.result).storage.width.data, op.n.value.data
    if op.mode.data == "ivit":
        step = published_step(format_of(op.s))
        return softmax.shiftmax(args[0], step, bits, n, "floor", 1 << 31)
    step = softmax.step_of(int(fracs_of(op.s)))
    return softmax.shiftmax(args[0], step, bits, n, _rounding(op))


def _log2_softmax(op: ops.Log2SoftmaxOp, args: Sequence[Array]) -> Array:
    return softmax.log2_softmax(args[0], softmax.step_of(int(fracs_of(op.s))))


def _lut(op: ops.LutOp, args: Sequence[Array]) -> Array:
    low = format_of(op.x).bounds[0]
    if format_of(op.x).storage.width.data == 16:
        return activation.lut16(args[0], args[1], low)
    return activation.lut(args[0], args[1], low)


def _shift_gelu(op: ops.ShiftGeluOp, args: Sequence[Array]) -> Array:
    if op.mode.data == "ivit":
        scale = float(format_of(op.x).channel_scales())
        return activation.shift_gelu_ivit(args[0], activation.shift_gelu_step(scale))
    return activation.shift_gelu(args[0], int(fracs_of(op.x)))


def _layernorm(op: ops.LayerNormOp, args: Sequence[Array]) -> Array:
    if op.mode.data == "ivit":
        return layernorm.layernorm_ivit(args[0], args[2])
    low, high, zp = _result(op)
    x = format_of(op.x)
    fracs = x.channel_fracs() if isinstance(x, FixedType) else np.zeros((), np.int64)
    return layernorm.layernorm(
        args[0],
        args[1],
        args[2],
        fracs_of(op.gamma),
        fracs_of(op.beta),
        cast("FixedType", format_of(op.result)).channel_fracs(),
        low,
        high,
        input_shift=fracs.max() - fracs,
        eps_q=op.eps_q.value.data,
        zp_in=_zero(op.x),
        zp_out=zp,
        rounding=_rounding(op),
    )


def _mean(op: ops.MeanOp, args: Sequence[Array]) -> Array:
    low, high, zp = _result(op)
    axes, keep = integers(op.axes), op.keepdims is not None
    shift = shift_between(op.x, op.result)
    return pooling.mean(args[0], axes, shift, low, high, _zero(op.x), zp, keepdims=keep)


def _avg_pool2d(op: ops.AvgPool2dOp, args: Sequence[Array]) -> Array:
    low, high, zp = _result(op)
    return pooling.avg_pool2d(
        args[0],
        cast("tuple[int, int]", integers(op.kernel)),
        shift_between(op.x, op.result),
        low,
        high,
        cast("tuple[int, int]", integers(op.strides)),
        cast("tuple[int, int, int, int]", integers(op.pads)),
        op.count_include_pad is not None,
        _zero(op.x),
        zp,
    )


def _max_pool2d(op: ops.MaxPool2dOp, args: Sequence[Array]) -> Array:
    return pooling.max_pool2d(
        args[0],
        cast("tuple[int, int]", integers(op.kernel)),
        cast("tuple[int, int]", integers(op.strides)),
        cast("tuple[int, int, int, int]", integers(op.pads)),
    )


def _resize(op: ops.ResizeOp, args: Sequence[Array]) -> Array:
    size = shape_of(op.result)[1], shape_of(op.result)[2]
    if op.mode.data == "nearest":
        return resize.resize_nearest(args[0], size, op.coordinates.data, op.nearest.data)
    low, high, zp = _result(op)
    return resize.resize_linear(
        args[0],
        size,
        shift_between(op.x, op.result),
        low,
        high,
        op.coordinates.data,
        zp_in=_zero(op.x),
        zp_out=zp,
        rounding=_rounding(op),
    )


def _slice(op: ops.SliceOp, args: Sequence[Array]) -> Array:
    index = tuple(
        slice(offset, offset + (size - 1) * stride + 1, stride)
        for offset, size, stride in zip(
            integers(op.offsets), integers(op.sizes), integers(op.strides), strict=True
        )
    )
    return args[0][index]


def _pad(op: ops.PadOp, args: Sequence[Array]) -> Array:
    width = list(zip(integers(op.low), integers(op.high), strict=True))
    return np.pad(args[0], width, constant_values=_zero(op.x))


RULES: dict[type[Operation], Rule] = {
    ops.QuantizeOp: _quantize,
    ops.DequantizeOp: _dequantize,
    ops.PotRequantOp: _pot_requant,
    ops.RequantOp: _requant,
    ops.AddOp: _add,
    ops.MulOp: _mul,
    ops.ClampOp: _clamp,
    ops.ReinterpretOp: lambda op, args: args[0],
    ops.LinearOp: _linear,
    ops.MatmulOp: _matmul,
    ops.Conv2dOp: _conv2d,
    ops.ConvTranspose2dOp: _conv_transpose2d,
    ops.Log2MatmulOp: _log2_matmul,
    ops.LinearAttnOp: _linear_attn,
    ops.SoftmaxExpOp: _softmax_exp,
    ops.NormalizeOp: _normalize,
    ops.ShiftmaxOp: _shiftmax,
    ops.Log2SoftmaxOp: _log2_softmax,
    ops.LutOp: _lut,
    ops.ShiftGeluOp: _shift_gelu,
    ops.LayerNormOp: _layernorm,
    ops.MeanOp: _mean,
    ops.AvgPool2dOp: _avg_pool2d,
    ops.MaxPool2dOp: _max_pool2d,
    ops.ResizeOp: _resize,
    ops.ReshapeOp: lambda op, args: args[0].reshape(shape_of(op.result)),
    ops.TransposeOp: lambda op, args: args[0].transpose(integers(op.permutation)),
    ops.SliceOp: _slice,
    ops.ConcatOp: lambda op, args: np.concatenate(args, axis=op.axis.value.data),
    ops.PadOp: _pad,
    ops.GatherOp: lambda op, args: args[0].take(integers(op.indices), axis=op.axis.value.data),
}
"""The arithmetic of each operation, from the operation and its operands' arrays to its results."""


def result_dtype(value: SSAValue) -> np.dtype[Any]:
    """The dtype in which a value's codes (or float32 reals) are held."""
    element = tensor_type(value).get_element_type()
    if isinstance(element, QuantizedType):
        return dtype_of(element.storage)
    if isinstance(element, Log2Type):
        return np.dtype(np.uint8)
    return dtype_of(element)


def evaluator(store: AssetStore) -> Callable[[Operation, Sequence[Array]], tuple[Array, ...]]:
    """`evaluate_op` with constants resolved in an asset store, for `vit_opt.dialects.evaluation`."""

    def evaluate(op: Operation, args: Sequence[Array]) -> tuple[Array, ...]:
        if isinstance(op, ops.ConstantOp):
            return (attribute_array(store, op.value),)
        return evaluate_op(op, args)

    return evaluate


def evaluate_op(op: Operation, args: Sequence[Array]) -> tuple[Array, ...]:
    """The results of an operation, from the arrays of its operands.

    Raises VitError, naming the operation, if it is not one of the dialect's computations, or if an
    accumulator leaves its storage (which `prove-ranges` excludes beforehand).
    """
    rule = RULES.get(type(op))
    if rule is None:
        raise VitError(f"{op.name} has no integer definition")
    results = rule(op, args)
    if not isinstance(results, tuple):
        results = (results,)
    return tuple(
        _stored(op, value, array) for value, array in zip(op.results, results, strict=True)
    )


def _stored(op: Operation, value: SSAValue, array: Array) -> Array:
    dtype = result_dtype(value)
    if array.dtype == dtype:
        return array
    if dtype.kind in "iu" and array.size:
        info = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < info.min or high > info.max:
            node = op.properties.get("node_name")
            where = f" ({node.data})" if isinstance(node, StringAttr) else ""
            raise VitError(
                f"{op.name}{where}: result {low if low < info.min else high} overflows "
                f"{dtype.name}; run prove-ranges to find where"
            )
    return array.astype(dtype)


__all__ = ["RULES", "evaluate_op", "evaluator", "result_dtype", "shift_between"]
