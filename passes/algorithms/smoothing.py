"""PoT-aware smoothing: per-channel powers of two moved from an activation into the next weight.

P2-ViT, models/vit_fquant.py and models/layers_quant.py (docs/numerics.md 9).  For an input channel ``c``
the activation is divided and the weight column multiplied by ``2**p_c``; both are exact, and when a
LayerNorm produces the activation its output shift absorbs the division at no cost.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vit_opt.passes.algorithms.exponents import covering_frac

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


ALPHAS = tuple(step / 20 for step in range(21))
"""Values of alpha that a search tries."""


Part: TypeAlias = tuple[RealInput, npt.NDArray[np.int64]]
"""Weights [N, K] of a layer, or of a group of a convolution, and the channel of each column [K]."""


def rounding_noise(
    x_max: RealInput, x_squares: RealInput, weights: Sequence[Part], exponents: RealInput
) -> float:
    """Expected noise of products after smoothing, relative to their results' energy.

    An input with maxima ``x_max`` [C] and mean squares ``x_squares`` [C] per channel goes into
    layers with weights [N, K] each.  The input takes 8 bits on the power of two that covers
    ``x_max / 2**p``; a weight row takes 8 bits on the one that covers ``w * 2**p``.  A step s adds
    s^2 / 12 to the mean square; channels are taken as independent.  Layers count alike.
    """
    factor = np.exp2(exponents.astype(np.float64))
    largest = float((x_max / factor).max(initial=0.0))
    step = 2.0 ** -covering_frac(-largest, largest, -128, 127)
    total = 0.0
    for weight, channels in weights:
        smoothed = weight.astype(np.float64) * factor[channels]
        rows = np.abs(smoothed).max(axis=1, initial=0.0)
        _, exponent = np.frexp(rows / 127.0)
        steps = np.where(rows > 0, np.exp2(exponent.astype(np.float64)), 0.0)
        squares = (x_squares / np.square(factor))[channels]
        signal = float((np.square(smoothed).sum(axis=0) * squares).sum())
        noise = step**2 * float(np.square(smoothed).sum())
        noise += float(np.square(steps).sum()) * float(squares.sum())
        total += noise / 12.0 / signal if signal > 0 else 0.0
    return total


def search_exponents(
    x_max: RealInput, x_squares: RealInput, weights: Sequence[Part]
) -> npt.NDArray[np.int64]:
    """`smoothing_exponents` with the alpha of `ALPHAS` that gives the least `rounding_noise`."""
    w_max = np.zeros(x_max.shape)
    for weight, channels in weights:
        np.maximum.at(w_max, channels, np.abs(weight).max(axis=0, initial=0.0))
    tried = [smoothing_exponents(x_max, w_max, alpha) for alpha in ALPHAS]
    noise = [rounding_noise(x_max, x_squares, weights, exponents) for exponents in tried]
    return tried[int(np.argmin(noise))]
