"""Elementwise functions: tables (the default) and the shift form of GELU.

A *table* holds a function of every 8-bit code, made once on the host in double precision and then
only integers (docs/numerics.md 18).  16-bit codes index a table of 257 knots, 256 codes apart, and
interpolate.  `shift_gelu` computes ``x * sigmoid(1.702 x)`` with shifts and one division
(docs/numerics.md 5).
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.arithmetic import (
    Int64,
    Ints,
    as_int64,
    round_shift,
)
from vit_opt.dialects.vit.semantics.softmax import SUM_MAX, exp_shift, step_of

Reals = npt.NDArray[np.float64]
RealFunction = Callable[[Reals], Reals]

_erf_each = np.vectorize(math.erf, otypes=[np.float64])


def erf(x: Reals) -> Reals:
    """The error function, through the C library, element by element (tables are small)."""
    return np.asarray(_erf_each(x), dtype=np.float64)


def gelu(x: Reals) -> Reals:
    """``x * Phi(x)`` with the error function, as BERT and ViT define it."""
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def gelu_tanh(x: Reals) -> Reals:
    """The tanh approximation of GELU (``approximate = "tanh"``)."""
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: Reals) -> Reals:
    """``1 / (1 + exp(-x))``, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def hard_sigmoid(x: Reals) -> Reals:
    """``clip(x/6 + 1/2, 0, 1)``, the factor of Hardswish."""
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


FUNCTIONS: dict[str, RealFunction] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "sigmoid": sigmoid,
    "hardsigmoid": hard_sigmoid,
    "hardswish": lambda x: x * hard_sigmoid(x),
    "silu": lambda x: x * sigmoid(x),
    "tanh": np.tanh,
    "erf": erf,
    "exp": lambda x: np.exp(np.minimum(x, 700.0)),
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "softplus": lambda x: np.logaddexp(x, 0.0),
    "abs": np.abs,
    "neg": np.negative,
    "identity": lambda x: x,
}
"""The functions that tables are made of, by name."""


def _tabulate(
    codes: Int64, function: RealFunction, step_in: float, zp_in: int, step_out: float
) -> Reals:
    reals = function(np.asarray((codes - zp_in) * step_in, np.float64)) / step_out
    if not np.isfinite(reals).all():
        bad = float((codes[~np.isfinite(reals)][0] - zp_in) * step_in)
        raise VitError(f"table: the function has no finite value at {bad:g}; limit its input range")
    return np.floor(reals + 0.5).astype(np.float64)


def make_table(
    function: RealFunction,
    step_in: float,
    step_out: float,
    low_in: int,
    low: int,
    high: int,
    zp_in: int = 0,
    zp_out: int = 0,
) -> Int64:
    """256 results for the codes ``low_in .. low_in + 255`` of an 8-bit input.

    ``step_in`` and ``step_out`` are the real values of one code (``2.0**-frac``).
    ``t[i] = sat(floor(f((low_in + i - zp_in) * step_in) / step_out + 1/2) + zp_out)``.
    """
    codes = np.arange(low_in, low_in + 256, dtype=np.int64)
    reals = _tabulate(codes, function, step_in, zp_in, step_out)
    return np.clip(reals + zp_out, low, high).astype(np.int64)


def make_table16(
    function: RealFunction,
    step_in: float,
    step_out: float,
    low_in: int,
    low: int,
    high: int,
    zp_in: int = 0,
    zp_out: int = 0,
) -> Int64:
    """257 results at the codes ``low_in + 256 * j`` of a 16-bit input (the last one just outside).

    For a signed input ``low_in`` is -32768.  Parameters as in `make_table`.
    """
    codes = low_in + 256 * np.arange(257, dtype=np.int64)
    reals = _tabulate(codes, function, step_in, zp_in, step_out)
    return np.clip(reals + zp_out, low, high).astype(np.int64)


def lut(x: Ints, table: Ints, low_in: int) -> Int64:
    """``table[x - low_in]`` for an 8-bit code (`vit.lut` with 256 entries)."""
    return as_int64(table)[as_int64(x) - low_in]


def lut16(x: Ints, table: Ints, low_in: int) -> Int64:
    """Linear interpolation between 257 knots for a 16-bit code (`vit.lut` with 257 entries).

    With ``c = x - low_in``: ``y = t[c >> 8] + rhu((t[(c >> 8) + 1] - t[c >> 8]) * (c & 255), 8)``.
    """
    table = as_int64(table)
    position = as_int64(x) - low_in
    index = position >> 8
    below = table[index]
    return below + round_shift((table[index + 1] - below) * (position & 255), 8)


def shift_gelu(x: Ints, frac: int) -> Int64:
    """``x * sigmoid(1.702 x)`` with an 8-bit sigmoid; the result has ``frac + 7``.

    Works element by element: ``u = |x| * 2.453125`` by shifts and additions, ``E = exp(-u)`` in
    base 2 (`exp_shift`, n = 15), ``sigmoid = one / (one + E)`` with one division.  Error against
    GELU at most 0.031.  For ``frac < 0`` the argument is scaled to frac 0 first, which is exact.
    """
    x = as_int64(x)
    step = step_of(max(frac, 0))
    a = np.abs(x) << max(-frac, 0)
    u = 2 * a + (a >> 1) - (a >> 4) + (a >> 6)
    exponential = _power_of_two(u, step)
    one = step << 15
    factor = SUM_MAX // (one + exponential)
    numerator = np.where(x >= 0, one, exponential)
    return x * ((numerator * factor + (1 << 23)) >> 24)


def _power_of_two(u: Int64, step: int) -> Int64:
    """``step * 2**15 * 2**(-u / step)`` with a linear mantissa: `exp_shift` after its first line.

    ``u >= 0`` is already multiplied by log2(e).
    """
    e = step.bit_length() - 1
    u = np.minimum(u, 15 * step)
    octaves = u >> e
    return np.left_shift(2 * step - (u & (step - 1)), 15 - octaves) >> 1


def shift_gelu_ivit(
    x: Ints, step: int, n: int = 23, bits: int = 8, numerator: int = SUM_MAX
) -> Int64:
    """ShiftGELU as published (I-ViT, IntGELU): exponentials relative to the row maximum.

    x [..., C]; ``step = ceil(1 / (1.702 * scale))``; the result has scale ``scale * 2**-(bits-1)``.
    Loses its accuracy when the row maximum is large (docs/numerics.md 5): kept for conformance.
    """
    x = as_int64(x)
    largest = x.max(axis=-1, keepdims=True)
    exponential = exp_shift(x - largest, step, n)
    # The second term is unbounded for a negative maximum: limited first, the sum cannot wrap.
    total = exponential + np.minimum(exp_shift(-largest, step, n), SUM_MAX)
    factor = numerator // np.minimum(total, SUM_MAX)
    return x * ((exponential * factor) >> (32 - bits))


def shift_gelu_step(scale: float) -> int:
    """``ceil(1 / (1.702 * scale))`` in float32, the published number of steps per unit."""
    return int(-np.floor(np.float32(-1.0) / (np.float32(scale) * np.float32(1.702))))
