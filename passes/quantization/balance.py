"""Factors for the channels around linear attention.

With factors r for the channels of k, t / r for those of q (one t a head, as it cancels in the
quotient) and g for those of v, the state K^T V becomes r_c * g_e * KV[c, e], the sum of K r_c * Ks[c]
and the result g_e * y_e. State and sum are kept in 8 bits, on one grid for all heads, so r makes the
rows of all heads alike, and g the columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from vit_opt.passes.quantization.linear_attention import STATE_TOP, SUM_TOP
from vit_opt.passes.quantization.webs import AttentionChannels, Seen, Webs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals: TypeAlias = NDArray[np.float64]

BELOW = 4.0
"""Values below zero, which only other readers of q and k see, may be so much larger than those above
for their channel to be raised like the others."""

HIGHEST = 2.0**20
"""The quietest channels are raised by at most this factor."""


def attention_factors(
    webs: Webs, seen: Seen, attention: AttentionChannels, headroom: float
) -> Reals | None:
    """Factors [count] for the channels of one linear attention; None where they are not free.

    `headroom` is how far beyond what was seen state and sum may go before they saturate.
    """
    import numpy as np

    parts = (attention.q, attention.k, attention.v)
    channels = attention.channels
    state, total = seen.states[attention.op]
    if not webs.free(channels) or np.unique(channels).size < channels.size or not state.any():
        return None
    others = [each.channels for each in webs.attentions if each is not attention]
    if any(np.isin(channels, other).any() for other in others):  # shared keys, say
        return None
    (q, q_whole), (k, k_whole), (_, v) = (
        [seen.magnitude(webs, operand, rectified=sign)[part] for sign in (True, False)]
        for operand, part in zip(attention.op.operands, parts, strict=True)
    )
    g = inverse(v)
    columns = state * g[:, None, :]
    r = inverse(np.maximum(columns.max(axis=2) / columns.max(), total / total.max()))
    r = np.minimum(r, BELOW * (k * r).max() * inverse(k_whole))
    t = inverse(np.maximum(q / r, q_whole / r / BELOW).max(axis=1))[:, None]
    # Common factors are left: sum, state and q shall end where their codes do, and q and k be about
    # as large as v, with which they share grids on the way.
    factors = np.ones(webs.count)
    factors[attention.q] = t / r * filling(headroom, STATE_TOP) * nearest_power(v.max())
    r = r * filling(float((total * r).max()) * headroom, SUM_TOP)
    r = r * nearest_power(v.max() / (k_whole * r).max())
    g = g * filling(float((columns * r[:, :, None]).max()) * headroom, STATE_TOP)
    factors[attention.k], factors[attention.v] = r, g * nearest_power(v.max() / (v * g).max())
    return factors


def inverse(magnitudes: Reals) -> Reals:
    """1 / magnitudes, at most `HIGHEST` / the largest; where nothing was seen the middle of others."""
    import numpy as np

    used = magnitudes > 0
    found = 1 / np.where(used, np.maximum(magnitudes, magnitudes.max() / HIGHEST), 1.0)
    return np.where(used, found, np.median(found[used]) if used.any() else 1.0)


def filling(largest: float, top: int) -> float:
    """The factor of 1 to 2 that makes a magnitude end where codes to `top` do on a grid of 2^n."""
    mantissa = largest / top
    return 2.0 ** math.ceil(math.log2(mantissa)) / mantissa if largest > 0 else 1.0


def nearest_power(ratio: float) -> float:
    """The power of two nearest to a positive number."""
    return 2.0 ** round(math.log2(ratio)) if ratio > 0 and math.isfinite(ratio) else 1.0


__all__: Sequence[str] = ["attention_factors"]
