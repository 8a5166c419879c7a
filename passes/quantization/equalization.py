"""Factors between layers that channels join directly: cross-layer equalisation.

A convolution's or linear layer's output channels that reach another through nothing but ReLU, pooling
and data movement can be scaled there and back (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", 2019, section 4.1). The published factor makes the *weights* of
both sides alike. Here a weight has a scale for every output channel anyway, and what counts is how
the activation in between uses its one grid against what the factors do to the weights behind it.
That is the question smoothing asks of a LayerNorm's output, and it is answered in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import integer
from vit_opt.passes.algorithms.smoothing import Part, rounding_noise, search_exponents
from vit_opt.passes.quantization.webs import Layer, Seen, Webs, is_depthwise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int64]
    Reals: TypeAlias = NDArray[np.float64]

GAIN = 0.8
"""Channels are scaled where that leaves at most this share of the expected noise."""


def equalizing_factors(webs: Webs, seen: Seen) -> Reals:
    """Factors [count], powers of two, for the channels that layers read with weights in common.

    Depthwise convolutions take any factor without loss and have no say. Channels of linear attention
    are left to `balance`.
    """
    import numpy as np

    factors = np.ones(webs.count)
    for group in joined(webs):
        own, columns = np.unique(group[0][1], return_inverse=True)
        factors[own] = _group_factors(webs, seen, [layer for layer, _ in group], own, columns)
    return factors


def joined(webs: Webs) -> list[list[tuple[Layer, Ints]]]:
    """Layers that read the same free channels, which no others read; with these channels."""
    kept = webs.held.union(*(each.channels.tolist() for each in webs.attentions))
    groups: dict[bytes, list[tuple[Layer, Ints]]] = {}
    for layer, channels in webs.readers:
        if not is_depthwise(layer):
            groups.setdefault(channels.tobytes(), []).append((layer, channels))
    shared = Counter(c for group in groups.values() for c in set(group[0][1].tolist()))
    return [
        group
        for group in groups.values()
        if all(shared[c] == 1 and c not in kept for c in group[0][1].tolist())
    ]


def _group_factors(
    webs: Webs, seen: Seen, layers: Sequence[Layer], own: Ints, columns: Ints
) -> Reals:
    """Factors of the channels `own` that some layers read, `columns` being their order there."""
    import numpy as np

    x = layers[0].x
    magnitude = seen.magnitude(webs, x)[own]
    squares = seen.mean_squares(webs, x)[own]
    parts = [part for layer in layers for part in _weight_parts(webs, layer, columns)]
    exponents = search_exponents(magnitude, squares, parts)
    before = rounding_noise(magnitude, squares, parts, np.zeros_like(exponents))
    if rounding_noise(magnitude, squares, parts, exponents) > GAIN * before:
        return np.ones(own.size)
    return np.exp2(-exponents.astype(np.float64))


def _weight_parts(webs: Webs, layer: Layer, columns: Ints) -> list[Part]:
    """A layer's weights as matrices, one for each group, with the channel of each column."""
    weight = webs.constants.array(layer.w)
    assert weight is not None
    if isinstance(layer, onnx.Linear):
        return [(weight, columns)]
    if isinstance(layer, onnx.ConvTranspose):
        weight = weight.swapaxes(0, 1)
    groups = integer(layer.group)
    taps = weight.shape[2] * weight.shape[3]
    matrices = weight.reshape(groups, weight.shape[0] // groups, -1)
    read = columns.reshape(groups, -1).repeat(taps, axis=1)
    return list(zip(matrices, read, strict=True))


__all__ = ["equalizing_factors", "joined"]
