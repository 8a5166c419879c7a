"""Pass `migrate`: channels are shifted and scaled so that the products' inputs use their codes.

Trio-ViT treats the inputs of convolutions in two ways: *channel-wise migration* divides outlier
channels by factors that the (depthwise) weights take over, and *filter-wise shifting* subtracts each
channel's midpoint. Both cost nothing where another layer makes the channels and takes the other half;
the same holds between any two layers, which is cross-layer equalisation, and for shifts also behind
a LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.passes.algorithms.migration import channel_midpoints
from vit_opt.passes.calibrate import ValueStatistics, statistics_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.channels import copy_range, replace_operand, set_input_channels
from vit_opt.passes.quantization.equalization import equalizing_factors, joined
from vit_opt.passes.quantization.outliers import behind_function, split_outliers
from vit_opt.passes.quantization.shifting import shift_convolutions
from vit_opt.passes.quantization.webs import (
    Webs,
    is_depthwise,
    observe,
    scale_channels,
    webs_of,
)
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals: TypeAlias = NDArray[np.float64]

MAKERS = (onnx.Conv, onnx.ConvTranspose, onnx.Add)
"""Operations whose results have more than 8 bits: each reader requantises them as it likes."""


@dataclass(frozen=True)
class MigratePass(ModulePass):
    """Shift, scale and split off channels around convolutions, linear layers and LayerNorms.

    `shift`: the channels of a LayerNorm's result are centred. Their midpoints z = (max + min) / 2, or
    a share of them, go from its bias into those of the linear layers behind, which gain W z
    (filter-wise shifting). `centre`: the same between convolutions, with whole midpoints, where the
    second has no padding and that makes the range of all channels narrower. `equalize`: channels
    between two layers with nothing but ReLU, pooling and
    movement in between are scaled by powers of two where that lowers the rounding noise to be
    expected. `channels`: a depthwise convolution reads every channel on a power of two of its own
    (channel-wise migration): its accumulators have a scale per channel anyway. `split`: where a
    function lies between two convolutions and a few loud channels would drown the others, they go a
    way of their own. The function is unchanged but for rounding of floats. Only a split adds
    operations, and no multiplications. Needs the statistics of `calibrate`, and its batches.

        %n = onnx.LayerNormalization %x, %g, %b         %n = onnx.LayerNormalization %x, %g, %b - z
        %y = onnx.Linear %n, %w, %c              ->     %y = onnx.Linear %n, %w, %c + w z
    """

    name = "migrate"

    shift: bool = True
    """Centre the channels of LayerNorm results."""

    share: float = 0.5
    """Share of a midpoint that is taken off, 0 to 1. All of it makes the range smallest; but where
    values crowd at one end it leaves a large mean, which carries rounded weights into the result."""

    centre: bool = True
    """Centre the channels between convolutions without padding."""

    equalize: bool = True
    """Scale channels between layers."""

    channels: bool = True
    """Let depthwise convolutions read channels on powers of two of their own."""

    split: bool = True
    """Split off outlier channels between convolutions with a function in between."""

    headroom: float = 1.3
    """How far beyond its calibrated range a channel with a power of two of its own shall reach."""

    def __post_init__(self) -> None:
        if not 1.0 <= self.headroom < 16.0:
            raise VitError(f"migrate: headroom {self.headroom:g} is not from 1 to below 16")
        if not 0.0 <= self.share <= 1.0:
            raise VitError(f"migrate: share {self.share:g} is not between 0 and 1")

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        require_stage(op, self.name, "calibrated")
        constants = Constants.of(ctx)
        if self.shift:
            shift_norms(op, constants, self.share)
        if self.split:
            split_convolutions(op, constants)
        if self.centre:
            shift_convolutions(op, constants)
        if self.equalize or self.channels:
            headroom = self.headroom if self.channels else None
            scale_layers(op, constants, equalize=self.equalize, headroom=headroom)


def shift_norms(module: ModuleOp, constants: Constants, share: float = 0.5) -> int:
    """Centre the channels of LayerNorms; the number of them. See `MigratePass`."""
    norms = [op for op in module.walk() if isinstance(op, onnx.LayerNormalization)]
    return sum(_shift_norm(norm, constants, share) for norm in norms)


def _shift_norm(norm: onnx.LayerNormalization, constants: Constants, share: float) -> bool:
    statistics, bias = statistics_of(norm.y, constants.store), constants.array(norm.bias)
    readers = [use.operation for use in norm.y.uses]
    layers = [op for op in readers if isinstance(op, onnx.Linear) and op.x is norm.y]
    arrays = [(constants.array(op.w), constants.array(op.bias)) for op in layers]
    if statistics is None or bias is None or not layers or len(layers) < len(readers):
        return False
    channels = statistics.channels
    offset = share * channel_midpoints(channels.minimum, channels.maximum)
    if any(weight is None or own is None for weight, own in arrays) or not offset.any():
        return False
    replace_operand(norm, 2, bias - offset, constants)
    for layer, (weight, own) in zip(layers, arrays, strict=True):
        assert weight is not None and own is not None
        replace_operand(layer, 2, own + weight.astype("float64") @ offset, constants)
    _shift_statistics(statistics, offset)
    copy_range([norm.y], float(channels.minimum.min()), float(channels.maximum.max()))
    return True


def _shift_statistics(statistics: ValueStatistics, offset: Reals) -> None:
    """What is known of a value whose channels had an offset [C] taken off."""
    import numpy as np

    channels, before = statistics.channels, statistics.magnitude
    largest = channels.magnitude
    if statistics.moments is not None:
        statistics.moments.shift(offset, channels.sums)
    channels.minimum, channels.maximum = channels.minimum - offset, channels.maximum - offset
    squares = channels.squares - 2 * offset * channels.sums + channels.rows * np.square(offset)
    channels.squares = np.maximum(squares, 0)
    channels.sums = channels.sums - channels.rows * offset
    if statistics.reach is not None:  # the observer leaves out the same share
        share = before / np.where(largest > 0, largest, 1.0)
        statistics.reach = share * channels.magnitude


def split_convolutions(module: ModuleOp, constants: Constants) -> int:
    """Split off outlier channels behind functions; the number of convolutions split."""
    convolutions = [op for op in module.walk() if isinstance(op, onnx.Conv)]
    inputs = [op.x for op in convolutions if behind_function(op, constants)]
    if not inputs or not constants.store.batches:
        return 0
    seen = observe(module, Webs(constants), constants.store, inputs)
    return split_outliers(module, seen, constants)


def scale_layers(
    module: ModuleOp, constants: Constants, *, equalize: bool = True, headroom: float | None = 1.3
) -> int:
    """Scale channels and give depthwise convolutions' inputs their formats; how many of both.

    `headroom` None: no such formats. See `MigratePass`.
    """
    import numpy as np

    webs = webs_of(module, constants)
    apart = [op for op in module.walk() if isinstance(op, onnx.Conv) and reads_apart(op)]
    if headroom is None:
        apart, headroom = [], 1.0
    if not constants.store.batches or not (apart or (equalize and joined(webs))):
        return 0
    seen = observe(module, webs, constants.store, [op.x for op in apart])
    factors = equalizing_factors(webs, seen) if equalize else np.ones(webs.count)
    scale_channels(webs, seen, factors)
    for op in apart:
        scale = factors[webs.of(op.x)] * headroom
        low, high = np.asarray(seen.low[op.x] * scale), np.asarray(seen.high[op.x] * scale)
        set_input_channels(op, low.min(axis=(0, 2, 3)), high.max(axis=(0, 2, 3)))
    return int((factors != 1).sum()) + len(apart)


def reads_apart(op: onnx.Conv) -> bool:
    """Whether an operation is a depthwise convolution whose input is rounded for its readers alone."""
    if not is_depthwise(op):
        return False
    maker = op.x.owner
    if isinstance(maker, onnx.Relu):
        users = [use.operation for use in maker.y.uses]
        return all(is_depthwise(user) for user in users) and isinstance(maker.x.owner, MAKERS)
    return isinstance(maker, MAKERS)


__all__ = ["MigratePass", "scale_layers", "shift_norms"]
