"""Resizing NHWC images: nearest (exact) and bilinear with weights in Q.8 (docs/numerics.md 18).

Source positions follow ONNX Resize.  With ``x`` the output index, ``s = out/in`` (or the scale the
model states):

| coordinates | source position |
|---|---|
| half_pixel | ``(x + 1/2) / s - 1/2`` |
| pytorch_half_pixel | the same; 0 if the output has one pixel |
| asymmetric | ``x / s`` |
| align_corners | ``x * (in - 1) / (out - 1)``; 0 if the output has one pixel |

Positions are rational numbers, evaluated exactly, once per axis; the results are small integer
arrays that a backend can take over as constants.
"""

import math
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.arithmetic import (
    Int64,
    Ints,
    Rounding,
    as_int64,
    check_product,
    round_shift,
    saturate_offset,
)

Coordinates: TypeAlias = Literal["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
NearestMode: TypeAlias = Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]

WEIGHT_FRAC = 8
"""Fractional bits of one bilinear weight; a product of two has 16."""


def source_positions(
    size_in: int, size_out: int, coordinates: str, scale: float | None = None
) -> list[Fraction]:
    """Exact source position of every output index along one axis; ``scale`` defaults to out/in."""
    if size_in < 1 or size_out < 1:
        raise VitError(f"vit.resize: cannot resize {size_in} pixels to {size_out}")
    factor = Fraction(size_out, size_in) if scale is None else Fraction(scale)
    if coordinates in ("align_corners", "pytorch_half_pixel") and size_out == 1:
        return [Fraction(0)]
    if coordinates == "align_corners":
        step = Fraction(size_in - 1, size_out - 1)
        return [x * step for x in range(size_out)]
    if coordinates == "asymmetric":
        return [x / factor for x in range(size_out)]
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        half = Fraction(1, 2)
        return [(x + half) / factor - half for x in range(size_out)]
    raise VitError(
        f"vit.resize: unknown coordinate rule '{coordinates}'; "
        "known: half_pixel, pytorch_half_pixel, asymmetric, align_corners"
    )


def nearest_indices(
    size_in: int,
    size_out: int,
    coordinates: str,
    nearest_mode: str,
    scale: float | None = None,
) -> Int64:
    """Source index of every output index along one axis, clamped to the image."""
    half = Fraction(1, 2)
    indices: list[int] = []
    for position in source_positions(size_in, size_out, coordinates, scale):
        if nearest_mode == "round_prefer_floor":
            index = math.ceil(position - half)
        elif nearest_mode == "round_prefer_ceil":
            index = math.floor(position + half)
        elif nearest_mode == "floor":
            index = math.floor(position)
        elif nearest_mode == "ceil":
            index = math.ceil(position)
        else:
            raise VitError(f"vit.resize: unknown nearest mode '{nearest_mode}'")
        indices.append(min(max(index, 0), size_in - 1))
    return np.array(indices, np.int64)


def linear_taps(
    size_in: int, size_out: int, coordinates: str, scale: float | None = None
) -> tuple[Int64, Int64, Int64]:
    """Lower index, upper index and upper weight ``floor(256*t + 1/2)`` along one axis.

    The lower weight is 256 less the upper one.  Indices outside the image repeat its border.
    """
    lower: list[int] = []
    upper: list[int] = []
    weight: list[int] = []
    for position in source_positions(size_in, size_out, coordinates, scale):
        index = math.floor(position)
        lower.append(min(max(index, 0), size_in - 1))
        upper.append(min(max(index + 1, 0), size_in - 1))
        weight.append(math.floor((position - index) * (1 << WEIGHT_FRAC) + Fraction(1, 2)))
    return np.array(lower, np.int64), np.array(upper, np.int64), np.array(weight, np.int64)


def resize_nearest(
    x: Ints,
    size: tuple[int, int],
    coordinates: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    scales: tuple[float, float] | None = None,
) -> Int64:
    """x [B, H, W, C] -> [B, *size, C]; codes are copied, so the format does not change."""
    x = as_int64(x)
    scale_h, scale_w = scales or (None, None)
    rows = nearest_indices(x.shape[1], size[0], coordinates, nearest_mode, scale_h)
    columns = nearest_indices(x.shape[2], size[1], coordinates, nearest_mode, scale_w)
    return x[:, rows][:, :, columns]


def resize_linear(
    x: Ints,
    size: tuple[int, int],
    shift: Ints,
    low: int,
    high: int,
    coordinates: str = "half_pixel",
    scales: tuple[float, float] | None = None,
    zp_in: Ints = 0,
    zp_out: Ints = 0,
    rounding: Rounding = "rhu",
) -> Int64:
    """Bilinear: x [B, H, W, C] -> [B, *size, C], ``shift = frac_in - frac_out``.

    ``y = sat(round(sum wy*wx*(x - zp) / 2**(16 + shift)) + zp)``: one rounding for both axes.
    """
    x = as_int64(x) - as_int64(zp_in)
    check_product("vit.resize", x, extra_bits=2 * WEIGHT_FRAC + 2)
    scale_h, scale_w = scales or (None, None)
    one = 1 << WEIGHT_FRAC
    top, bottom, weight = linear_taps(x.shape[1], size[0], coordinates, scale_h)
    weight = weight[:, None, None]
    rows = x[:, top] * (one - weight) + x[:, bottom] * weight
    left, right, weight = linear_taps(x.shape[2], size[1], coordinates, scale_w)
    weight = weight[:, None]
    total = rows[:, :, left] * (one - weight) + rows[:, :, right] * weight
    y = round_shift(total, 2 * WEIGHT_FRAC + as_int64(shift), rounding)
    return saturate_offset(y, zp_out, low, high)
