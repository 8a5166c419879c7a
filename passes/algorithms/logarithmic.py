"""Values stored as powers of two: choosing the exponent.

Three published roundings of ``log2``, which differ in the threshold between ``2**k`` and
``2**(k+1)``: the geometric mean ``sqrt(2) * 2**k`` (rounding in the log domain: FQ-ViT's
Log2Quantizer, Trio-ViT's LogQuant), the upper power (Trio-ViT's LogQuantizer, in effect a ceiling),
and the arithmetic mean ``1.5 * 2**k`` (`smoothing.round_pot_linear`).
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

RealInput: TypeAlias = npt.NDArray[Any]
Int64: TypeAlias = npt.NDArray[np.int64]


def log2_codes(p: RealInput, bits: int = 4) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """FQ-ViT Log2Quantizer: probabilities -> (codes ``round(-log2 p)`` in 0..2**bits-1, is-zero).

    Float32 logarithm, half to even, as published.  A value below the last code counts as zero.
    """
    with np.errstate(divide="ignore"):
        exponent = np.rint(-np.log2(p.astype(np.float32)))
    zero = exponent >= 1 << bits
    return np.clip(exponent, 0, (1 << bits) - 1).astype(np.int64), zero


def log2_round(x: RealInput, low: int = -6, high: int = 9) -> Int64:
    """Trio-ViT LogQuant: ``round(log2 |x|)`` in the log domain, clipped; zero gives ``low``."""
    with np.errstate(divide="ignore"):
        exponent = np.rint(np.log2(np.abs(x.astype(np.float64))))
    return np.clip(exponent, low, high).astype(np.int64)


def log2_ceil(x: RealInput, low: int = -12, high: int = 11) -> Int64:
    """Trio-ViT LogQuantizer: ``ceil(log2 |x|)``, clipped; zero gives ``low``."""
    mantissa, exponent = np.frexp(np.abs(x.astype(np.float64)))
    ceiling = exponent.astype(np.int64) - (mantissa == 0.5)
    return np.clip(np.where(mantissa > 0, ceiling, low), low, high).astype(np.int64)
