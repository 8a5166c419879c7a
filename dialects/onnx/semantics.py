"""What each operation of the `onnx` dialect computes, in float32 with numpy.

`evaluate(op, operands, assets)` is the definition that calibration and the reference interpreter
use. Results have the dtype of the result types; intermediate sums are float32 as well, as in the
usual runtimes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from xdsl.ir import Operation

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore, attribute_array, dtype_of
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx import spatial
from vit_opt.dialects.onnx.base import (
    element_of,
    integer,
    integers,
    normal_axis,
    real,
    shape_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

Rule: TypeAlias = "Callable[[Any, Sequence[Array]], Array | tuple[Array, ...]]"


def _erf(x: Array) -> Array:
    from scipy.special import erf  # pyright: ignore[reportMissingTypeStubs]

    return cast("Array", erf(x))


def _sigmoid(x: Array) -> Array:
    from scipy.special import expit  # pyright: ignore[reportMissingTypeStubs]

    return cast("Array", expit(x))


def _clip(op: onnx.Clip, args: Sequence[Array]) -> Array:
    low = -np.inf if op.min is None else real(op.min)
    high = np.inf if op.max is None else real(op.max)
    return np.minimum(np.maximum(args[0], low), high)


def _gelu(op: onnx.Gelu, args: Sequence[Array]) -> Array:
    x = args[0]
    if op.approximate.data == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x * np.sqrt(0.5)))


def _divide(op: onnx.Div, args: Sequence[Array]) -> Array:
    a, b = args
    if a.dtype.kind == "f":
        return a / b
    quotient = np.abs(a) // np.abs(b)
    return np.where((a < 0) ^ (b < 0), -quotient, quotient)


def _cast(op: onnx.Cast, args: Sequence[Array]) -> Array:
    return args[0].astype(dtype_of(element_of(op.y)))


def _gemm(op: onnx.Gemm, args: Sequence[Array]) -> Array:
    a = args[0].T if integer(op.trans_a) else args[0]
    b = args[1].T if integer(op.trans_b) else args[1]
    y = a @ b
    if real(op.alpha) != 1.0:
        y = y * real(op.alpha)
    return y + args[2] * real(op.beta) if len(args) > 2 else y


def _linear(op: onnx.Linear, args: Sequence[Array]) -> Array:
    y = args[0] @ args[1].T
    return y + args[2] if len(args) > 2 else y


def _linear_attention(op: onnx.LinearAttention, args: Sequence[Array]) -> Array:
    q, k, v = np.maximum(args[0], 0), np.maximum(args[1], 0), args[2]
    numerator = q @ (np.swapaxes(k, -1, -2) @ v)
    denominator = q @ k.sum(axis=-2, keepdims=True).swapaxes(-1, -2)
    return numerator / (denominator + np.float32(real(op.eps)))


def _einsum(op: onnx.Einsum, args: Sequence[Array]) -> Array:
    return cast("Array", np.einsum(op.equation.data, *args, optimize=True))


def _reduction(function: Callable[..., Array]) -> Rule:
    def rule(op: Any, args: Sequence[Array]) -> Array:
        return function(args[0], axis=integers(op.axes), keepdims=bool(integer(op.keepdims)))

    return rule


def _l2(x: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))


def _softmax(op: onnx.Softmax, args: Sequence[Array]) -> Array:
    axis = integer(op.axis)
    e = np.exp(args[0] - args[0].max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _gather(op: onnx.Gather, args: Sequence[Array]) -> Array:
    x, indices = args
    axis = integer(op.axis)
    try:
        return np.take(x, indices, axis)
    except IndexError as error:
        raise VitError(
            f"{op.label}: indices reach from {indices.min()} to {indices.max()}, but there are "
            f"{x.shape[axis]} entries; check the data"
        ) from error


def _layer_norm(op: onnx.LayerNormalization, args: Sequence[Array]) -> Array:
    x = args[0]
    axes = tuple(range(normal_axis(integer(op.axis), x.ndim), x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    variance = np.mean(centred * centred, axis=axes, keepdims=True)
    y = centred / np.sqrt(variance + real(op.epsilon)) * args[1]
    return y + args[2] if len(args) > 2 else y


def _batch_norm(op: onnx.BatchNormalization, args: Sequence[Array]) -> Array:
    shape = (-1,) + (1,) * (args[0].ndim - 2)
    x, scale, bias, mean, variance = args[0], *(a.reshape(shape) for a in args[1:])
    return (x - mean) / np.sqrt(variance + real(op.epsilon)) * scale + bias


def _global_pool(function: Callable[..., Array]) -> Rule:
    def rule(op: Any, args: Sequence[Array]) -> Array:
        return function(args[0], axis=tuple(range(2, args[0].ndim)), keepdims=True)

    return rule


def _pad(op: onnx.Pad, args: Sequence[Array]) -> Array:
    x, pads = args[0], integers(op.pads)
    widths = [(pads[d], pads[d + x.ndim]) for d in range(x.ndim)]
    match op.mode.data:
        case "reflect":
            return np.pad(x, widths, mode="reflect")
        case "edge":
            return np.pad(x, widths, mode="edge")
        case _:
            value = 0.0 if op.value is None else real(op.value)
            return np.pad(x, widths, mode="constant", constant_values=value)


def _split(op: onnx.Split, args: Sequence[Array]) -> tuple[Array, ...]:
    axis = integer(op.axis)
    cuts = np.cumsum([shape_of(part)[axis] for part in op.parts])[:-1]
    return tuple(np.split(args[0], cuts, axis))


def _depth_to_space(op: onnx.DepthToSpace, args: Sequence[Array]) -> Array:
    n, c, h, w = args[0].shape
    b = integer(op.blocksize)
    if op.mode.data == "DCR":
        blocks = args[0].reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = args[0].reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(op: onnx.SpaceToDepth, args: Sequence[Array]) -> Array:
    n, c, h, w = args[0].shape
    b = integer(op.blocksize)
    blocks = args[0].reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * b * b, h // b, w // b)


def _along(parameter: Array, axis: int, rank: int) -> Array:
    """A scale or zero point, ready to broadcast along an axis."""
    if parameter.size == 1:
        return parameter.reshape(())
    return parameter.reshape([-1 if d == axis else 1 for d in range(rank)])


def _quantize(op: onnx.QuantizeLinear, args: Sequence[Array]) -> Array:
    x, axis = args[0], integer(op.axis) % max(args[0].ndim, 1)
    dtype = dtype_of(element_of(op.y))
    codes = np.rint(x / _along(args[1], axis, x.ndim))
    if len(args) > 2:
        codes = codes + _along(args[2], axis, x.ndim).astype(np.float32)
    info = np.iinfo(dtype)
    return np.clip(codes, info.min, info.max).astype(dtype)


def _dequantize(op: onnx.DequantizeLinear, args: Sequence[Array]) -> Array:
    x, axis = args[0], integer(op.axis) % max(args[0].ndim, 1)
    centred = x.astype(np.float32)
    if len(args) > 2:
        centred = centred - _along(args[2], axis, x.ndim).astype(np.float32)
    return centred * _along(args[1], axis, x.ndim)


def _plain(function: Callable[..., Array]) -> Rule:
    """A rule that looks at the operands only."""

    def rule(op: Any, args: Sequence[Array]) -> Array:
        return function(*args)

    return rule


def _with_op(function: Callable[..., Array]) -> Rule:
    """A rule that takes the operation and the operands one by one."""

    def rule(op: Any, args: Sequence[Array]) -> Array:
        return function(op, *args)

    return rule


def _many(function: Callable[[Array, Array], Array]) -> Rule:
    """A rule for any number of operands, folded from the left."""

    def rule(op: Any, args: Sequence[Array]) -> Array:
        return reduce(function, args)

    return rule


def _reshape(op: Any, args: Sequence[Array]) -> Array:
    return args[0].reshape(shape_of(op.y))


_ROUTES: dict[type[Operation], Rule] = {
    onnx.Abs: _plain(np.abs),
    onnx.Add: _plain(np.add),
    onnx.And: _plain(np.logical_and),
    onnx.AveragePool: _with_op(spatial.average_pool),
    onnx.BatchNormalization: _batch_norm,
    onnx.Cast: _cast,
    onnx.Clip: _clip,
    onnx.Concat: lambda op, args: np.concatenate(args, integer(op.axis)),
    onnx.Conv: _with_op(spatial.conv),
    onnx.ConvTranspose: _with_op(spatial.conv_transpose),
    onnx.DepthToSpace: _depth_to_space,
    onnx.DequantizeLinear: _dequantize,
    onnx.Div: _divide,
    onnx.Einsum: _einsum,
    onnx.Equal: _plain(np.equal),
    onnx.Erf: _plain(_erf),
    onnx.Exp: _plain(np.exp),
    onnx.Expand: lambda op, args: np.broadcast_to(args[0], shape_of(op.y)),
    onnx.Flatten: _reshape,
    onnx.Floor: _plain(np.floor),
    onnx.Gather: _gather,
    onnx.Gelu: _gelu,
    onnx.Gemm: _gemm,
    onnx.GlobalAveragePool: _global_pool(np.mean),
    onnx.GlobalMaxPool: _global_pool(np.max),
    onnx.Greater: _plain(np.greater),
    onnx.HardSigmoid: lambda op, args: np.clip(args[0] * real(op.alpha) + real(op.beta), 0, 1),
    onnx.Swish: lambda op, args: args[0] * _sigmoid(real(op.alpha) * args[0]),
    onnx.HardSwish: lambda op, args: args[0] * np.clip(args[0] / 6 + 0.5, 0, 1),
    onnx.Identity: lambda op, args: args[0],
    onnx.LayerNormalization: _layer_norm,
    onnx.LeakyRelu: lambda op, args: np.where(args[0] < 0, args[0] * real(op.alpha), args[0]),
    onnx.Less: _plain(np.less),
    onnx.Linear: _linear,
    onnx.LinearAttention: _linear_attention,
    onnx.Log: _plain(np.log),
    onnx.MatMul: _plain(np.matmul),
    onnx.Max: _many(np.maximum),
    onnx.MaxPool: _with_op(spatial.max_pool),
    onnx.Min: _many(np.minimum),
    onnx.Mul: _plain(np.multiply),
    onnx.Neg: _plain(np.negative),
    onnx.Not: _plain(np.logical_not),
    onnx.Or: _plain(np.logical_or),
    onnx.Pad: _pad,
    onnx.Pow: _plain(np.power),
    onnx.QuantizeLinear: _quantize,
    onnx.Reciprocal: _plain(np.reciprocal),
    onnx.ReduceL2: _reduction(_l2),
    onnx.ReduceMax: _reduction(np.max),
    onnx.ReduceMean: _reduction(np.mean),
    onnx.ReduceMin: _reduction(np.min),
    onnx.ReduceSum: _reduction(np.sum),
    onnx.Relu: lambda op, args: np.maximum(args[0], 0),
    onnx.Reshape: _reshape,
    onnx.Resize: _with_op(spatial.resize),
    onnx.Sigmoid: _plain(_sigmoid),
    onnx.Slice: lambda op, args: args[0][op.slices()],
    onnx.Softmax: _softmax,
    onnx.Softplus: lambda op, args: np.logaddexp(args[0], 0),
    onnx.SpaceToDepth: _space_to_depth,
    onnx.Split: _split,
    onnx.Sqrt: _plain(np.sqrt),
    onnx.Squeeze: _reshape,
    onnx.Sub: _plain(np.subtract),
    onnx.Tanh: _plain(np.tanh),
    onnx.Tile: lambda op, args: np.tile(args[0], integers(op.repeats)),
    onnx.Transpose: lambda op, args: np.transpose(args[0], integers(op.perm)),
    onnx.Unsqueeze: _reshape,
    onnx.Where: _plain(np.where),
}


def evaluate(op: Operation, operands: Sequence[Array], assets: AssetStore) -> tuple[Array, ...]:
    """The results of an operation for operand values, with shapes and dtypes of its result types.

    `assets` holds the arrays of constants. Results may be views of operands: do not write to
    them. Raises VitError for an operation that is not of this dialect.
    """
    if isinstance(op, onnx.Constant):
        return (attribute_array(assets, op.value),)
    rule = _ROUTES.get(type(op))
    if rule is None:
        raise VitError(f"{op.name} is not an operation of the float graph")
    with np.errstate(all="ignore"):
        found = rule(op, operands)
    results = found if isinstance(found, tuple) else (found,)
    return tuple(
        np.asarray(array, dtype_of(element_of(result)))
        for array, result in zip(results, op.results, strict=True)
    )
