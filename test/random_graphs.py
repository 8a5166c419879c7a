"""Random small integer graphs: what passes that may change no bit are tried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import FunctionType, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, Region, SSAValue

from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.vit import FixedType, ops
from vit_opt.dialects.vit.ops.base import VitOp, format_of, shape_of

Array = NDArray[Any]

BYTES = (FixedType("i8", 5), FixedType("ui8", 4, zp=7), FixedType("i8", 3, zp=-20))
WORDS = (FixedType("i16", 8), FixedType("i16", 6))


@dataclass
class RandomGraph:
    """Grows a function from random operations on random values that exist already."""

    seed: int
    steps: int = 14
    store: AssetStore = field(default_factory=AssetStore)

    most: ClassVar[int] = 4096
    """Elements of the largest tensor."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        types = self.arguments()
        self.block = Block(arg_types=types)
        self.values: list[SSAValue] = list(self.block.args)
        while len(self.values) < self.steps:
            self.grow()
        count = int(self.rng.integers(2))
        first = min(4, len(self.values) - 1)
        picked = self.rng.choice(len(self.values) - first, count) + first
        results = [self.values[-1], *(self.values[i] for i in picked)]
        self.block.add_op(ReturnOp(*results))
        type_ = FunctionType.from_lists(types, [value.type for value in results])
        self.module = ModuleOp([FuncOp("main", type_, Region(self.block))])
        self.module.verify()

    def arguments(self) -> list[TensorType[FixedType]]:
        """The types of the arguments."""
        return [TensorType(BYTES[0], (1, 6, 8)), TensorType(WORDS[0], (1, 6, 8))]

    def inputs(self, extreme: bool = False) -> dict[str, Array]:
        """Codes for the arguments: anything, or only the largest and smallest."""
        result: dict[str, Array] = {}
        for index, argument in enumerate(self.block.args):
            low, high = format_of(argument).bounds
            codes = self.rng.integers(low, high + 1, shape_of(argument))
            if extreme:
                codes = np.where(codes >= 0, high, low)
            result[f"input{index}"] = codes.astype(f"int{format_of(argument).storage.width.data}")
        return result

    def emit(self, op: VitOp) -> SSAValue:
        """Add an operation; its last result becomes a value to go on from."""
        self.block.add_op(op)
        return op.results[0]

    def constant(self, shape: tuple[int, ...], format_: FixedType) -> SSAValue:
        low, high = (max(min(bound, 1 << 20), -(1 << 20)) for bound in format_.bounds)
        codes = self.rng.integers(low, high + 1, shape)
        return self.emit(ops.ConstantOp.make(self.store, "constant", codes, format_))

    def pick(self, *widths: int, rank: int | None = None) -> SSAValue:
        """A value of one of some widths with one scale; the first argument if there is none."""
        fitting = [
            value
            for value in self.values
            if format_of(value).storage.width.data in widths
            and not format_of(value).is_per_channel
            and (rank is None or len(shape_of(value)) == rank)
        ]
        return self.one_of(fitting) if fitting else self.values[0]

    def any(self) -> SSAValue:
        """A random value."""
        return self.one_of(self.values)

    def one_of(self, values: list[SSAValue]) -> SSAValue:
        """The latest of some values more often than not: chains, not bushes."""
        if self.rng.random() < 0.6:
            return values[-1]
        return values[int(self.rng.integers(len(values)))]

    def grow(self) -> None:
        """One more random step; a step that does not fit its operands is left out."""
        steps = self.menu()
        value = steps[int(self.rng.integers(len(steps)))]()
        if value is not None and np.prod(shape_of(value)) <= self.most:
            self.values.append(value)

    def menu(self) -> Sequence[Callable[[], SSAValue | None]]:
        """The steps, each as often as it is likely."""
        return (
            *(self.linear, self.requant, self.add, self.attention, self.layernorm) * 2,
            self.mul,
            self.table,
            self.clamp,
            self.turn,
            self.cut,
            self.cut,
            self.gather,
            self.join,
            self.heads,
            self.mean,
        )

    def linear(self) -> SSAValue:
        x, n = self.pick(8), int(self.rng.integers(1, 9))
        weight = self.constant(
            (n, shape_of(x)[-1]), FixedType("i8", self.rng.integers(4, 8, n), axis=0)
        )
        probe = ops.LinearOp.of(x, weight)
        format_ = format_of(probe.result)
        probe.erase()
        assert isinstance(format_, FixedType)
        bias = self.constant((n,), format_.with_axis(0))
        return self.emit(ops.LinearOp.of(x, weight, bias))

    def requant(self) -> SSAValue:
        choices = (*BYTES, *WORDS)
        type_ = choices[int(self.rng.integers(len(choices)))]
        rounding = ("rhu", "rhe", "floor")[int(self.rng.integers(3))]
        return self.emit(ops.PotRequantOp.of(self.any(), type=type_, rounding=rounding))

    def add(self) -> SSAValue:
        a = self.any()
        equal = [v for v in self.values if shape_of(v) == shape_of(a)]
        b = equal[int(self.rng.integers(len(equal)))]
        if self.rng.integers(3) == 0:
            b = self.constant(shape_of(a)[-1:], BYTES[0])
        return self.emit(ops.AddOp.of(a, b, type=WORDS[int(self.rng.integers(2))]))

    def mul(self) -> SSAValue:
        a = self.pick(8, 16)
        return self.emit(ops.MulOp.of(a, self.constant(shape_of(a)[-1:], BYTES[1]), type=WORDS[1]))

    def layernorm(self) -> SSAValue:
        x = self.pick(8, 16)
        channels = shape_of(x)[-1]
        gamma = self.constant((channels,), FixedType("i8", 5))
        beta = self.constant((channels,), FixedType("i32", 12))
        type_ = FixedType("i8", self.rng.integers(3, 6, channels), axis=len(shape_of(x)) - 1)
        type_ = type_ if self.rng.integers(2) else FixedType("i8", 5)
        return self.emit(ops.LayerNormOp.of(x, gamma, beta, type=type_, eps_q=3))

    def table(self) -> SSAValue:
        x = self.pick(8)
        return self.emit(ops.LutOp.of(x, self.constant((256,), BYTES[int(self.rng.integers(3))])))

    def clamp(self) -> SSAValue:
        x = self.pick(8, 16)
        low, high = sorted(self.rng.integers(0, 128, 2).tolist())
        if self.rng.integers(3) == 0:
            low, high = format_of(x).bounds
        return self.emit(ops.ClampOp.of(x, min=low, max=high))

    def turn(self) -> SSAValue:
        x = self.any()
        return self.emit(
            ops.TransposeOp.of(x, permutation=self.rng.permutation(len(shape_of(x))).tolist())
        )

    def cut(self) -> SSAValue:
        x = self.any()
        shape = shape_of(x)
        offsets = [int(self.rng.integers(size)) for size in shape]
        axis = (
            max(0, len(shape) - 2) if self.rng.integers(2) else int(self.rng.integers(len(shape)))
        )
        offsets = [offset if i == axis else 0 for i, offset in enumerate(offsets)]
        sizes = [size - offset for size, offset in zip(shape, offsets, strict=True)]
        return self.emit(ops.SliceOp.of(x, offsets=offsets, sizes=sizes, strides=[1] * len(shape)))

    def gather(self) -> SSAValue:
        x = self.any()
        axis = int(self.rng.integers(len(shape_of(x))))
        start = int(self.rng.integers(shape_of(x)[axis]))
        return self.emit(ops.GatherOp.of(x, axis=axis, indices=[start]))

    def join(self) -> SSAValue:
        x = self.pick(8, 16)
        return self.emit(ops.ConcatOp.of(x, x, axis=0))

    def heads(self) -> SSAValue | None:
        x = self.pick(8, 16, rank=3)
        shape = shape_of(x)
        if len(shape) != 3 or shape[-1] % 2:
            return None
        split = self.emit(ops.ReshapeOp.of(x, shape=(*shape[:2], 2, shape[2] // 2)))
        turned = self.emit(ops.TransposeOp.of(split, permutation=[0, 2, 1, 3]))
        return self.emit(ops.ReshapeOp.of(turned, shape=(2 * shape[0], shape[1], shape[2] // 2)))

    def mean(self) -> SSAValue:
        x = self.pick(8, 16)
        axis = int(self.rng.integers(len(shape_of(x))))
        return self.emit(ops.MeanOp.of(x, type=WORDS[0], axes=[axis], keepdims=True))

    def attention(self) -> SSAValue | None:
        x = self.pick(8, rank=3)
        if len(shape_of(x)) != 3:
            return None
        rank = len(shape_of(x))
        order = [*range(rank - 2), rank - 1, rank - 2]
        turned = self.emit(ops.TransposeOp.of(x, permutation=order))
        scores = self.emit(ops.MatmulOp.of(x, turned))
        softmax = ops.SoftmaxExpOp.of(scores)
        self.emit(softmax)
        acc = self.emit(ops.MatmulOp.of(softmax.p, x))
        return self.emit(ops.NormalizeOp.of(acc, softmax.sum, type=BYTES[0]))


def operations(module: ModuleOp, kind: type[Operation]) -> list[Operation]:
    """The operations of one kind in a module."""
    return [op for op in module.walk() if isinstance(op, kind)]
