"""Channel-wise migration and filter-wise shifting in front of convolutions (Trio-ViT).

quant/quant_layer.py (docs/numerics.md 12).  *Migration* divides outlier channels of an activation by a
factor that the (depthwise) weights take over.  *Shifting* subtracts each channel's midpoint, so that
an asymmetric channel uses all codes; the convolution's bias takes it back.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vit_opt.passes.algorithms.exponents import covering_fracs

Reals: TypeAlias = npt.NDArray[np.float64]
RealInput: TypeAlias = npt.NDArray[Any]

LARGEST_EXPONENT = 5
"""Migration never divides by more than 2**5."""

FINEST = 24
"""Channels with a power of two of their own are at most 2**24 times finer than the coarsest."""


def migration_reference(channel_max: RealInput, quantile: float) -> float:
    """What a channel's maximum is compared with: the larger of ``quantile`` and the mean maximum.

    ``quantile`` is the 0.99 quantile of all values of the tensor, over all channels.
    """
    return max(float(quantile), float(channel_max.astype(np.float64).mean()))


def migration_ratio(channel_max: RealInput, reference: float) -> Reals:
    """Published float factors [C]: ``max_c / reference`` clipped to 0.1 .. 64.

    The published code takes the signed maximum of each channel.  All ones without a reference.
    """
    if not reference > 0.0:
        return np.ones(channel_max.shape)
    return np.clip(channel_max.astype(np.float64) / reference, 0.1, 64.0)


def migration_exponents(channel_max: RealInput, reference: float) -> npt.NDArray[np.int64]:
    """Exponents ``p_c = clamp(round(log2(max_c / reference)), 0, 5)``: divide by ``2**p_c``.

    The producer's requantisation shift of the channel grows by ``p_c``, the consumer's per-channel
    weight frac falls by it: with per-channel depthwise weights no integer changes.
    """
    ratio = migration_ratio(channel_max, reference)
    return np.clip(np.rint(np.log2(ratio)), 0, LARGEST_EXPONENT).astype(np.int64)


def channel_midpoints(channel_min: RealInput, channel_max: RealInput) -> Reals:
    """``(max_c + min_c) / 2`` [C]: what filter-wise shifting subtracts from each channel."""
    return (channel_max.astype(np.float64) + channel_min.astype(np.float64)) / 2.0


def shifted_bias(
    weight: npt.NDArray[np.integer], offset: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """What subtracting ``offset`` [C] from the input codes takes from the accumulator, [O].

    weight OHWI [O, kh, kw, C/groups].  Add it to the bias: ``bias[o] += sum W[o, i, j, c] * z_c``.
    With zero padding the border must be padded with ``-z`` (in shifted codes) for this to be exact.
    """
    out_channels, _, _, per_group = weight.shape
    taps = weight.astype(np.int64).sum(axis=(1, 2))
    groups = offset.shape[0] // per_group
    grouped = taps.reshape(groups, out_channels // groups, per_group)
    seen = offset.astype(np.int64).reshape(groups, 1, per_group)
    return (grouped * seen).sum(axis=2).reshape(out_channels)


def migrated_fracs(minimum: RealInput, maximum: RealInput) -> npt.NDArray[np.int64]:
    """A frac for the 8-bit codes of each channel [C], at most `FINEST` above the least.

    Migration for a consumer with weights per channel: no channel has to stay on the grid of the
    others, so each has the power of two that covers its range.  Unsigned codes where no channel has
    negative values.
    """
    low, high = (0, 255) if (minimum >= 0).all() else (-128, 127)
    fracs = covering_fracs(minimum, maximum, low, high)
    return np.minimum(fracs, fracs.min() + FINEST)
