"""A number format for a range of real values, with any scale or with a power of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.vit.attributes import (
    FixedType,
    QuantizedType,
    ScaledType,
    storage_of,
    storage_range,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals: TypeAlias = NDArray[np.float64]

ASYMMETRY = 0.5
"""A range whose smaller side is below this share of the larger one gets a zero point."""

ANY = 2.0
"""The same for ranges that all get a zero point."""

GAMMA_BITS = 12
"""Magnitude bits of LayerNorm weights: their product with a Q.10 value stays in 32 bits."""

BIAS_BITS = 30
"""Magnitude bits a bias may take of its 32-bit accumulator."""


def covering_type(
    low: float,
    high: float,
    bits: int,
    *,
    symmetric: bool,
    pot: bool,
    asymmetry: float = ASYMMETRY,
) -> QuantizedType:
    """The finest per-tensor format of 8 or 16 bits whose codes cover low .. high.

    A symmetric format is signed with zero point 0. Otherwise a range whose smaller side is below
    the share `asymmetry` of the larger one becomes unsigned with a zero point. `pot` asks for a
    power-of-two scale. Raises ValueError for a range that is not finite.
    """
    from vit_opt.passes.algorithms.exponents import covering_asymmetric, covering_frac

    low, high = min(low, 0.0), max(high, 0.0)
    one_sided = min(-low, high) < asymmetry * max(-low, high)
    if bits == 8 and one_sided and not symmetric:
        floor, ceiling = storage_range(storage_of("ui8"))
        if pot:
            return FixedType("ui8", *covering_asymmetric(low, high, floor, ceiling))
        scale = (high - low) / ceiling
        return ScaledType("ui8", scale, min(max(round(-low / scale), floor), ceiling))
    storage = f"i{bits}"
    floor, ceiling = storage_range(storage_of(storage))
    if pot:
        return FixedType(storage, covering_frac(low, high, floor, ceiling, limit=bits))
    magnitude = max(-low, high)
    return ScaledType(storage, magnitude / ceiling if magnitude else 2.0 ** (1 - bits))


def folded_type(type_: QuantizedType) -> FixedType:
    """The power-of-two format that covers what a format covers, with the same storage and axis."""
    from vit_opt.passes.algorithms.exponents import (
        covering_asymmetric,
        covering_frac,
        covering_fracs,
    )

    if isinstance(type_, FixedType):
        return type_
    floor, ceiling = type_.bounds
    zero, scales = type_.zero_point, type_.channel_scales()
    if type_.is_per_channel:
        largest = scales * ceiling
        fracs = covering_fracs(-largest, largest, floor, ceiling)
        return FixedType(type_.storage, fracs, zero, type_.channel_axis)
    low, high = (floor - zero) * float(scales), (ceiling - zero) * float(scales)
    if floor == 0 or zero:
        return FixedType(type_.storage, *covering_asymmetric(low, high, floor, ceiling))
    return FixedType(type_.storage, covering_frac(-high, high, floor, ceiling))


def weight_scales(
    weight: NDArray[Any], bias: NDArray[Any] | None, x_scale: float | Reals, bits: int = 8
) -> Reals:
    """Scales [N] of a weight [N, ...]: largest magnitude over 2^(bits-1) - 1.

    With 4 bits a smaller scale that clips is taken where its error is less. A row of zeros gets the
    scale of the largest row; a scale is raised where the bias, which is kept on the grid
    x_scale * scale, would leave its 32-bit accumulator.
    """
    import numpy as np

    from vit_opt.passes.algorithms.narrow import shrunk_scales

    top = (1 << (bits - 1)) - 1
    magnitude = np.abs(weight.reshape(weight.shape[0], -1)).max(axis=1).astype(np.float64)
    largest = float(magnitude.max())
    magnitude = np.where(magnitude > 0, magnitude, largest if largest > 0 else 1.0)
    scales = magnitude / top
    if bits == 4:
        scales = shrunk_scales(weight.reshape(weight.shape[0], -1), scales, -top - 1, top)
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias) / (x_scale * 2.0**BIAS_BITS))
    return scales


def layernorm_types(gamma: NDArray[Any], beta: NDArray[Any]) -> tuple[FixedType, FixedType]:
    """Formats of a LayerNorm's weight (i16, 12 bits used) and bias (i32), a frac per channel.

    The bias lies on the grid of the product, ten bits finer than the weight, wherever it fits.
    """
    import numpy as np

    from vit_opt.passes.algorithms.exponents import covering_fracs, limit_for_bias

    limit = (1 << GAMMA_BITS) - 1
    magnitude = np.abs(gamma).astype(np.float64)
    fracs = covering_fracs(-magnitude, magnitude, -limit, limit, limit=24)
    room = limit_for_bias(beta.astype(np.float64), 10)
    fracs = np.minimum(fracs, room)
    return FixedType("i16", fracs, axis=0), FixedType("i32", fracs + 10, axis=0)


def scaled_epsilon(epsilon: float, channels: int, scale: float) -> int:
    """LayerNorm's epsilon on the grid of C^2 times the variance: round(eps * C^2 / scale^2)."""
    return math.floor(epsilon * (channels / scale) ** 2 + 0.5)


def quantized_array(master: NDArray[Any], type_: QuantizedType) -> NDArray[Any]:
    """Real values rounded (half to even) to the codes of a format, in its dtype."""
    import numpy as np

    from vit_opt.dialects.assets import dtype_of

    scales = type_.channel_scales()
    if type_.channel_axis is not None:
        shape = [1] * master.ndim
        shape[type_.channel_axis] = -1
        scales = scales.reshape(shape)
    low, high = type_.bounds
    codes = np.rint(master / scales) + type_.zero_point
    return np.clip(codes, low, high).astype(dtype_of(type_.storage))


def power_exponent(value: float) -> int | None:
    """log2 of a positive power of two, None for any other number."""
    mantissa, exponent = math.frexp(value)
    return exponent - 1 if mantissa == 0.5 else None


def mean_type(x: QuantizedType, low: float, high: float, bits: int) -> QuantizedType:
    """A signed format for low .. high whose scale differs from that of x by a power of two."""
    ceiling = (1 << (bits - 1)) - 1
    scale = float(x.channel_scales())
    magnitude = max(-low, high)
    steps = math.ceil(math.log2(magnitude / (ceiling * scale))) if magnitude > 0 else 0
    if isinstance(x, FixedType):
        return FixedType(f"i{bits}", x.frac - steps)
    return ScaledType(f"i{bits}", scale * 2.0**steps)


__all__: Sequence[str] = [
    "covering_type",
    "folded_type",
    "layernorm_types",
    "mean_type",
    "power_exponent",
    "quantized_array",
    "scaled_epsilon",
    "weight_scales",
]
