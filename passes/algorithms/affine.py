"""Arbitrary real scales with zero points: what a graph carries before pot-fold.

`symmetric_rows` is I-ViT's weight quantiser (models/quantization_utils/quant_modules.py), the rest
is Trio-ViT's UniformAffineQuantizer (quant/quant_layer.py): asymmetric, unsigned codes.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

RealInput: TypeAlias = npt.NDArray[Any]

SMALLEST_SCALE = 1e-8
"""Scale of a tensor without any range."""

SHRINK_STEPS = 80
"""Ranges tried by the mse method, each 1 % smaller than the one before."""


@dataclass(frozen=True)
class Affine:
    """A real scale and a zero point: ``real = (code - zero_point) * scale``."""

    scale: float
    zero_point: int

    def codes(self, x: RealInput, low: int, high: int) -> npt.NDArray[np.int64]:
        """Codes of ``x`` in ``low .. high``; float32 arithmetic, half to even, as published."""
        value = np.rint(x.astype(np.float32) / np.float32(self.scale))
        return np.clip(value.astype(np.float64) + self.zero_point, low, high).astype(np.int64)

    def reals(self, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Real values of codes, float32."""
        return ((codes - self.zero_point) * np.float32(self.scale)).astype(np.float32)


def symmetric_rows(
    weight: RealInput, bits: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """I-ViT: one scale ``max|w| / (2**(bits-1) - 1)`` per output row, codes half to even.

    weight [N, K] -> codes [N, K], scales [N].  A row of zeros has the scale `SMALLEST_SCALE`.
    """
    high = (1 << (bits - 1)) - 1
    largest = np.abs(weight.reshape(weight.shape[0], -1)).max(axis=1).astype(np.float32)
    scales = np.maximum(largest / np.float32(high), np.float32(SMALLEST_SCALE))
    column = scales.reshape(-1, *[1] * (weight.ndim - 1))
    codes = np.rint(weight.astype(np.float32) / column)
    return np.clip(codes, -high - 1, high).astype(np.int64), scales.astype(np.float32)


def affine_range(
    x: RealInput, bits: int, method: Literal["max", "max_scale", "mse"] = "max"
) -> Affine:
    """Scale and zero point of a tensor for unsigned codes of ``bits`` bits (Trio-ViT).

    ``max``: the range of the values and zero; ``max_scale``: that range times ``(bits + 2) / 8``;
    ``mse``: the best of 80 shrinking ranges by the mean of ``|error|**2.4`` (zero may lie outside).
    """
    if method == "mse":
        return _shrunk_range(x.astype(np.float32), bits)
    levels = (1 << bits) - 1
    minimum, maximum = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    if method == "max_scale":
        minimum, maximum = minimum * (bits + 2) / 8, maximum * (bits + 2) / 8
    scale = max((maximum - minimum) / levels, SMALLEST_SCALE)
    return Affine(float(np.float32(scale)), round(-minimum / scale))


def _shrunk_range(x: npt.NDArray[np.float32], bits: int) -> Affine:
    levels = (1 << bits) - 1
    best_error, best = np.inf, affine_range(x, bits, "max")
    for step in range(SHRINK_STEPS):
        factor = np.float32(1.0 - step * 0.01)
        minimum, maximum = x.min() * factor, x.max() * factor
        scale = np.float32((maximum - minimum) / np.float32(levels))
        if not scale > 0.0:
            continue
        candidate = Affine(float(scale), int(np.rint(-minimum / scale)))
        difference = x - candidate.reals(candidate.codes(x, 0, levels))
        error = float(np.mean(np.abs(difference).astype(np.float64) ** 2.4))
        if error < best_error:
            best_error, best = error, candidate
    return best
