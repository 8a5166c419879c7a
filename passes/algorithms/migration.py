"""Channel-wise migration and filter-wise shifting in front of convolutions (Trio-ViT).

quant/quant_layer.py (NUMERICS 12).  *Migration* divides outlier channels of an activation by a
factor that the (depthwise) weights take over.  *Shifting* subtracts each channel's midpoint, so that
an asymmetric channel uses all codes; the convolution's bias takes it back.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Reals: TypeAlias = npt.NDArray[np.float64]
RealInput: TypeAlias = npt.NDArray[Any]

LARGEST_EXPONENT = 5
"""Migration never divides by more than 2**5."""


def migration_ratio(channel_max: RealInput) -> Reals:
    """Published float factors [C]: ``max_c / max(quantile_0.99, mean)`` clipped to 0.1 .. 64.

    ``channel_max`` [C] holds the channels' absolute maxima.  All ones if every channel is zero.
    """
    values = channel_max.astype(np.float64)
    reference = max(float(np.quantile(values, 0.99)), float(values.mean()))
    if reference == 0.0:
        return np.ones(values.shape)
    return np.clip(values / reference, 0.1, 64.0)


def migration_exponents(
    channel_max: RealInput, reference: float | None = None
) -> npt.NDArray[np.int64]:
    """Exponents ``p_c = clamp(round(log2 r_c), 0, 5)`` [C]: divide channel ``c`` by ``2**p_c``.

    ``r_c`` is the channel's maximum over ``reference``, by default the one of `migration_ratio`.
    The producer's requantisation shift of the channel grows by ``p_c``, the consumer's per-channel
    weight frac falls by it: with per-channel depthwise weights no integer changes.
    """
    values = channel_max.astype(np.float64)
    if reference is None:
        ratio = migration_ratio(values)
    else:
        ratio = values / reference if reference > 0 else np.ones(values.shape)
    safe = np.where(ratio > 0, ratio, 1.0)
    return np.clip(np.rint(np.log2(safe)), 0, LARGEST_EXPONENT).astype(np.int64)


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
