"""Float semantics of operations on images: convolution, pooling, resampling.

Images are x[N, C, H, W]. Convolutions are matrix products over unfolded windows (im2col), so that
BLAS does the work; a window never makes a copy of the image larger than its output needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vit_opt.dialects.onnx.base import integer, integers, real
from vit_opt.dialects.onnx.contraction import Conv, ConvTranspose
from vit_opt.dialects.onnx.movement import Resize
from vit_opt.dialects.onnx.reduction import AveragePool, MaxPool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


def _padded(x: Array, pads: Sequence[int], value: float) -> Array:
    """x[N, C, H, W] with [top, left, bottom, right] rows and columns of a value around it."""
    if not any(pads):
        return x
    top, left, bottom, right = pads
    widths = ((0, 0), (0, 0), (top, bottom), (left, right))
    return np.pad(x, widths, constant_values=value)


def windows(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Array:
    """A view [N, C, OH, OW, kh, kw] of the windows of a padded image."""
    span = [(kernel[d] - 1) * dilations[d] + 1 for d in range(2)]
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def conv(op: Conv, x: Array, w: Array, bias: Array | None = None) -> Array:
    """2-D convolution as one matrix product per group; depthwise as a sum over taps."""
    padded = _padded(x, integers(op.pads), 0.0)
    view = windows(padded, w.shape[2:], integers(op.strides), integers(op.dilations))
    group = integer(op.group)
    batch, channels, height, width = view.shape[:4]
    if group == channels == w.shape[0]:
        y = np.zeros(view.shape[:4], np.result_type(x, w))
        for i, j in np.ndindex(*w.shape[2:]):
            y += view[..., i, j] * w[:, 0, i, j, None, None]
    else:
        columns = view.reshape(batch, group, channels // group, height, width, *w.shape[2:])
        columns = columns.transpose(0, 1, 2, 5, 6, 3, 4).reshape(batch, group, -1, height * width)
        y = np.matmul(w.reshape(group, w.shape[0] // group, -1), columns)
        y = y.reshape(batch, w.shape[0], height, width)
    return y if bias is None else y + bias[:, None, None]


def conv_transpose(op: ConvTranspose, x: Array, w: Array, bias: Array | None = None) -> Array:
    """2-D transposed convolution: every tap scatters a scaled copy of x into the result."""
    strides, pads, dilations = integers(op.strides), integers(op.pads), integers(op.dilations)
    group, extra = integer(op.group), integers(op.output_padding)
    batch, channels, height, width = x.shape
    out = w.shape[1]
    full = [
        strides[d] * (x.shape[2 + d] - 1) + (w.shape[2 + d] - 1) * dilations[d] + 1 + extra[d]
        for d in range(2)
    ]
    y = np.zeros((batch, group * out, *full), np.result_type(x, w))
    columns = x.reshape(batch, group, channels // group, -1)
    weights = w.reshape(group, channels // group, out, *w.shape[2:])
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            part = np.matmul(weights[..., i, j].transpose(0, 2, 1), columns)
            top, left = i * dilations[0], j * dilations[1]
            rows = slice(top, top + strides[0] * (height - 1) + 1, strides[0])
            cols = slice(left, left + strides[1] * (width - 1) + 1, strides[1])
            y[:, :, rows, cols] += part.reshape(batch, group * out, height, width)
    y = y[:, :, pads[0] : full[0] - pads[2], pads[1] : full[1] - pads[3]]
    return y if bias is None else y + bias[:, None, None]


def max_pool(op: MaxPool, x: Array) -> Array:
    """Maximum over windows; padding is minus infinity."""
    padded = _padded(x, integers(op.pads), -np.inf)
    kernel, strides = integers(op.kernel_shape), integers(op.strides)
    return windows(padded, kernel, strides, integers(op.dilations)).max(axis=(4, 5))


def average_pool(op: AveragePool, x: Array) -> Array:
    """Mean over windows, divided by the window size or by the pixels that are not padding."""
    pads, kernel = integers(op.pads), integers(op.kernel_shape)
    arguments = kernel, integers(op.strides), integers(op.dilations)
    total = windows(_padded(x, pads, 0.0), *arguments).sum(axis=(4, 5))
    if integer(op.count_include_pad) or not any(pads):
        return total / x.dtype.type(kernel[0] * kernel[1])
    ones = _padded(np.ones((1, 1, *x.shape[2:]), x.dtype), pads, 0.0)
    return total / windows(ones, *arguments).sum(axis=(4, 5))


def source_positions(size: int, result: int, scale: float, coordinates: str) -> NDArray[np.float64]:
    """Position in the source, in pixels, of each pixel of the result (ONNX Resize, v19).

    `coordinates` is the coordinate_transformation_mode; `scale` is result / source.
    """
    at = np.arange(result, dtype=np.float64)
    match coordinates:
        case "asymmetric":
            return at / scale
        case "align_corners":
            return at * ((size - 1) / (result - 1)) if result > 1 else np.zeros(1)
        case "pytorch_half_pixel" if result == 1:
            return np.zeros(1)
        case _:
            return (at + 0.5) / scale - 0.5


def _nearest(position: NDArray[np.float64], size: int, rounding: str) -> NDArray[np.int64]:
    match rounding:
        case "floor":
            index = np.floor(position)
        case "ceil":
            index = np.ceil(position)
        case "round_prefer_ceil":
            index = np.floor(position + 0.5)
        case _:
            index = np.ceil(position - 0.5)
    return np.clip(index, 0, size - 1).astype(np.int64)


def _interpolate(x: Array, position: NDArray[np.float64], axis: int) -> Array:
    size = x.shape[axis]
    clipped = np.clip(position, 0, size - 1)
    low = np.floor(clipped).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    weight = (clipped - low).astype(x.dtype).reshape(shape)
    return np.take(x, low, axis) * (1 - weight) + np.take(x, high, axis) * weight


def resize(op: Resize, x: Array) -> Array:
    """Separable nearest or linear resampling of the two image dimensions."""
    target = op.y.type.get_shape()
    for axis, given in ((2, op.scale_h), (3, op.scale_w)):
        size, wanted = x.shape[axis], target[axis]
        scale = wanted / size if given is None else real(given)
        position = source_positions(size, wanted, scale, op.coordinates.data)
        if op.mode.data == "nearest":
            x = np.take(x, _nearest(position, size, op.rounding.data), axis)
        else:
            x = _interpolate(x, position, axis)
    return x
