"""PoT-aware smoothing: per-channel powers of two moved from an activation into the next weight.

P2-ViT, models/vit_fquant.py and models/layers_quant.py (docs/numerics.md 9).  For an input channel ``c``
the activation is divided and the weight column multiplied by ``2**p_c``; both are exact, and when a
LayerNorm produces the activation its output shift absorbs the division at no cost.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Reals: TypeAlias = npt.NDArray[np.float64]
RealInput: TypeAlias = npt.NDArray[Any]

EXPONENT_LIMIT = 15
"""Largest magnitude of an exponent; a channel beyond it is a defect of the statistics."""


def smoothing_ratio(x_max: RealInput, w_max: RealInput, alpha: float) -> Reals:
    """``x_c**alpha / w_c**(1 - alpha)`` from the absolute maxima [C] of activation and weight.

    1 where either maximum is zero: such a channel carries nothing to balance.  ``alpha = 0`` moves
    all difficulty to the activation, ``1`` to the weight.
    """
    x_max, w_max = x_max.astype(np.float64), w_max.astype(np.float64)
    used = (x_max > 0) & (w_max > 0)
    safe_x, safe_w = np.where(used, x_max, 1.0), np.where(used, w_max, 1.0)
    return np.where(used, safe_x**alpha / safe_w ** (1.0 - alpha), 1.0)


def round_pot_linear(ratio: RealInput) -> npt.NDArray[np.int64]:
    """Exponent of the power of two next to ``ratio > 0``, by the linear midpoint ``1.5 * 2**k``.

    Exactly at the midpoint the lower power is taken.
    """
    mantissa, exponent = np.frexp(ratio.astype(np.float64))
    return exponent.astype(np.int64) - 1 + (mantissa > 0.75)


def smoothing_exponents(
    x_max: RealInput, w_max: RealInput, alpha: float, limit: int = EXPONENT_LIMIT
) -> npt.NDArray[np.int64]:
    """The exponents ``p_c`` [C]: divide the activation, multiply the weight column, by ``2**p_c``."""
    return np.clip(round_pot_linear(smoothing_ratio(x_max, w_max, alpha)), -limit, limit)
