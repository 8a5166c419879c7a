"""Pass `calibrate`: what values the float graph takes on real inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.context import Context
from xdsl.dialects.builtin import DenseArrayBase, ModuleOp, StringAttr, f64
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, Operation, OpResult, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore, assets_of
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import input_names, main_function, run_main
from vit_opt.passes.stage import require_stage, set_stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vit_opt.passes.algorithms.observers import ChannelRange
    from vit_opt.passes.algorithms.rounding import SecondMoments

    Array: TypeAlias = NDArray[Any]

RANGE = "vit.range"
"""Attribute of an operation: minimum and maximum of each result, [min0, max0, min1, ...]."""

INPUT_RANGES = "vit.input_ranges"
"""The same for the function's arguments, on the function."""

FLOAT_GRAPH = "float graph"
"""Key in the asset store's statistics: the float module as `quantize` found it."""

STATE = "vit.state"
"""Attribute of linear attention: the largest |K^T V| and the largest sum of K over the tokens."""

STATISTICS = "vit.stats"
"""Attribute of an operation: key of its first result's `ValueStatistics` in the asset store."""


@dataclass
class ValueStatistics:
    """What is known of a value beyond its range."""

    channels: ChannelRange
    """Range per channel of the last dimension."""

    moments: SecondMoments | None = None
    """X^T X over the last dimension, for inputs of linear layers."""


@dataclass(frozen=True)
class CalibratePass(ModulePass):
    """Record the range of every value of the float graph over the calibration batches.

    Runs @main on each batch in the context's asset store and writes `vit.range` to every operation,
    `vit.state` to linear attention, and `vit.input_ranges` to the function; per-channel ranges, and
    the second moments of the inputs of linear layers, go to the store under the key in `vit.stats`.
    No value changes.

        %y = onnx.Gelu %x : ...
        %y = onnx.Gelu %x {vit.range = array<f64: -0.17, 3.2>, vit.stats = "gelu_4"} : ...
    """

    name = "calibrate"

    moments: bool = True
    """Whether to gather the second moments that error-compensated weight rounding needs."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        calibrate(op, assets_of(ctx), moments=self.moments)


def calibrate(module: ModuleOp, store: AssetStore, *, moments: bool = True) -> None:
    """Record ranges and statistics; see `CalibratePass`.

    Raises VitError if there are no batches, or if a value is not finite on one of them.
    """
    from vit_opt.dialects.onnx.semantics import evaluate

    require_stage(module, "calibrate", "float")
    if not store.batches:
        raise VitError("calibrate needs calibration data; give it with --calib")
    observer = _Observer(main_function(module), store, moments)

    def run(op: Operation, args: Sequence[Array]) -> Sequence[Array]:
        if isinstance(op, onnx.LinearAttention):
            observer.state(op, args[1], args[2])
        return evaluate(op, args, store)

    for batch in store.batches:
        observer.inputs(batch)
        run_main(module, batch, run, observer.results)
    observer.annotate()
    set_stage(module, "calibrated")


@dataclass
class _Observer:
    """Ranges by value while batches run."""

    func: FuncOp
    store: AssetStore
    moments: bool
    ranges: dict[SSAValue, tuple[float, float]] = field(
        default_factory=dict["SSAValue", "tuple[float, float]"]
    )
    statistics: dict[SSAValue, ValueStatistics] = field(
        default_factory=dict["SSAValue", "ValueStatistics"]
    )

    states: dict[Operation, tuple[float, float]] = field(
        default_factory=dict["Operation", "tuple[float, float]"]
    )

    def state(self, op: onnx.LinearAttention, k: Array, v: Array) -> None:
        """Widen the range of what linear attention keeps of all tokens."""
        import numpy as np

        k = np.maximum(k, 0)
        before = self.states.get(op, (0.0, 0.0))
        largest = float(np.abs(np.swapaxes(k, -1, -2) @ v).max()), float(k.sum(axis=-2).max())
        self.states[op] = max(before[0], largest[0]), max(before[1], largest[1])

    def inputs(self, batch: dict[str, Array]) -> None:
        """Observe the model's inputs."""
        for name, argument in zip(input_names(self.func), self.func.args, strict=True):
            if name in batch:
                self.value(argument, batch[name], f"input {name}")

    def results(self, op: Operation, results: Sequence[Array]) -> None:
        """Observe the results of an operation."""
        if isinstance(op, onnx.Constant):
            return
        for value, array in zip(op.results, results, strict=True):
            if array.dtype.kind == "f":
                self.value(value, array, cast("onnx.OnnxOp", op).label)

    def value(self, value: SSAValue, array: Array, what: str) -> None:
        """Widen the range of a value."""
        import numpy as np

        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise VitError(f"{what}: calibration gives a value that is not finite; check the data")
        before = self.ranges.get(value, (low, high))
        self.ranges[value] = min(low, before[0]), max(high, before[1])
        if array.ndim:
            self.detail(value, array)

    def detail(self, value: SSAValue, array: Array) -> None:
        """Widen per-channel ranges, add to second moments where they are wanted."""
        from vit_opt.passes.algorithms.observers import ChannelRange
        from vit_opt.passes.algorithms.rounding import SecondMoments

        users = [use.operation for use in value.uses]
        feeds_linear = any(isinstance(u, onnx.Linear) and u.x is value for u in users)
        layers = (onnx.Linear, onnx.LayerNormalization)
        if not feeds_linear and not any(isinstance(op, layers) for op in (value.owner, *users)):
            return
        statistics = self.statistics.get(value)
        if statistics is None:
            channels = ChannelRange.empty(array.shape[-1])
            wanted = SecondMoments(array.shape[-1]) if self.moments and feeds_linear else None
            statistics = self.statistics[value] = ValueStatistics(channels, wanted)
        statistics.channels.update(array)
        if statistics.moments is not None:
            statistics.moments.update(array)

    def annotate(self) -> None:
        """Write what was seen into the IR and the store."""
        self.func.attributes[INPUT_RANGES] = _numbers(
            [bound for a in self.func.args for bound in self.ranges.get(a, (0.0, 0.0))]
        )
        for index, op in enumerate(self.func.walk()):
            if any(result in self.ranges for result in op.results):
                op.attributes[RANGE] = _numbers(
                    [bound for r in op.results for bound in self.ranges.get(r, (0.0, 0.0))]
                )
            if op in self.states:
                op.attributes[STATE] = _numbers(self.states[op])
            if op.results and op.results[0] in self.statistics:
                key = f"{op.name.rpartition('.')[2].lower()}_{index}"
                op.attributes[STATISTICS] = StringAttr(key)
                self.store.statistics[key] = self.statistics[op.results[0]]


def _numbers(values: Sequence[float]) -> DenseArrayBase[Any]:
    return DenseArrayBase.from_list(f64, list(values))


def state_of(op: onnx.LinearAttention) -> tuple[float, float] | None:
    """The largest |K^T V| and sum of K that were recorded, None where nothing was."""
    attribute = op.attributes.get(STATE)
    if not isinstance(attribute, DenseArrayBase):
        return None
    state, total = cast("DenseArrayBase[Any]", attribute).get_values()
    return float(state), float(total)


def range_of(value: SSAValue) -> tuple[float, float] | None:
    """The recorded range of a float value, None where nothing was recorded."""
    if isinstance(value, OpResult):
        index, attribute = value.index, value.op.attributes.get(RANGE)
    else:
        argument = cast("BlockArgument", value)
        func = argument.block.parent_op()
        assert func is not None
        index, attribute = argument.index, func.attributes.get(INPUT_RANGES)
    if not isinstance(attribute, DenseArrayBase):
        return None
    numbers = cast("tuple[float, ...]", cast("DenseArrayBase[Any]", attribute).get_values())
    return numbers[2 * index], numbers[2 * index + 1]


def set_range(value: OpResult, low: float, high: float) -> None:
    """Replace the recorded range of an operation's only result."""
    value.op.attributes[RANGE] = _numbers([low, high])


def statistics_of(value: SSAValue, store: AssetStore) -> ValueStatistics | None:
    """The recorded statistics of a float value, if any."""
    if not isinstance(value, OpResult):
        return None
    key = value.op.attributes.get(STATISTICS)
    return named_statistics(key.data, store) if isinstance(key, StringAttr) else None


def named_statistics(key: str, store: AssetStore) -> ValueStatistics:
    """The statistics under a key that the IR holds.

    Raises VitError if the store has none: they last from `calibrate` to the end of the same run.
    """
    found = store.statistics.get(key)
    if found is None:
        raise VitError(
            f"the statistics {key} of the calibration are not at hand: they are not written to "
            f"files; run the passes from calibrate on in one go"
        )
    return cast("ValueStatistics", found)
