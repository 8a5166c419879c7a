"""Means, average and maximum pooling on integers (docs/numerics.md 18).

An average is one rounded division of an exact sum: with ``s = frac_out - frac_in`` and N values,
``y = sat(round((sum << max(0, s)) / (N << max(0, -s))) + zp)``; the default rounding is half up.
Images are NHWC; ``shift = frac_in - frac_out = -s`` as everywhere in this package.
"""

import numpy as np

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.arithmetic import (
    INT64_MIN,
    Int64,
    Ints,
    Rounding,
    as_int64,
    check_product,
    magnitude,
    rounded_division,
    saturate_offset,
)
from vit_opt.dialects.vit.semantics.convolution import (
    Pads,
    Pair,
    output_size,
    pad_image,
    tap,
)


def divide_scaled(total: Int64, count: Ints, shift: Ints, rounding: Rounding) -> Int64:
    """``round(total / (count * 2**shift))`` for ``count > 0`` and a shift of either sign."""
    count, shift = as_int64(count), as_int64(shift)
    up, down = np.maximum(-shift, 0), np.maximum(shift, 0)
    check_product("average: sum", total, extra_bits=magnitude(up) + 1)
    check_product("average: divisor", count, extra_bits=magnitude(down) + 1)
    return rounded_division(np.left_shift(total, up), np.left_shift(count, down), rounding)


def mean(
    x: Ints,
    axes: tuple[int, ...],
    shift: Ints,
    low: int,
    high: int,
    zp_in: Ints = 0,
    zp_out: Ints = 0,
    keepdims: bool = False,
    rounding: Rounding = "rhu",
) -> Int64:
    """Mean over ``axes`` (`vit.mean`); ``shift`` and zero points broadcast against the result.

    A per-channel ``shift`` must not vary along a reduced axis.
    """
    x = as_int64(x)
    count = int(np.prod([x.shape[axis] for axis in axes]))
    if count == 0:
        raise VitError(f"vit.mean: no values along axes {axes} of {x.shape}")
    total = (x - as_int64(zp_in)).sum(axis=axes, keepdims=keepdims)
    return saturate_offset(divide_scaled(total, count, shift, rounding), zp_out, low, high)


def _window(shape: tuple[int, ...], kernel: Pair, strides: Pair, dilations: Pair) -> Pair:
    out = (
        output_size(shape[1], kernel[0], strides[0], 0, dilations[0]),
        output_size(shape[2], kernel[1], strides[1], 0, dilations[1]),
    )
    if min(out) < 1:
        raise VitError(f"pooling: kernel {kernel} does not fit the padded image {shape}")
    return out


def avg_pool2d(
    x: Ints,
    kernel: Pair,
    shift: Ints,
    low: int,
    high: int,
    strides: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    count_include_pad: bool = False,
    zp_in: Ints = 0,
    zp_out: Ints = 0,
    rounding: Rounding = "rhu",
) -> Int64:
    """Average pooling: x [B, H, W, C] -> [B, OH, OW, C] (`vit.avg_pool2d`).

    The divisor is the kernel size, or without ``count_include_pad`` the number of real pixels.
    """
    x = as_int64(x) - as_int64(zp_in)
    image = pad_image(x, pads, 0)
    real = pad_image(np.ones((1, *x.shape[1:3], 1), np.int64), pads, int(count_include_pad))
    out = _window(image.shape, kernel, strides, (1, 1))
    total = np.zeros((x.shape[0], *out, x.shape[3]), np.int64)
    count = np.zeros((1, *out, 1), np.int64)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            total += tap(image, (i, j), out, strides)
            count += tap(real, (i, j), out, strides)
    if not count.all():
        raise VitError(f"vit.avg_pool2d: a window of {kernel} lies in the padding {pads} only")
    return saturate_offset(divide_scaled(total, count, shift, rounding), zp_out, low, high)


def max_pool2d(
    x: Ints,
    kernel: Pair,
    strides: Pair = (1, 1),
    pads: Pads = (0, 0, 0, 0),
    dilations: Pair = (1, 1),
) -> Int64:
    """Maximum pooling on codes: x [B, H, W, C] -> [B, OH, OW, C]; padding never wins."""
    image = pad_image(as_int64(x), pads, INT64_MIN)
    out = _window(image.shape, kernel, strides, dilations)
    result = np.full((image.shape[0], *out, image.shape[3]), INT64_MIN, np.int64)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            pixels = tap(image, (i * dilations[0], j * dilations[1]), out, strides)
            np.maximum(result, pixels, out=result)
    if result.size and int(result.min()) == INT64_MIN:
        raise VitError(f"vit.max_pool2d: a window of {kernel} lies in the padding {pads} only")
    return result
