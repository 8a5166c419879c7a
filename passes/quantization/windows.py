"""The windows of the float graph's convolutions, as error-compensated rounding needs them."""

from __future__ import annotations

from typing import TypeAlias, cast

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import integer, integers, shape_of
from vit_opt.passes.algorithms.windows import Axis, WindowMoments

Convolution: TypeAlias = onnx.Conv | onnx.ConvTranspose


def window_moments(op: Convolution) -> WindowMoments | None:
    """Empty moments of a convolution's windows; None where they would be too large.

    A transposed convolution with groups or dilations is left out, too.
    """
    transposed = isinstance(op, onnx.ConvTranspose)
    groups, (_, channels, *sizes) = integer(op.group), shape_of(op.x)
    if transposed and groups > 1:
        return None
    kernel, outputs = shape_of(op.w)[2:], shape_of(op.y)[2:]
    strides, pads, dilations = (integers(v) for v in (op.strides, op.pads, op.dilations))
    if transposed and dilations != (1, 1):
        return None
    axes = cast(
        "tuple[Axis, Axis]",
        tuple(
            Axis(sizes[i], outputs[i], kernel[i], strides[i], pads[i], dilations[i], transposed)
            for i in (0, 1)
        ),
    )
    return (
        WindowMoments(axes, channels, groups) if WindowMoments.fit(axes, channels, groups) else None
    )
