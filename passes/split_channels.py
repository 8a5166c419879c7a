"""Pass `split-channels`: a hidden layer with a few loud channels becomes two, each on its own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """Split Linear -> GELU -> Linear in two where that lowers the rounding noise of the hidden layer.

    The factor of a channel cannot be moved through GELU, so a few channels with large results
    force a coarse grid on all. The loud channels are computed apart, with a grid of their own, and
    the two products are added to the residual one after the other. The noise of the hidden codes in
    the output is estimated from the ranges of the channels and the weights that read them; layers
    whose estimate falls by less than `gain` dB stay whole. The function is unchanged but for the
    order of a sum; multiplications stay as many. Needs the statistics of `calibrate`.

        %h = onnx.Linear %x, %w1          %a = onnx.Linear %x, %w1[loud]    (and the same for others)
        %g = onnx.Gelu %h           ->    %g = onnx.Gelu %a
        %y = onnx.Linear %g, %w2          %y = onnx.Linear %g, %w2[:, loud]
        %s = onnx.Add %y, %r              %s = onnx.Add %y, (onnx.Add %z, %r)
    """

    name = "split-channels"

    gain: float = 6.0
    """Least improvement, in dB, for which a layer is split."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        require_stage(op, self.name, "calibrated")
        if self.gain < 0:
            raise VitError(f"split-channels: gain {self.gain:g} is negative")
        split_channels(op, Constants.of(ctx), self.gain)


def split_channels(module: ModuleOp, constants: Constants, gain: float = 6.0) -> int:
    """Split every hidden layer that qualifies; the number of them. See `SplitChannelsPass`."""
    done = 0
    for op in list(module.walk()):
        if isinstance(op, onnx.Gelu | onnx.HardSwish):
            hidden = _hidden(op, constants)
            loud = None if hidden is None else hidden.loud_channels(gain)
            if hidden is not None and loud is not None:
                hidden.split(loud)
                done += 1
    return done


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

    def loud_channels(self, gain: float) -> Ints | None:
        """The channels to compute apart, ascending; None if no choice of them gains enough.

        A channel on a grid of step s adds s^2 / 12 times the squared norm of the weights that read
        it to the output's noise; s is the range of the loudest channel of its part.
        """
        import numpy as np

        channels = self.after.channels
        span = np.maximum(channels.maximum, 0) - np.minimum(channels.minimum, 0)
        energy = np.square(self.array(self.second.w), dtype=np.float64).sum(axis=0)
        order = np.argsort(-span, kind="stable")
        span, energy = span[order], energy[order]
        before = float(span[0] ** 2 * energy.sum())
        best, count = before, 0
        for size in range(MULTIPLE, span.size - MULTIPLE + 1, MULTIPLE):
            noise = span[0] ** 2 * energy[:size].sum() + span[size] ** 2 * energy[size:].sum()
            if noise < best:
                best, count = float(noise), size
        if not count or before < best * 10 ** (gain / 10):
            return None
        return np.sort(order[:count])

    def split(self, loud: Ints) -> None:
        """Replace the layer by two."""
        import numpy as np

        others = np.setdiff1d(np.arange(shape_of(self.first.y)[-1]), loud)
        quiet = self.branch(others, "quiet", bias=False)
        small = self.residual.inputs[1 if self.residual.inputs[0] is self.second.y else 0]
        partial = onnx.Add.make(
            [quiet, small],
            [result_type(small, shape_of(self.residual.y))],
            node_name=f"{label(self.residual)}.quiet",
        )
        self.insert([partial])
        low, high = range_of(self.residual.y) or (0.0, 0.0)
        other = range_of(small) or (0.0, 0.0)
        set_range(partial.y, min(low, other[0]), max(high, other[1]))
        main = self.branch(loud, "loud", bias=True)
        self.residual.operands[0], self.residual.operands[1] = main, partial.y
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
        picked = ChannelRange(
            all_.minimum[channels], all_.maximum[channels], all_.squares[channels], all_.rows
        )
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
