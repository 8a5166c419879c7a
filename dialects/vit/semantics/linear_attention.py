"""ReLU linear attention in integers (docs/numerics.md 12; Trio-ViT, EfficientViT's LiteMSA).

``out = Q (K^T V) / (Q sum_n K_n)`` for non-negative ``Q`` and ``K``: linear in the number of
tokens.  The state ``K^T V`` and the key sum are shifted to 8 bits once, with exponents chosen at
calibration; the fracs of Q and K cancel.  The divisor of each token is either replaced by a
16-bit reciprocal ("recip", the default) or rounded to a power of two ("pot", 13-14 dB).
"""

from typing import Literal, TypeAlias

import numpy as np

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.arithmetic import (
    Int64,
    Ints,
    Rounding,
    as_int64,
    bit_length,
    round_shift,
    saturate,
    saturate_offset,
)
from vit_opt.dialects.vit.semantics.linear import Operand, matmul
from vit_opt.dialects.vit.semantics.softmax import reciprocal

Divisor: TypeAlias = Literal["recip", "pot"]

SQRT2_Q31 = 0xB504F333
"""``floor(2**31 * sqrt(2))``: where log2 rounds up."""


def rounded_log2(x: Ints) -> Int64:
    """``round(log2 x)`` for ``1 <= x < 2**32``, rounded in the log domain, exactly.

    ``b = blen(x) - 1``, plus 1 if the mantissa ``x << (31 - b)`` exceeds ``2**31 * sqrt(2)``.
    """
    x = as_int64(x)
    b = bit_length(x) - 1
    return b + (np.left_shift(x, 31 - b) > SQRT2_Q31)


def linear_attention(
    q: Operand,
    k: Operand,
    v: Operand,
    kv_shift: int,
    ksum_shift: int,
    shift: Ints,
    low: int,
    high: int,
    divisor: Divisor = "recip",
    zp_out: Ints = 0,
    rounding: Rounding = "rhu",
    v_zp: int = 0,
) -> Int64:
    """q, k [..., N, d] with codes 0..127, v [..., N, D] -> [..., N, D] (`vit.linear_attn`).

    ``shift = frac_v - frac_out``.  ``KV = sat8(round(K^T V / 2**kv_shift))``,
    ``Ks = satu8(round(sum K / 2**ksum_shift))``, ``c = ksum_shift - kv_shift + shift``;
    recip: ``round(Q KV * R / 2**(nb + 15 + c))``, pot: ``round(Q KV / 2**(L + c))``.
    A token whose divisor ``Q Ks`` is 0 gives the real value 0.
    """
    for name, codes in (("q", q), ("k", k)):
        if codes.size and int(codes.min()) < 0:
            raise VitError(f"vit.linear_attn: {name} holds negative codes; apply ReLU before it")
    state = matmul(np.swapaxes(k, -1, -2), v, 0, v_zp)
    state = saturate(round_shift(state, kv_shift, rounding), -128, 127)
    key_sum = as_int64(k).sum(axis=-2)[..., None]
    key_sum = saturate(round_shift(key_sum, ksum_shift, rounding), 0, 255)
    numerator = matmul(q, state)
    denominator = matmul(q, key_sum)
    offset = ksum_shift - kv_shift + as_int64(shift)
    return divide_rows(numerator, denominator, offset, low, high, divisor, zp_out, rounding)


def divide_rows(
    numerator: Ints,
    denominator: Ints,
    shift: Ints,
    low: int,
    high: int,
    divisor: Divisor = "recip",
    zp_out: Ints = 0,
    rounding: Rounding = "rhu",
) -> Int64:
    """``numerator / (denominator * 2**shift)``: [..., D] by [..., 1], one divisor a row, >= 0.

    recip: ``round(num * R / 2**(nb + 15 + shift))`` with ``R = floor(2**(nb+15) / den)``; pot:
    ``round(num / 2**(L + shift))`` with ``L = rounded_log2(den)``; 0 where the divisor is 0.
    """
    numerator, denominator, shift = as_int64(numerator), as_int64(denominator), as_int64(shift)
    safe = np.maximum(denominator, 1)
    if divisor == "recip":
        factor, bits = reciprocal(safe, 15)
        y = round_shift(numerator * factor, bits + 15 + shift, rounding)
    elif divisor == "pot":
        y = round_shift(numerator, rounded_log2(safe) + shift, rounding)
    else:
        raise ValueError(f"unknown divisor '{divisor}'")
    return saturate_offset(np.where(denominator > 0, y, 0), zp_out, low, high)
