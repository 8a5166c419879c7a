"""Pass `split-channels`: loud and quiet channels of a hidden layer each on a grid of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, OpResult, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx.base import shape_of
from vit_opt.passes.algorithms.observers import ChannelRange
from vit_opt.passes.calibrate import (
    STATISTICS,
    ValueStatistics,
    range_of,
    set_range,
    statistics_of,
)
from vit_opt.passes.float_graph import Constants, label, result_type
from vit_opt.passes.raise_linear import linear
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int64]
    Reals: TypeAlias = NDArray[np.float64]

MULTIPLE = 64
"""Both parts of a hidden layer have a multiple of so many channels: kernels like whole vectors."""


@dataclass(frozen=True)
class SplitChannelsPass(ModulePass):
    """Split Linear -> GELU -> Linear where that lowers the rounding noise of the hidden layer.

    The factor of a channel cannot be moved through GELU, so a few channels with large results
    force a coarse grid on all. The loud channels are computed apart, with a grid of their own, and
    the products are added to the residual one after the other. The noise of the hidden codes in
    the output is estimated from the ranges of the channels and the weights that read them; a split
    that lowers the estimate by less than `gain` dB is not made. The function is unchanged but for
    the order of a sum; multiplications stay as many. Needs the statistics of `calibrate`.

        %h = onnx.Linear %x, %w1          %a = onnx.Linear %x, %w1[loud]    (and the same for others)
        %g = onnx.Gelu %h           ->    %g = onnx.Gelu %a
        %y = onnx.Linear %g, %w2          %y = onnx.Linear %g, %w2[:, loud]
        %s = onnx.Add %y, %r              %s = onnx.Add %y, (onnx.Add %z, %r)
    """

    name = "split-channels"

    gain: float = 6.0
    """Least improvement, in dB, for which a layer is split (once more)."""

    parts: int = 2
    """Most parts of a layer."""

    def __post_init__(self) -> None:
        if not self.gain >= 0:
            raise VitError(f"split-channels: gain {self.gain:g} is not 0 or more")
        if self.parts < 1:
            raise VitError(f"split-channels: {self.parts} parts; expected 1 or more")

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        require_stage(op, self.name, "calibrated")
        split_channels(op, Constants.of(ctx), self.gain, self.parts)


def split_channels(
    module: ModuleOp, constants: Constants, gain: float = 6.0, parts: int = 2
) -> int:
    """Split every hidden layer that qualifies; the number of them. See `SplitChannelsPass`."""
    done = 0
    for op in list(module.walk()):
        if isinstance(op, onnx.Gelu | onnx.HardSwish):
            hidden = _hidden(op, constants)
            groups = [] if hidden is None else hidden.groups(gain, parts)
            if hidden is not None and len(groups) > 1:
                hidden.split(groups)
                done += 1
    return done


@dataclass(frozen=True)
class Cuts:
    """A division of channels, sorted by loudness, into parts."""

    starts: tuple[int, ...]
    """Where each part but the first starts."""

    noise: float
    """Sum over the parts of the largest squared range times the energy."""


def best_cuts(span: Reals, energy: Reals, parts: int) -> list[Cuts]:
    """The quietest divisions into 1, 2, ... parts of multiples of `MULTIPLE` channels.

    span [C], descending: range of each channel; energy [C]: squared norm of what reads it.
    """
    import numpy as np

    squares, sums = np.square(span), np.concatenate([[0.0], np.cumsum(energy)])

    def noise(start: int, stop: int) -> float:
        return float(squares[start] * (sums[stop] - sums[start]))

    ends = range(MULTIPLE, span.size + 1, MULTIPLE)
    stops = [*(end for end in ends if end < span.size), span.size]
    best = {stop: Cuts((), noise(0, stop)) for stop in stops}
    found = [best[span.size]]
    for _ in range(1, parts):
        longer: dict[int, Cuts] = {}
        for stop in stops:
            tried = [
                Cuts((*best[start].starts, start), best[start].noise + noise(start, stop))
                for start in stops
                if start < stop and start in best and stop - start >= MULTIPLE
            ]
            if tried:
                longer[stop] = min(tried, key=lambda cuts: cuts.noise)
        if span.size not in longer:
            break
        best = longer
        found.append(best[span.size])
    return found


@dataclass(frozen=True)
class _Hidden:
    """A hidden layer whose result goes into a residual sum and nowhere else."""

    first: onnx.Linear
    function: onnx.Gelu | onnx.HardSwish
    second: onnx.Linear
    residual: onnx.Add
    before: ValueStatistics
    after: ValueStatistics
    constants: Constants

    def array(self, value: SSAValue | None) -> Reals:
        """The constant behind an operand."""
        array = self.constants.array(value)
        assert array is not None
        return cast("Reals", array)

    def groups(self, gain: float, parts: int) -> list[Ints]:
        """The channels of each part, ascending, the loudest part first.

        A channel on a grid of step s adds s^2 / 12 times the squared norm of the weights that read
        it to the output's noise; s goes with the range of the loudest channel of its part.
        """
        import numpy as np

        channels = self.after.channels
        span = np.maximum(channels.maximum, 0) - np.minimum(channels.minimum, 0)
        energy = np.square(self.array(self.second.w), dtype=np.float64).sum(axis=0)
        order = np.argsort(-span, kind="stable")
        cuts = best_cuts(span[order], energy[order], parts)
        chosen = cuts[0]
        for before, after in pairwise(cuts):
            if before.noise < after.noise * 10 ** (gain / 10):
                break
            chosen = after
        return [np.sort(part) for part in np.split(order, chosen.starts)]

    def split(self, groups: Sequence[Ints]) -> None:
        """Replace the layer by several; the quietest is added to the residual first."""
        small = self.residual.inputs[1 if self.residual.inputs[0] is self.second.y else 0]
        low, high = range_of(self.residual.y) or (0.0, 0.0)
        names = ["loud", "quiet", *(f"quiet{number}" for number in range(2, len(groups)))]
        for channels, role in reversed(list(zip(groups, names, strict=True))[1:]):
            product = self.branch(channels, role, bias=False)
            other = range_of(small) or (0.0, 0.0)
            partial = onnx.Add.make(
                [product, small],
                [result_type(small, shape_of(self.residual.y))],
                node_name=f"{label(self.residual)}.{role}",
            )
            self.insert([partial])
            set_range(partial.y, min(low, other[0]), max(high, other[1]))
            small = partial.y
        main = self.branch(groups[0], "loud", bias=True)
        self.residual.operands[0], self.residual.operands[1] = main, small
        for op in (self.second, self.function, self.first):
            Rewriter.erase_op(op)

    def branch(self, channels: Ints, role: str, *, bias: bool) -> SSAValue:
        """The layer's output from some of the hidden channels."""
        first_bias = None if self.first.bias is None else self.array(self.first.bias)[channels]
        first = self.layer(
            self.first, self.first.x, self.array(self.first.w)[channels], first_bias, role
        )
        self.note(first, self.before, channels)
        function = self.function.clone()
        function.operands[0] = first
        shaped = result_type(self.function.y, shape_of(first))
        Rewriter.replace_value_with_new_type(function.y, shaped)
        function.attributes["node_name"] = StringAttr(f"{label(self.function)}.{role}")
        self.insert([function])
        self.note(function.y, self.after, channels)
        keep = bias and self.second.bias is not None
        second_bias = self.array(self.second.bias) if keep else None
        weight = self.array(self.second.w)[:, channels]
        return self.layer(self.second, function.y, weight, second_bias, role)

    def layer(
        self, old: onnx.Linear, x: SSAValue, weight: Reals, bias: Reals | None, role: str
    ) -> OpResult:
        """A linear layer with part of the weights of an old one."""
        name = f"{label(old)}.{role}"
        new = linear(x, weight, bias, self.constants, key=name, name=name)
        self.insert(new)
        return new[-1].results[0]

    def note(self, value: OpResult, statistics: ValueStatistics, channels: Ints) -> None:
        """Record the statistics of some of a value's channels for their own value."""

        all_, moments = statistics.channels, statistics.moments
        vectors = (all_.minimum, all_.maximum, all_.squares, all_.sums)
        picked = ChannelRange(*(vector[channels] for vector in vectors), rows=all_.rows)
        block = None if moments is None else moments.pick(channels)
        key = label(value.op)
        self.constants.store.statistics[key] = ValueStatistics(picked, block)
        value.op.attributes[STATISTICS] = StringAttr(key)
        set_range(value, float(picked.minimum.min()), float(picked.maximum.max()))

    def insert(self, operations: Sequence[Operation]) -> None:
        """Put operations before the residual sum."""
        for op in operations:
            Rewriter.insert_op(op, InsertPoint.before(self.residual))


def _hidden(function: onnx.Gelu | onnx.HardSwish, constants: Constants) -> _Hidden | None:
    """The hidden layer around a function, None where it is not of that form."""
    first, second = function.x.owner, _only_reader(function.y)
    if not isinstance(first, onnx.Linear) or not isinstance(second, onnx.Linear):
        return None
    residual = _only_reader(second.y)
    if _only_reader(first.y) is not function or not isinstance(residual, onnx.Add):
        return None
    if second.x is not function.y or shape_of(residual.y) != shape_of(second.y):
        return None
    if any(shape_of(value) != shape_of(residual.y) for value in residual.inputs):
        return None
    parameters = [first.w, second.w, *(b for b in (first.bias, second.bias) if b is not None)]
    if any(constants.array(value) is None for value in parameters):
        return None
    before, after = (statistics_of(value, constants.store) for value in (first.y, function.y))
    if before is None or after is None:
        return None
    return _Hidden(first, function, second, residual, before, after, constants)


def _only_reader(value: SSAValue) -> Operation | None:
    """The one operation that reads a value, once; None if there are others."""
    uses = list(value.uses)
    return uses[0].operation if len(uses) == 1 else None


__all__ = ["SplitChannelsPass", "split_channels"]
