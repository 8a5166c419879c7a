"""LayerNorm in integers over the last axis (docs/numerics.md 6).

`layernorm` is the standard form: sums in 64 bits, one exact square root and one division a row,
then a multiplication and shifts per element.  `layernorm_ivit` and `layernorm_ptf` are what I-ViT
and FQ-/P2-ViT published, for conformance only.
"""

import math

import numpy as np
import numpy.typing as npt

from vit_opt.dialects.vit.semantics.arithmetic import (
    Int64,
    Ints,
    Rounding,
    as_int64,
    bit_length,
    check_product,
    integer_sqrt,
    magnitude,
    round_shift,
    rounded_division,
    saturate_offset,
)
from vit_opt.dialects.vit.semantics.softmax import SUM_MAX

NORM_FRAC = 10
"""Fractional bits of the normalised value before gamma and beta."""

ROOT_FRAC = 6
"""Fractional bits of the square root of the variance sum."""


def row_scale(variance: Int64) -> Int64:
    """``max(1, isqrt(V << 12))``: C times the standard deviation with 6 fractional bits.

    Values below 2**52 are shifted in unsigned 64 bits; larger ones (wide PTF inputs) go through
    Python's integers, one call a row.
    """
    if magnitude(variance) < 1 << 52:
        root = integer_sqrt(np.left_shift(variance.astype(np.uint64), np.uint64(2 * ROOT_FRAC)))
    else:
        roots = [math.isqrt(int(v) << 2 * ROOT_FRAC) for v in variance.ravel()]
        root = np.array(roots, np.int64).reshape(variance.shape)
    return np.maximum(root, 1)


def normalise(x: Ints, eps_q: int = 0) -> Int64:
    """``(x - mean) / sd`` over the last axis with 10 fractional bits; 0 where the row is constant.

    ``V = C*sum(x^2) - sum(x)^2 + eps_q``, ``T = max(1, isqrt(V << 12))``, ``nb = blen(T)``,
    ``R = floor(2**(nb+16) / T)``, result ``rhu((C*x - sum(x)) * R, nb)``.
    """
    x = as_int64(x)
    channels = x.shape[-1]
    check_product("vit.layernorm: variance", channels, channels, x, x, extra_bits=1)
    first = x.sum(axis=-1, keepdims=True)
    second = np.square(x).sum(axis=-1, keepdims=True)
    root = row_scale(channels * second - np.square(first) + eps_q)
    bits = bit_length(root)
    reciprocal = np.left_shift(np.int64(1), bits + 16) // root
    centred = channels * x - first
    check_product("vit.layernorm: normalisation", centred, reciprocal)
    return round_shift(centred * reciprocal, bits)


def layernorm(
    x: Ints,
    gamma: Ints,
    beta: Ints,
    frac_gamma: Ints,
    frac_beta: Ints,
    frac_out: Ints,
    low: int,
    high: int,
    input_shift: Ints = 0,
    eps_q: int = 0,
    zp_in: Ints = 0,
    zp_out: Ints = 0,
    rounding: Rounding = "rhu",
) -> Int64:
    """Standard integer LayerNorm (`vit.layernorm`): x [..., C], gamma [C], beta [C].

    ``input_shift`` (scalar or [C], >= 0) aligns channels of different frac: ``max(frac) - frac_c``,
    the PTF exponents.  ``frac_out`` may differ per channel: the exponents of smoothing.
    ``eps_q = round(eps * C**2 * 2**(2*frac))`` with the frac after alignment.
    ``y = sat(round((N*gamma + (beta << (10 + fg - fb))) / 2**(10 + fg - fo)) + zp)``.
    """
    x = as_int64(x)
    if np.ndim(zp_in) or zp_in:
        x = x - as_int64(zp_in)
    if np.ndim(input_shift) or input_shift:
        x = np.left_shift(x, as_int64(input_shift))
    frac_gamma = as_int64(frac_gamma)
    norm = normalise(x, eps_q)
    beta_shift = as_int64(frac_beta) - frac_gamma - NORM_FRAC
    check_product("vit.layernorm: beta", beta, extra_bits=max(0, -int(beta_shift.min())) + 1)
    total = norm * as_int64(gamma) + round_shift(beta, beta_shift, rounding)
    y = round_shift(total, NORM_FRAC + frac_gamma - as_int64(frac_out), rounding)
    return saturate_offset(y, zp_out, low, high)


def layernorm_eps(eps: float, channels: int, frac: int) -> int:
    """``round(eps * C**2 * 2**(2*frac))``: the integer added to the variance sum."""
    return math.floor(math.ldexp(eps * channels * channels, 2 * frac) + 0.5)


def newton_sqrt_ivit(variance: Ints, iterations: int = 10) -> Int64:
    """I-ViT's square root: ``k <- (k + v // k) >> 1`` from 2**16, exactly 10 times.

    Not converged for ``v < 2**16``: up to 63 times too large for small ``v``.
    """
    v = as_int64(variance)
    k = np.full(v.shape, 1 << 16, np.int64)
    for _ in range(iterations):
        k = (k + v // k) >> 1
    return k


def layernorm_ivit(x: Ints, bias: Ints) -> Int64:
    """I-ViT's IntLayerNorm: x [..., C], ``bias = floor((beta/gamma) * 2**30 / sqrt(C))`` [C].

    The result has the per-channel real scale ``gamma * sqrt(C) / 2**30`` and up to 32 bits.
    """
    x = as_int64(x)
    mean = rounded_division(x.sum(axis=-1, keepdims=True), x.shape[-1], "rhe")
    y = x - mean
    root = newton_sqrt_ivit(np.square(y).sum(axis=-1, keepdims=True))
    return ((y * (SUM_MAX // root)) >> 1) + as_int64(bias)


def layernorm_ptf(
    x: Ints,
    input_shift: Ints,
    scale_in: float,
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    scale_out: npt.ArrayLike,
) -> Int64:
    """QIntLayerNorm as published (FQ-ViT, P2-ViT), in float64; the result is not saturated.

    x [..., C] with scale ``scale_in * 2**input_shift`` per channel; ``scale_out`` is a scalar or
    [C] (P2-ViT multiplies it by the smoothing factor of the next layer).  Only the last line,
    ``round((sign(A)*M*X + B) / 2**N)``, is integer arithmetic; M has 8 bits and is truncated.
    """
    wide = np.left_shift(as_int64(x), as_int64(input_shift)).astype(np.float64)
    gamma, beta = np.asarray(gamma, np.float64), np.asarray(beta, np.float64)
    scale_out = np.asarray(scale_out, np.float64)
    channels = wide.shape[-1]
    total = wide.sum(axis=-1, keepdims=True)
    squares = np.square(wide).sum(axis=-1, keepdims=True)
    mean = scale_in * total / channels
    deviation = scale_in / channels * np.sqrt(channels * squares - total * total)
    factor = scale_in / deviation * gamma / scale_out
    shift = np.clip(7 - np.floor(np.log2(np.abs(factor))), 0, 31)
    multiplier = np.clip(np.floor(np.abs(factor) * 2.0**shift), 0, 255)
    offset = np.rint((beta - mean / deviation * gamma) / scale_out * 2.0**shift)
    y = (np.sign(factor) * multiplier * wide + offset) / 2.0**shift
    return np.rint(y).astype(np.int64)
