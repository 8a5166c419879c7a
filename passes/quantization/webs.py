"""Channels that a factor can travel along: which layers make them and which take them back.

A layer's output channel may be multiplied by a factor if everything that reads it divides by it. In
between lie operations that pass a positive factor on: data movement, ReLU, pooling. `webs_of` numbers
all such channels of the float graph and notes at each layer which of them it makes and which it
reads; a channel that meets anything else (a sum, GELU, an output) is *held*: its factor is 1. A
depthwise convolution takes one factor back and makes another, so channels on its two sides are free
of each other. In linear attention queries, keys and values are channels of their own, and a value
channel goes on as a channel of the result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import DenseArrayBase, ModuleOp, f64
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, OpResult, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.evaluation import main_function, run_main
from vit_opt.dialects.onnx.base import integer, shape_of
from vit_opt.dialects.onnx.movement import SameElements
from vit_opt.passes.calibrate import (
    RANGE,
    STATE,
    set_range,
    state_of,
    statistics_of,
)
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.channels import (
    divide_statistics,
    divide_windows,
    input_channels,
    replace_operand,
    set_input_channels,
)
from vit_opt.passes.raise_attention import moved

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Ints: TypeAlias = NDArray[np.int64]
    Reals: TypeAlias = NDArray[np.float64]

Layer: TypeAlias = onnx.Linear | onnx.Conv | onnx.ConvTranspose

HELD = 0
"""The number of all channels whose factor is 1."""

POSITIVE = (
    onnx.Relu,
    onnx.Identity,
    onnx.MaxPool,
    onnx.AveragePool,
    onnx.GlobalAveragePool,
    onnx.GlobalMaxPool,
)
"""Operations on each channel by itself that pass a positive factor on."""


@dataclass(frozen=True)
class AttentionChannels:
    """The channels of one linear attention."""

    op: onnx.LinearAttention
    q: Ints
    """[heads, D]"""

    k: Ints
    """[heads, D]"""

    v: Ints
    """[heads, E]"""

    @property
    def channels(self) -> Ints:
        """All of them, one after the other."""
        import numpy as np

        return np.concatenate([part.ravel() for part in (self.q, self.k, self.v)])


@dataclass
class Webs:
    """Channel numbers of values, and the layers that make and read them."""

    constants: Constants
    numbers: dict[SSAValue, Ints] = field(default_factory=dict["SSAValue", "Ints"])
    """For each value the channel of each element, of size 1 along dimensions that do not matter."""

    makers: list[tuple[Layer, Ints]] = field(default_factory=list["tuple[Layer, Ints]"])
    """Layers and the channel of each of their outputs [N]."""

    readers: list[tuple[Layer, Ints]] = field(default_factory=list["tuple[Layer, Ints]"])
    """Layers and the channel of each of their inputs [C]."""

    attentions: list[AttentionChannels] = field(default_factory=list[AttentionChannels])
    held: set[int] = field(default_factory=lambda: {HELD})
    count: int = 1

    def of(self, value: SSAValue) -> Ints:
        """Channels of a value's elements."""
        import numpy as np

        unknown = np.zeros((1,) * len(shape_of(value)), np.int64)
        return self.numbers.get(value, unknown)

    def hold(self, value: SSAValue) -> None:
        """A value that something reads which passes no factor on."""
        self.held.update(self.of(value).ravel().tolist())

    def along(self, value: SSAValue, axis: int) -> Ints | None:
        """The channels along one dimension; None if they differ along others."""
        import numpy as np

        numbers, shape = self.of(value), shape_of(value)
        axis %= len(shape)
        if any(size != 1 for d, size in enumerate(numbers.shape) if d != axis):
            return None
        return np.broadcast_to(numbers.reshape(-1), (shape[axis],))

    def make(self, layer: Layer, axis: int) -> None:
        """Number the output channels of a layer."""
        import numpy as np

        parameters = [layer.w, *([] if layer.bias is None else [layer.bias])]
        if any(self.constants.array(value) is None for value in parameters):
            return
        shape = shape_of(layer.y)
        own = np.arange(self.count, self.count + shape[axis])
        self.count += own.size
        self.makers.append((layer, own))
        self.numbers[layer.y] = own.reshape(
            [-1 if d == axis % len(shape) else 1 for d in range(len(shape))]
        )

    def read(self, layer: Layer, axis: int) -> None:
        """Note which channels a layer reads."""
        channels = self.along(layer.x, axis)
        if channels is None or self.constants.array(layer.w) is None:
            self.hold(layer.x)
        else:
            self.readers.append((layer, channels))

    def layer(self, op: Layer) -> None:
        """A product with weights."""
        plain = not isinstance(op, onnx.ConvTranspose) or integer(op.group) == 1
        axis = -1 if isinstance(op, onnx.Linear) else 1
        if plain:
            self.read(op, axis)
            self.make(op, axis)
        else:
            self.hold(op.x)

    def attention(self, op: onnx.LinearAttention) -> None:
        """Linear attention, with channels that are the same for all tokens."""
        import numpy as np

        found: list[Ints] = []
        for value in op.operands:
            numbers, shape = self.of(value), shape_of(value)
            if numbers.shape[-2] != 1:
                break
            whole = np.broadcast_to(numbers, (*shape[:-2], 1, shape[-1]))
            found.append(whole.reshape(-1, shape[-1]))
        if len(found) < 3:
            for value in op.operands:
                self.hold(value)
            return
        self.attentions.append(AttentionChannels(op, *found))
        self.numbers[op.y] = self.of(op.v)

    def visit(self, op: Operation) -> None:
        """Send the channels through one operation."""
        match op:
            case onnx.Constant():
                return
            case onnx.Linear() | onnx.Conv() | onnx.ConvTranspose():
                self.layer(op)
            case onnx.LinearAttention():
                self.attention(op)
            case SameElements() | onnx.Transpose() | onnx.Slice() | onnx.Concat() | onnx.Gather():
                self.move(op)
            case onnx.Relu() | onnx.Identity():
                self.numbers[op.y] = self.of(op.x)
            case _ if isinstance(op, POSITIVE) and self.along(op.operands[0], 1) is not None:
                self.numbers[op.results[0]] = self.of(op.operands[0])
            case _:
                for value in op.operands:
                    self.hold(value)

    def move(self, op: Operation) -> None:
        """Data movement: the channels move along."""
        import numpy as np

        if isinstance(op, onnx.Gather) and self.constants.array(op.indices) is None:
            self.hold(op.x)
            return
        values = op.operands if isinstance(op, onnx.Concat) else op.operands[:1]
        whole = [np.broadcast_to(self.of(v), shape_of(v)) for v in values]
        self.numbers[op.results[0]] = narrowed(moved(op.results[0], whole, self.constants))

    def free(self, channels: Ints) -> bool:
        """Whether none of some channels is held."""
        return not self.held.intersection(channels.ravel().tolist())


def narrowed(array: Ints) -> Ints:
    """An array cut to size 1 along every dimension where nothing changes."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        if (array == first).all():
            array = first
    return array


def webs_of(module: ModuleOp, constants: Constants) -> Webs:
    """The channels of @main's float graph."""
    func: FuncOp = main_function(module)
    webs = Webs(constants)
    for op in func.body.block.ops:
        webs.visit(op)
    # What is known of a value for each channel of its last dimension must be scalable along.
    for value, numbers in webs.numbers.items():
        if statistics_of(value, constants.store) is not None and webs.along(value, -1) is None:
            webs.held.update(numbers.ravel().tolist())
    return webs


@dataclass
class Seen:
    """What the values of some webs were on the calibration batches."""

    low: dict[SSAValue, Array] = field(default_factory=dict["SSAValue", "Array"])
    """Smallest value of each element."""

    high: dict[SSAValue, Array] = field(default_factory=dict["SSAValue", "Array"])
    squares: dict[SSAValue, Reals] = field(default_factory=dict["SSAValue", "Reals"])
    """Sum of the squares of each element."""

    batches: int = 0
    states: dict[Operation, tuple[Reals, Reals]] = field(
        default_factory=dict["Operation", "tuple[Reals, Reals]"]
    )
    """Of linear attention: largest |K^T V| [heads, D, E] and sum of K [heads, D]."""

    def add(self, value: SSAValue, array: Array) -> None:
        """Widen the range of each element."""
        import numpy as np

        square = np.square(array, dtype=np.float64)
        self.squares[value] = self.squares[value] + square if value in self.squares else square
        low, high = self.low.get(value, array), self.high.get(value, array)
        self.low[value], self.high[value] = np.minimum(low, array), np.maximum(high, array)

    def state(self, op: Operation, k: Array, v: Array) -> None:
        """Widen the range of linear attention's state."""
        import numpy as np

        k = np.maximum(k.astype(np.float64), 0)
        state = np.abs(np.swapaxes(k, -1, -2) @ v).reshape(-1, k.shape[-1], v.shape[-1])
        total = k.sum(axis=-2).reshape(-1, k.shape[-1])
        before = self.states.get(op, (state, total))
        self.states[op] = np.maximum(before[0], state), np.maximum(before[1], total)

    def magnitude(self, webs: Webs, value: SSAValue, *, rectified: bool = False) -> Reals:
        """Largest magnitude by channel [count]; of the positive values only where `rectified`."""
        import numpy as np

        largest = np.maximum(self.high[value], 0 if rectified else -self.low[value])
        found = np.zeros(webs.count)
        channels = np.broadcast_to(webs.of(value), largest.shape)
        np.maximum.at(found, channels.ravel(), largest.ravel().astype(np.float64))
        return found

    def mean_squares(self, webs: Webs, value: SSAValue) -> Reals:
        """Mean square by channel [count], up to one factor for all."""
        import numpy as np

        squares = self.squares[value]
        channels = np.broadcast_to(webs.of(value), squares.shape).ravel()
        total = np.bincount(channels, weights=squares.ravel(), minlength=webs.count)
        return total / np.maximum(np.bincount(channels, minlength=webs.count), 1)


def observe(
    module: ModuleOp, webs: Webs, store: AssetStore, also: Collection[SSAValue] = ()
) -> Seen:
    """Run the calibration batches and note what elements with a free channel are, and some others."""
    from vit_opt.dialects.onnx.semantics import evaluate

    seen = Seen()
    wanted = {v for v, numbers in webs.numbers.items() if set(numbers.ravel().tolist()) - webs.held}
    wanted.update(also)

    def run(op: Operation, args: Sequence[Array]) -> Sequence[Array]:
        if isinstance(op, onnx.LinearAttention):
            seen.state(op, args[1], args[2])
        results = evaluate(op, args, store)
        for value, array in zip(op.results, results, strict=True):
            if value in wanted:
                seen.add(value, array)
        return results

    for batch in store.batches:
        run_main(module, batch, run)
        seen.batches += 1
    return seen


def scale_channels(webs: Webs, seen: Seen, factors: Reals) -> None:
    """Multiply every channel by its factor [count], positive, 1 where it is held.

    Weights and biases, recorded ranges, statistics and states follow.
    """
    constants = webs.constants
    for layer, channels in webs.makers:
        multiply_outputs(layer, factors[channels], constants)
    for layer, channels in webs.readers:
        divide_inputs(layer, factors[channels], constants)
        ranges = input_channels(layer)
        if ranges is not None and isinstance(layer, onnx.Conv):
            set_input_channels(layer, *(ends * factors[channels] for ends in ranges))
    for value, numbers in webs.numbers.items():
        own = factors[numbers]
        if not isinstance(value, OpResult) or value not in seen.low or (own == 1).all():
            continue
        if RANGE in value.op.attributes:
            set_range(
                value, float((seen.low[value] * own).min()), float((seen.high[value] * own).max())
            )
        channels = webs.along(value, -1)
        if statistics_of(value, constants.store) is not None and channels is not None:
            divide_statistics(value, 1 / factors[channels], constants)
    for attention in webs.attentions:
        state, total = seen.states[attention.op]
        k, v = factors[attention.k], factors[attention.v]
        largest = float((state * k[:, :, None] * v[:, None, :]).max()), float((total * k).max())
        if state_of(attention.op) is not None:
            attention.op.attributes[STATE] = DenseArrayBase.from_list(f64, list(largest))


def multiply_outputs(layer: Layer, factors: Reals, constants: Constants) -> None:
    """Multiply a layer's output channels by factors [N]."""
    if (factors == 1).all():
        return
    weight, bias = constants.array(layer.w), constants.array(layer.bias)
    assert weight is not None
    axis = 1 if isinstance(layer, onnx.ConvTranspose) else 0
    shape = [-1 if d == axis else 1 for d in range(weight.ndim)]
    replace_operand(layer, 1, weight * factors.reshape(shape), constants)
    if bias is not None:
        replace_operand(layer, 2, bias * factors, constants)


def divide_inputs(layer: Layer, factors: Reals, constants: Constants) -> None:
    """Divide a layer's weights by factors [C] of its input channels."""
    if (factors == 1).all():
        return
    weight = constants.array(layer.w)
    assert weight is not None
    replace_operand(layer, 1, weight / by_weight(layer, weight.shape, factors), constants)
    if not isinstance(layer, onnx.Linear):
        divide_windows(layer, 1 / factors, constants.store)


def is_depthwise(layer: Operation) -> bool:
    """Whether an operation is a convolution each of whose outputs reads one channel alone."""
    return isinstance(layer, onnx.Conv) and integer(layer.group) == shape_of(layer.x)[1] > 1


def by_weight(layer: Layer, shape: Sequence[int], channels: Array) -> Array:
    """Something of a layer's input channels [C] in a shape that broadcasts against its weight."""
    if isinstance(layer, onnx.Linear):
        return channels.reshape(1, -1)
    if isinstance(layer, onnx.ConvTranspose):
        return channels.reshape(-1, 1, 1, 1)
    groups = integer(layer.group)
    return channels.reshape(groups, -1).repeat(shape[0] // groups, axis=0)[:, :, None, None]


__all__: Sequence[str] = [
    "AttentionChannels",
    "Layer",
    "Seen",
    "Webs",
    "by_weight",
    "is_depthwise",
    "observe",
    "scale_channels",
    "webs_of",
]
