"""The border of the model: real numbers to codes and back (`vit.quantize`, `vit.dequantize`).

``code = sat(round(x * 2**frac) + zp)`` and ``x = (code - zp) * 2**-frac``, evaluated in float64, in
which both are exact for float32 input up to the rounding itself.  Half values round up by default
(``floor(v + 1/2)``), as everywhere.  NaN and infinities are errors.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.arithmetic import Int64, Ints, Rounding, as_int64

Reals = npt.NDArray[np.float64]


def round_real(value: Reals, rounding: Rounding) -> Reals:
    """``value`` rounded to whole numbers; exact, unlike ``floor(value + 0.5)`` in float."""
    below = np.floor(value)
    if rounding == "rhu":
        return below + (value - below >= 0.5)
    if rounding == "rhe":
        return np.rint(value)
    if rounding == "floor":
        return below
    raise ValueError(f"unknown rounding '{rounding}'")


def quantize_scaled(
    x: npt.ArrayLike,
    scale: npt.ArrayLike,
    low: int,
    high: int,
    zero_point: Ints = 0,
    rounding: Rounding = "rhu",
) -> Int64:
    """Codes of real values for an arbitrary real ``scale`` (broadcasts: per channel)."""
    value = np.asarray(x, np.float64)
    if not np.isfinite(value).all():
        count = int((~np.isfinite(value)).sum())
        raise VitError(
            f"vit.quantize: {count} of {value.size} values are NaN or infinite; check the input"
        )
    zero = np.asarray(zero_point, np.float64)
    codes = round_real(np.asarray(value / np.asarray(scale, np.float64)), rounding)
    return np.clip(codes + zero, low, high).astype(np.int64)


def quantize(
    x: npt.ArrayLike,
    frac: Ints,
    low: int,
    high: int,
    zero_point: Ints = 0,
    rounding: Rounding = "rhu",
) -> Int64:
    """Codes of real values on the grid ``2**-frac`` (`vit.quantize`); ``frac`` broadcasts."""
    return quantize_scaled(x, pot_scale(frac), low, high, zero_point, rounding)


def checked_codes(name: str, codes: npt.NDArray[Any], low: int, high: int) -> npt.NDArray[Any]:
    """The codes of an input, given as such; VitError for another type or codes out of range."""
    if codes.dtype.kind not in "iu":
        raise VitError(f"input '{name}' has dtype {codes.dtype}, expected float or integer")
    if codes.size and (int(codes.min()) < low or int(codes.max()) > high):
        raise VitError(
            f"input '{name}' has codes {codes.min()} .. {codes.max()} outside of {low} .. {high} "
            f"(integers are taken as codes; give real values as floating point)"
        )
    return codes


def dequantize_scaled(
    codes: Ints, scale: npt.ArrayLike, zero_point: Ints = 0
) -> npt.NDArray[np.float32]:
    """``(code - zp) * scale`` rounded once, to float32."""
    value = (as_int64(codes) - as_int64(zero_point)) * np.asarray(scale, np.float64)
    return np.asarray(value).astype(np.float32)


def dequantize(codes: Ints, frac: Ints, zero_point: Ints = 0) -> npt.NDArray[np.float32]:
    """``(code - zp) * 2**-frac`` as float32 (`vit.dequantize`); exact below 24 bits."""
    return dequantize_scaled(codes, pot_scale(frac), zero_point)


def pot_scale(frac: Ints) -> Reals:
    """``2.0**-frac``, exactly."""
    return np.ldexp(np.float64(1.0), -as_int64(frac).astype(np.int32))
