"""Power-of-two factors (PTF): one base scale for a tensor, a factor 1, 2, 4 or 8 per channel.

FQ-ViT and P2-ViT, models/ptq/observer/ptf.py (docs/numerics.md 9).  An 8-bit residual stream whose channels
differ by an order of magnitude keeps one exponent per channel; LayerNorm aligns them by left shifts.
The published base is not a power of two; `ptf_fracs` is the form with powers of two throughout.
"""

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vit_opt.passes.algorithms.exponents import covering_frac

RealInput: TypeAlias = npt.NDArray[Any]

FACTORS = 4
"""Number of factors: 2**0 .. 2**3."""


def ptf_base(x: RealInput, low: int, high: int, variant: Literal["fq", "p2"]) -> tuple[float, int]:
    """Published base scale and zero point: the range over all codes, divided by 8; float32.

    The range is ``max - min`` with a zero point (FQ-ViT), or twice the absolute maximum without
    one (P2-ViT).
    """
    minimum, maximum = np.float32(x.min()), np.float32(x.max())
    asymmetric = variant == "fq"
    span = maximum - minimum if asymmetric else 2 * max(abs(minimum), abs(maximum))
    full = max(np.float32(span / np.float32(high - low)), np.finfo(np.float32).eps)
    zero_point = int(np.clip(low - np.rint(minimum / full), low, high)) if asymmetric else 0
    return float(full) / 2 ** (FACTORS - 1), zero_point


def ptf_exponents(
    x: RealInput, base: float, low: int, high: int, zero_point: int = 0
) -> npt.NDArray[np.int64]:
    """Exponent 0..3 of each channel: the first minimum of its squared error on ``base * 2**a``.

    x [..., C] -> [C].
    """
    flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
    errors: list[npt.NDArray[np.float64]] = []
    for a in range(FACTORS):
        scale = base * 2.0**a
        codes = np.clip(np.rint(flat / scale) + zero_point, low, high)
        errors.append(np.square((codes - zero_point) * scale - flat).sum(axis=0))
    return np.argmin(np.stack(errors), axis=0).astype(np.int64)


def ptf_fracs(x: RealInput, low: int, high: int) -> npt.NDArray[np.int64]:
    """Fracs [C] of a tensor [..., C], between the frac that covers it and 3 more.

    The base is a power of two: the covering frac of the whole tensor plus 3.
    """
    finest = covering_frac(float(x.min()), float(x.max()), low, high) + FACTORS - 1
    return finest - ptf_exponents(x, 2.0**-finest, low, high)
