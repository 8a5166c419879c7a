"""Pass `calibrate`: what values the float graph takes on real inputs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.context import Context
from xdsl.dialects.builtin import DenseArrayBase, ModuleOp, StringAttr, f64
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, Operation, OpResult, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore, assets_of, attribute_array
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import input_names, main_function, output_names, run_main
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage, set_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vit_opt.passes.algorithms.observers import ChannelHistogram, ChannelRange, Histogram
    from vit_opt.passes.algorithms.ranges import Observer
    from vit_opt.passes.algorithms.rounding import SecondMoments
    from vit_opt.passes.algorithms.windows import WindowMoments

    Array: TypeAlias = NDArray[Any]

RANGE = "vit.range"
"""Attribute of an operation: minimum and maximum of each result, [min0, max0, min1, ...]."""

INPUT_RANGES = "vit.input_ranges"
"""The same for the function's arguments, on the function."""

FLOAT_GRAPH = "float graph"
"""Key in the asset store's statistics: the float module as `quantize` found it."""

STATE = "vit.state"
"""Attribute of linear attention: the largest |K^T V| and the largest sum of K over the tokens."""

CLIP = "vit.clip"
"""Like `vit.range`, but what a format of 8 bits should cover: the choice of the observer."""

INPUT_CLIPS = "vit.input_clips"
"""The same for the function's arguments, on the function."""

MOMENTS = "vit.moments"
"""Attribute of a convolution: key of its windows' `ValueStatistics` in the asset store."""

STATISTICS = "vit.stats"
"""Attribute of an operation: key of its first result's `ValueStatistics` in the asset store."""


@dataclass
class ValueStatistics:
    """What is known of a value beyond its range."""

    channels: ChannelRange
    """Range per channel of the last dimension."""

    moments: SecondMoments | None = None
    """X^T X over the last dimension, for inputs of linear layers."""

    windows: WindowMoments | None = None
    """The same over the windows of a convolution, which has statistics of its own."""

    reach: NDArray[np.float64] | None = None
    """Largest magnitude per channel that the observer wants covered; None: all of it."""

    @property
    def magnitude(self) -> NDArray[np.float64]:
        """Largest magnitude per channel [C], without what the observer leaves out."""
        return self.channels.magnitude if self.reach is None else self.reach


@dataclass(frozen=True)
class CalibratePass(ModulePass):
    """Record the range of every value of the float graph over the calibration batches.

    Runs @main on each batch in the context's asset store and writes `vit.range` to every operation,
    `vit.state` to linear attention, and `vit.input_ranges` to the function; per-channel ranges, and
    the second moments of the inputs of linear layers, go to the store under the key in `vit.stats`,
    those of the windows of convolutions under the key in `vit.moments`. No value changes.

        %y = onnx.Gelu %x : ...
        %y = onnx.Gelu %x {vit.range = array<f64: -0.17, 3.2>, vit.stats = "gelu_4"} : ...
    """

    name = "calibrate"

    observer: str = "minmax"
    """What a format of 8 bits covers: "minmax" (everything seen), "percentile", "mse" or "entropy".
    Formats of 16 bits always cover everything."""

    fraction: float = 0.9999
    """Share of the values that "percentile" keeps, half of the rest is left out at each end."""

    power: float = 2.0
    """The exponent p of the mean |error|^p that "mse" makes smallest."""

    grid: str = "pot"
    """Scales that "mse" and "entropy" choose among: powers of two ("pot"), or any ("real")."""

    augment: str = "few"
    """Altered copies of images to calibrate on as well: "none", "flip" (left to right), "flips" (also
    upside down, and both), "crops" (four corners, enlarged), or "few": crops of fewer than 8 inputs."""

    moments: bool = True
    """Whether to gather the second moments that error-compensated weight rounding needs."""

    def __post_init__(self) -> None:
        self.chosen()
        copies_of(self.augment, 1)

    def chosen(self) -> Observer:
        """The observer that the options describe; raises VitError for values that make no sense."""
        from vit_opt.passes.algorithms.ranges import Observer

        try:
            return Observer(self.observer, self.fraction, self.power, self.grid)
        except ValueError as error:
            raise VitError(f"calibrate: {error}") from error

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        calibrate(op, assets_of(ctx), self.chosen(), augment=self.augment, moments=self.moments)


def calibrate(
    module: ModuleOp,
    store: AssetStore,
    observer: Observer | None = None,
    *,
    augment: str = "none",
    moments: bool = True,
) -> None:
    """Record ranges and statistics; see `CalibratePass`. `observer` None: everything seen.

    Raises VitError if there are no batches, or if a value is not finite on one of them.
    """
    from vit_opt.dialects.onnx.semantics import evaluate
    from vit_opt.passes.algorithms.copies import is_image

    require_stage(module, "calibrate", "float")
    if not store.batches:
        raise VitError("calibrate needs calibration data; give it with --calib")
    watch = _Watch(main_function(module), store, moments, observer)

    def run(op: Operation, args: Sequence[Array]) -> Sequence[Array]:
        if isinstance(op, onnx.LinearAttention):
            watch.state(op, args[1], args[2])
        if isinstance(op, onnx.Conv | onnx.ConvTranspose):
            watch.window(op, args[0])
        return evaluate(op, args, store)

    copies = copies_of(augment, len(store.batches))
    if not any(is_image(array) for array in store.batches[0].values()):
        copies = copies[:1]
    with progress_bar("calibrate", len(store.batches) * len(copies)) as advance:
        for batch in store.batches:
            for copy in copies:
                altered = {name: copy(array) for name, array in batch.items()}
                watch.inputs(altered)
                run_main(module, altered, run, watch.results)
                advance()
    watch.annotate()
    set_stage(module, "calibrated")


def copies_of(augment: str, inputs: int) -> Sequence[Callable[[Array], Array]]:
    """What makes the altered copies of an input, one of so many, the unaltered one first.

    Raises VitError for an unknown name.
    """
    from vit_opt.passes.algorithms.copies import AUGMENTS, FEW

    if augment == "few":
        augment = "crops" if inputs <= FEW else "none"
    if augment not in AUGMENTS:
        known = ", ".join((*AUGMENTS, "few"))
        raise VitError(f"calibrate: augment '{augment}' is not one of {known}")
    return AUGMENTS[augment]


@contextmanager
def progress_bar(what: str, count: int) -> Generator[Callable[[], None]]:
    """A bar on stderr, on a terminal only; call the value after each of `count` steps."""
    if not sys.stderr.isatty() or count < 2:
        yield lambda: None
        return
    from rich.console import Console
    from rich.errors import LiveError
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    try:
        bar.start()
    except LiveError:  # another display is already there
        yield lambda: None
        return
    task = bar.add_task(what, total=count)
    try:
        yield lambda: bar.advance(task)
    finally:
        bar.stop()


@dataclass
class _Watch:
    """Ranges by value while batches run."""

    func: FuncOp
    store: AssetStore
    moments: bool
    observer: Observer | None = None
    ranges: dict[SSAValue, tuple[float, float]] = field(
        default_factory=dict["SSAValue", "tuple[float, float]"]
    )
    statistics: dict[SSAValue, ValueStatistics] = field(
        default_factory=dict["SSAValue", "ValueStatistics"]
    )
    histograms: dict[SSAValue, Histogram] = field(default_factory=dict["SSAValue", "Histogram"])
    channels: dict[SSAValue, ChannelHistogram] = field(
        default_factory=dict["SSAValue", "ChannelHistogram"]
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

    windows: dict[Operation, WindowMoments | None] = field(
        default_factory=dict["Operation", "WindowMoments | None"]
    )

    def window(self, op: onnx.Conv | onnx.ConvTranspose, x: Array) -> None:
        """Add an input [B, C, H, W] of a convolution to the second moments of its windows."""
        from vit_opt.passes.quantization.windows import window_moments

        if not self.moments or x.dtype.kind != "f":
            return
        if op not in self.windows:
            self.windows[op] = window_moments(op)
        found = self.windows[op]
        if found is not None:
            found.update(x.transpose(0, 2, 3, 1))

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

    @property
    def clips(self) -> bool:
        """Whether the observer may leave something out, and needs histograms for that."""
        return self.observer is not None and self.observer.kind != "minmax"

    def value(self, value: SSAValue, array: Array, what: str) -> None:
        """Widen the range of a value."""
        import numpy as np

        from vit_opt.passes.algorithms.observers import Histogram

        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise VitError(f"{what}: calibration gives a value that is not finite; check the data")
        check_range(low, high, what)
        before = self.ranges.get(value, (low, high))
        self.ranges[value] = min(low, before[0]), max(high, before[1])
        if self.clips:
            self.histograms.setdefault(value, Histogram()).update(array)
        if array.ndim:
            self.detail(value, array)

    def detail(self, value: SSAValue, array: Array) -> None:
        """Widen per-channel ranges, add to second moments where they are wanted."""
        from vit_opt.passes.algorithms.observers import ChannelHistogram, ChannelRange
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
        if self.clips:
            if value not in self.channels:
                self.channels[value] = ChannelHistogram.empty(array.shape[-1])
            self.channels[value].update(array)
        if statistics.moments is not None:
            statistics.moments.update(array)

    def annotate(self) -> None:
        """Write what was seen into the IR and the store."""
        from vit_opt.passes.algorithms.observers import ChannelRange

        check_constants_and_outputs(self.func, self.store, self.ranges)
        self.settle()
        self.func.attributes[INPUT_RANGES] = self.bounds(self.func.args, self.ranges)
        clips = {v: self.clip(seen) for v, seen in self.histograms.items()}
        if clips:
            self.func.attributes[INPUT_CLIPS] = self.bounds(self.func.args, clips)
        for index, op in enumerate(self.func.walk()):
            if any(result in self.ranges for result in op.results):
                op.attributes[RANGE] = self.bounds(op.results, self.ranges)
            if any(result in clips for result in op.results):
                op.attributes[CLIP] = self.bounds(op.results, clips)
            if (windows := self.windows.get(op)) is not None:
                key = f"windows_{index}"
                op.attributes[MOMENTS] = StringAttr(key)
                empty = ChannelRange.empty(0)
                self.store.statistics[key] = ValueStatistics(empty, windows=windows)
            if op in self.states:
                op.attributes[STATE] = _numbers(self.states[op])
            if op.results and op.results[0] in self.statistics:
                key = f"{op.name.rpartition('.')[2].lower()}_{index}"
                op.attributes[STATISTICS] = StringAttr(key)
                self.store.statistics[key] = self.statistics[op.results[0]]

    def settle(self) -> None:
        """The observer's choice for every channel."""
        import numpy as np

        for value, seen in self.channels.items():
            assert self.observer is not None
            low, high = self.observer.channel_ranges(seen)
            self.statistics[value].reach = np.maximum(-low, high)

    def clip(self, seen: Histogram) -> tuple[float, float]:
        """The observer's choice for a value."""
        assert self.observer is not None
        return self.observer.range(seen)

    @staticmethod
    def bounds(
        values: Sequence[SSAValue], found: Mapping[SSAValue, tuple[float, float]]
    ) -> DenseArrayBase[Any]:
        """Both ends for each of some values, one after the other."""
        return _numbers([bound for value in values for bound in found.get(value, (0.0, 0.0))])


LARGEST_VALUE = 2.0**37
"""Larger values have no format of 8 bits: grids end at 2^30."""

SMALLEST_OUTPUT = 2.0**-24
"""An output whose values are all smaller would be zero: grids end at 2^-30."""


def check_range(low: float, high: float, what: str) -> None:
    """Raise VitError for a range that is too large for any format."""
    if max(-low, high) > LARGEST_VALUE:
        raise VitError(
            f"{what}: values up to {max(-low, high):.3g} cannot be represented by integers (at "
            f"most 2^37); scale the model's weights or inputs"
        )


def check_constants_and_outputs(
    func: FuncOp, store: AssetStore, ranges: Mapping[SSAValue, tuple[float, float]]
) -> None:
    """Raise VitError for weights and outputs that no format can represent."""
    for op in func.walk():
        if isinstance(op, onnx.Constant):
            array = attribute_array(store, op.value)
            if array.dtype.kind == "f" and array.size:
                check_range(float(array.min()), float(array.max()), f"weight {op.label}")
    last = func.body.block.last_op
    returned = () if last is None else last.operands
    for name, value in zip(output_names(func), returned, strict=True):
        low, high = ranges.get(value, (0.0, 0.0))
        if 0 < max(-low, high) < SMALLEST_OUTPUT:
            raise VitError(
                f"output {name}: values of at most {max(-low, high):.3g} cannot be represented by "
                f"integers (from 2^-24 on); scale the model's weights or inputs"
            )


def _numbers(values: Sequence[float]) -> DenseArrayBase[Any]:
    return DenseArrayBase.from_list(f64, list(values))


def state_of(op: onnx.LinearAttention) -> tuple[float, float] | None:
    """The largest |K^T V| and sum of K that were recorded, None where nothing was."""
    attribute = op.attributes.get(STATE)
    if not isinstance(attribute, DenseArrayBase):
        return None
    state, total = cast("DenseArrayBase[Any]", attribute).get_values()
    return float(state), float(total)


def _bounds_of(value: SSAValue, name: str, input_name: str) -> tuple[float, float] | None:
    if isinstance(value, OpResult):
        index, attribute = value.index, value.op.attributes.get(name)
    else:
        argument = cast("BlockArgument", value)
        func = argument.block.parent_op()
        assert func is not None
        index, attribute = argument.index, func.attributes.get(input_name)
    if not isinstance(attribute, DenseArrayBase):
        return None
    numbers = cast("tuple[float, ...]", cast("DenseArrayBase[Any]", attribute).get_values())
    return numbers[2 * index], numbers[2 * index + 1]


def range_of(value: SSAValue) -> tuple[float, float] | None:
    """The recorded range of a float value, None where nothing was recorded."""
    return _bounds_of(value, RANGE, INPUT_RANGES)


def clip_of(value: SSAValue) -> tuple[float, float] | None:
    """What 8 bits should cover of a float value: the observer's choice, else the whole range."""
    found = _bounds_of(value, CLIP, INPUT_CLIPS)
    return range_of(value) if found is None else found


def set_range(value: OpResult, low: float, high: float) -> None:
    """Replace the recorded range of an operation's only result; its clipped part scales along."""
    before, clip = range_of(value), clip_of(value)
    if CLIP in value.op.attributes and before is not None and clip is not None:
        ratios = (c / b if b else 1.0 for c, b in zip(clip, before, strict=True))
        shares = (min(max(ratio, 0.0), 1.0) for ratio in ratios)
        ends = [end * share for end, share in zip((low, high), shares, strict=True)]
        value.op.attributes[CLIP] = _numbers(ends)
    value.op.attributes[RANGE] = _numbers([low, high])


def set_clip(value: OpResult, low: float, high: float) -> None:
    """Say which part of the range of an operation's only result 8 bits should cover."""
    value.op.attributes[CLIP] = _numbers([low, high])


def statistics_of(value: SSAValue, store: AssetStore) -> ValueStatistics | None:
    """The recorded statistics of a float value, if any."""
    if not isinstance(value, OpResult):
        return None
    key = value.op.attributes.get(STATISTICS)
    return named_statistics(key.data, store) if isinstance(key, StringAttr) else None


def windows_of(op: Operation, store: AssetStore) -> WindowMoments | None:
    """The recorded second moments of a convolution's windows, if any."""
    key = op.attributes.get(MOMENTS)
    return named_statistics(key.data, store).windows if isinstance(key, StringAttr) else None


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
