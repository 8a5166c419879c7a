"""Weights that are integers times powers of two already, as models quantised that way bring them.

Their grid is kept: a weight of such a model is stored as the model's own integers, and nothing is
rounded a second time. The grid is read off the values, so that it survives what raising does to a
weight (transposing, cutting into rows).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals = NDArray[np.float64]
    Ints = NDArray[np.int64]

BIAS_BITS = 30
"""Magnitude bits a bias may take of its 32-bit accumulator."""

MANTISSA = 24
"""Bits of a float32 mantissa."""


def given_fracs(
    rows: NDArray[Any], bias: NDArray[Any] | None, x_scale: float, bits: int = 8
) -> Ints | None:
    """For weights [N, K], the frac [N] of each row's grid; None if a row lies on none.

    A row lies on the grid 2^-frac if all its values are integers of `bits` bits times it. Of the
    grids that do, it is the coarsest on which the bias [N] is a multiple of x_scale * 2^-frac, and
    the finest if there is none. Rows of zeros get the finest frac of the others.
    """
    import numpy as np

    exact = rows.astype(np.float64)
    nonzero = np.abs(exact).max(axis=1) > 0
    if not nonzero.any():
        return None
    # An odd integer times 2^-f: halve each value's mantissa until it is odd.
    mantissas, exponents = np.frexp(exact)
    integers = np.rint(mantissas * 2.0**MANTISSA).astype(np.int64)
    lowest = integers & -integers  # the lowest bit set
    places = np.where(integers == 0, 0, np.log2(np.maximum(lowest, 1)).astype(np.int64))
    fracs = np.where(integers == 0, -(1 << 20), MANTISSA - exponents - places).max(axis=1)
    coarsest = np.where(nonzero, fracs, 0)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    codes = exact * np.exp2(coarsest)[:, None]
    if codes.min() < low or codes.max() > high:
        return None
    largest, smallest = codes.max(axis=1), codes.min(axis=1)
    chosen = coarsest.copy()
    for index in np.flatnonzero(nonzero).tolist():
        room = 0
        while largest[index] * 2 ** (room + 1) <= high and smallest[index] * 2 ** (room + 1) >= low:
            room += 1
        chosen[index] += _suiting(bias, index, x_scale, int(coarsest[index]), room)
    return np.where(nonzero, chosen, chosen[nonzero].max())


def given_scales(
    rows: NDArray[Any], bias: NDArray[Any] | None, x_scale: float, bits: int = 8
) -> Reals | None:
    """The scales of `given_fracs`; None also where a bias would leave its 32-bit accumulator."""
    import numpy as np

    fracs = given_fracs(rows, bias, x_scale, bits)
    if fracs is None:
        return None
    scales = np.exp2(-fracs.astype(np.float64))
    if bias is not None and (np.abs(bias) > scales * x_scale * 2.0**BIAS_BITS).any():
        return None
    return scales


def _suiting(bias: NDArray[Any] | None, index: int, x_scale: float, frac: int, room: int) -> int:
    """How much finer than `frac` a row's grid has to be for its bias, at most `room`."""
    if bias is None:
        return 0
    value = float(bias[index]) / x_scale * 2.0**frac
    for more in range(room + 1):
        if (value * 2.0**more).is_integer():
            return more
    return room


def kept_fracs(rows: NDArray[Any], scales: Reals, low: int, high: int) -> Ints | None:
    """The fracs of scales that are powers of two on which weights [N, K] lie exactly; else None."""
    import numpy as np

    mantissas, exponents = np.frexp(scales)
    if (mantissas != 0.5).any():
        return None
    fracs = 1 - exponents.astype(np.int64)
    codes = rows.astype(np.float64) * np.exp2(fracs).reshape(-1, 1)
    if (codes != np.rint(codes)).any() or codes.min() < low or codes.max() > high:
        return None
    return fracs
