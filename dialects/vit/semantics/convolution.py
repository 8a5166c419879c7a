"""Exact integer convolutions on NHWC images with OHWI weights.

``vit.conv2d``           ``acc[y, x, o] = sum (in[y*s + i*d - pad, ...] - zp) * w[o, i, j, c] + bias``
``vit.conv_transpose2d`` scatters instead: input pixel ``(y, x)`` adds ``(in - zp) * w[o, i, j]`` to
output pixel ``(y*s + i*d - pad_top, x*s + j*d - pad_left)``, as ONNX ConvTranspose does.

Padding stands for the real value 0, that is for the zero point.  With ``groups = g`` the output
channels of group ``k`` see the input channels of group ``k`` only.  Results are exact accumulators;
`linear.exact_type` picks the element type, from the magnitudes of the actual arrays.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.arithmetic import Int64, Ints, as_int64
from vit_opt.dialects.vit.semantics.linear import (
    Operand,
    absolute_sums,
    centred_magnitude,
    convert,
    exact_type,
)

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]
"""Top, left, bottom, right."""

Array = npt.NDArray[Any]
"""Integers held in float32, float64 or int64, whichever is exact and fastest."""

_COLUMN_ELEMENTS = 1 << 22
"""Elements of the unfolded image held at a time (16 MiB of float32)."""


def output_size(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    """Number of window positions: ``floor((size + pad - dilation*(kernel-1) - 1) / stride) + 1``.

    ``pad`` is the sum of both sides.
    """
    return (size + pad - dilation * (kernel - 1) - 1) // stride + 1


def pad_image(x: Array, pads: Pads, value: int) -> Array:
    """``x`` [B, H, W, C] with borders of ``value``."""
    top, left, bottom, right = pads
    if not any(pads):
        return x
    width = ((0, 0), (top, bottom), (left, right), (0, 0))
    return np.pad(x, width, constant_values=value)


def tap(x: Array, position: Pair, out: Pair, strides: Pair) -> Array:
    """The pixels of ``x`` [B, H, W, C] under one kernel tap, [B, out_h, out_w, C]; a view.

    ``position`` is the tap's offset in pixels (kernel index times dilation).
    """
    top, left = position
    bottom = top + (out[0] - 1) * strides[0] + 1
    right = left + (out[1] - 1) * strides[1] + 1
    return x[:, top : bottom : strides[0], left : right : strides[1], :]


def _weights(
    x: Operand, weight: Operand, x_zp: int, w_zp: Ints, groups: int
) -> tuple[Array, npt.DTypeLike]:
    """The weights less their zero point, and the element type, for a checked pair of operands."""
    out_channels, _, _, per_group = weight.shape
    if per_group * groups != x.shape[3] or out_channels % groups:
        raise VitError(
            f"convolution: {x.shape[3]} input channels, weights {weight.shape} and {groups} "
            "groups do not fit together"
        )
    w_zp = w_zp if isinstance(w_zp, int) else np.asarray(w_zp).reshape(-1, 1, 1, 1)
    exact = convert(weight, w_zp, np.float64)
    bound = centred_magnitude(x, x_zp) * absolute_sums(exact.reshape(out_channels, -1), 1)
    dtype = exact_type(bound)
    return exact.astype(dtype), dtype


def conv2d(
    x: Operand,
    weight: Operand,
    bias: Ints | None = None,
    strides: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    dilations: Pair = (1, 1),
    groups: int = 1,
    x_zp: int = 0,
    w_zp: Ints = 0,
) -> Int64:
    """x [B, H, W, C], weight [O, kh, kw, C/groups], bias [O] -> accumulators [B, OH, OW, O].

    ``w_zp`` is a scalar or one value per output channel.
    """
    values, dtype = _weights(x, weight, x_zp, w_zp, groups)
    kernel = (weight.shape[1], weight.shape[2])
    image = pad_image(convert(x, x_zp, dtype), pads, 0)
    out = (
        output_size(image.shape[1], kernel[0], strides[0], 0, dilations[0]),
        output_size(image.shape[2], kernel[1], strides[1], 0, dilations[1]),
    )
    if min(out) < 1:
        raise VitError(f"convolution: kernel {kernel} does not fit the padded image {image.shape}")
    if weight.shape[3] == 1 and groups > 1:
        acc = _depthwise(image, values, out, strides, dilations)
    else:
        acc = _grouped(image, values, out, strides, dilations, groups)
    result = acc.astype(np.int64)
    return result if bias is None else result + as_int64(bias)


def _depthwise(image: Array, weight: Array, out: Pair, strides: Pair, dilations: Pair) -> Array:
    """One input channel a group: accumulate the taps, [B, OH, OW, O]."""
    batch, _, _, channels = image.shape
    multiplier = weight.shape[0] // channels
    acc = np.zeros((batch, *out, channels, multiplier), image.dtype)
    taps = weight[..., 0].reshape(channels, multiplier, *weight.shape[1:3])
    for i in range(weight.shape[1]):
        for j in range(weight.shape[2]):
            pixels = tap(image, (i * dilations[0], j * dilations[1]), out, strides)
            acc += pixels[..., None] * taps[:, :, i, j]
    return acc.reshape(batch, *out, weight.shape[0])


def _grouped(
    image: Array, weight: Array, out: Pair, strides: Pair, dilations: Pair, groups: int
) -> Array:
    """Unfold the image a block of rows at a time and multiply, [B, OH, OW, O]."""
    batch, _, _, channels = image.shape
    out_channels, kernel_h, kernel_w, per_group = weight.shape
    depth = kernel_h * kernel_w * per_group
    # [groups, depth, O/groups], against columns [groups, pixels, depth].
    matrix = weight.reshape(groups, out_channels // groups, depth).transpose(0, 2, 1)
    result = np.empty((batch, *out, out_channels), image.dtype)
    rows = max(1, _COLUMN_ELEMENTS // max(1, batch * out[1] * kernel_h * kernel_w * channels))
    for first in range(0, out[0], rows):
        count = min(rows, out[0] - first)
        block = (count, out[1])
        columns = np.empty((groups, batch, *block, kernel_h, kernel_w, per_group), image.dtype)
        for i in range(kernel_h):
            for j in range(kernel_w):
                position = (first * strides[0] + i * dilations[0], j * dilations[1])
                pixels = tap(image, position, block, strides)
                split = pixels.reshape(batch, *block, groups, per_group)
                columns[..., i, j, :] = np.moveaxis(split, 3, 0)
        product = np.matmul(columns.reshape(groups, -1, depth), matrix)
        product = np.moveaxis(product, 0, 1).reshape(batch, *block, out_channels)
        result[:, first : first + count] = product
    return result


def conv_transpose2d(
    x: Operand,
    weight: Operand,
    bias: Ints | None = None,
    strides: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    dilations: Pair = (1, 1),
    output_padding: Pair = (0, 0),
    groups: int = 1,
    x_zp: int = 0,
    w_zp: Ints = 0,
) -> Int64:
    """x [B, H, W, C], weight [O, kh, kw, C/groups], bias [O] -> accumulators [B, OH, OW, O].

    ``OH = (H-1)*stride - top - bottom + dilation*(kh-1) + 1 + output_padding``.
    """
    values, dtype = _weights(x, weight, x_zp, w_zp, groups)
    batch, height, width, _ = x.shape
    out_channels, kernel_h, kernel_w, per_group = weight.shape
    size = (
        (height - 1) * strides[0] + dilations[0] * (kernel_h - 1) + 1 + output_padding[0],
        (width - 1) * strides[1] + dilations[1] * (kernel_w - 1) + 1 + output_padding[1],
    )
    # Several taps may meet in one output pixel, so the sum of all taps bounds it.
    full = np.zeros((batch, *size, out_channels), dtype)
    pixels = np.moveaxis(convert(x, x_zp, dtype).reshape(-1, groups, per_group), 1, 0)
    for i in range(kernel_h):
        for j in range(kernel_w):
            matrix = values[:, i, j].reshape(groups, -1, per_group).transpose(0, 2, 1)
            product = np.moveaxis(np.matmul(pixels, matrix), 0, 1)
            target = tap(full, (i * dilations[0], j * dilations[1]), (height, width), strides)
            target += product.reshape(batch, height, width, out_channels)
    bottom, right = size[0] - pads[2], size[1] - pads[3]
    if bottom <= pads[0] or right <= pads[1]:
        raise VitError(f"transposed convolution: padding {pads} leaves nothing of {size} pixels")
    result = full[:, pads[0] : bottom, pads[1] : right].astype(np.int64)
    return result if bias is None else result + as_int64(bias)
