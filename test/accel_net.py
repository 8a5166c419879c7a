"""A small builder of `vit` functions for tests, and the comparison of emulator and reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from accel_races import OrderedMachine
from numpy.typing import NDArray
from xdsl.dialects.builtin import (
    DenseArrayBase,
    FunctionType,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from vit_opt.backends.accel import run
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.lowering import lower_accel
from vit_opt.backends.accel.run import AccelResult, run_accel
from vit_opt.dialects.assets import AssetStore, array_attribute, dtype_of
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, Log2Type
from vit_opt.dialects.vit.evaluate import evaluator
from vit_opt.dialects.vit.targets import (
    ACCEL_TARGETS,
    EDGE,
    P2VIT,
    P2VIT_LARGE,
    TRIO,
    AccelTarget,
    MemorySpec,
)

REPORT = '{"model": "a/<tiny>.onnx", "scales": "pot", "inputs": {}, "outputs": {}}'
"""The least that a compiled folder's report says."""

Array = NDArray[Any]
Format = FixedType | Log2Type


def tensor(shape: Sequence[int], format_: Format) -> TensorType[Attribute]:
    """The type of a quantised tensor."""
    return TensorType(format_, list(shape))


def attribute(value: object) -> Attribute:
    """A Python value as the attribute that the dialect uses for it."""
    if isinstance(value, bool):
        return UnitAttr()
    if isinstance(value, int):
        return IntegerAttr(value, i64)
    if isinstance(value, str):
        return StringAttr(value)
    assert isinstance(value, Sequence)
    return DenseArrayBase.from_list(i64, [int(entry) for entry in value])


class Net:
    """A function under construction."""

    def __init__(self, *arguments: tuple[Sequence[int], Format]):
        self.store = AssetStore()
        self.block = Block(arg_types=[tensor(shape, format_) for shape, format_ in arguments])

    @property
    def args(self) -> Sequence[SSAValue]:
        """The arguments."""
        return self.block.args

    def constant(self, codes: Array, format_: FixedType) -> SSAValue:
        """A constant with the given codes."""
        storage = dtype_of(format_.storage)
        value = array_attribute(
            self.store, f"c{len(self.store.arrays)}", codes.astype(storage), inline=False
        )
        op = ops.ConstantOp.create(
            properties={"value": value}, result_types=[tensor(codes.shape, format_)]
        )
        self.block.add_op(op)
        return op.result

    def add(
        self,
        cls: type[Operation],
        operands: Sequence[SSAValue],
        *results: tuple[Sequence[int], Format],
        **properties: object,
    ) -> list[SSAValue]:
        """Append an operation; integers, strings, sequences and True become attributes."""
        op = cls.create(
            operands=list(operands),
            properties={
                **_defaults(cls),
                **{k: attribute(v) for k, v in properties.items() if v is not False},
            },
            result_types=[tensor(shape, format_) for shape, format_ in results],
        )
        op.verify()
        self.block.add_op(op)
        return list(op.results)

    def module(self, *results: SSAValue) -> ModuleOp:
        """The module whose function returns `results`."""
        self.block.add_op(ReturnOp(*results))
        types = FunctionType.from_lists(
            [arg.type for arg in self.block.args], [value.type for value in results]
        )
        module = ModuleOp([FuncOp("main", types, Region(self.block))])
        module.verify()
        return module


def _defaults(cls: Any) -> dict[str, Attribute]:
    """Default values of an operation's properties."""
    return {
        name: definition.default_value
        for name, definition in cls.get_irdl_definition().properties.items()
        if definition.default_value is not None
    }


def random_codes(rng: np.random.Generator, shape: Sequence[int], format_: Format) -> Array:
    """Codes from the whole range of a format, with its extremes."""
    if isinstance(format_, Log2Type):
        return rng.integers(0, 16, shape).astype(np.uint8)
    low, high = format_.bounds
    low, high = max(low, -(2**30)), min(high, 2**30)
    codes = rng.integers(low, high, shape, endpoint=True)
    kind = rng.random(shape)
    codes = np.where(kind < 0.1, low, np.where(kind > 0.9, high, codes))
    return codes.astype(dtype_of(format_.storage))


def reference(module: ModuleOp, store: AssetStore, inputs: Sequence[Array]) -> list[Array]:
    """The results of @main by the definitions of the dialect."""
    (function,) = module.ops
    assert isinstance(function, FuncOp)
    values: dict[SSAValue, Array] = dict(zip(function.body.block.args, inputs, strict=True))
    evaluate = evaluator(store)
    for op in function.body.block.ops:
        if isinstance(op, ReturnOp):
            return [values[value] for value in op.arguments]
        results = evaluate(op, [values[operand] for operand in op.operands])
        values.update(zip(op.results, results, strict=True))
    raise AssertionError("no return")


def compare(
    net: Net, results: Sequence[SSAValue], inputs: Sequence[Array], arch: AccelTarget = P2VIT
) -> tuple[Image, AccelResult]:
    """Lower, load the image back from its bytes, run it, and require the reference's bits.

    Semaphores must order all accesses to the same bytes.
    """
    module = net.module(*results)
    expected = reference(module, net.store, inputs)
    image = lower_accel(module, net.store, arch)
    assert arch.name not in ACCEL_TARGETS or Image.from_bytes(image.to_bytes()) == image
    with patch.object(run, "Machine", OrderedMachine):
        ran = run_accel(image, {f"arg{i}": array for i, array in enumerate(inputs)}, arch)
    for index, want in enumerate(expected):
        got = ran.codes[f"result{index}"]
        assert got.shape == want.shape
        assert np.array_equal(got, want), (
            f"result {index}: {np.count_nonzero(got != want)} of {want.size} differ"
        )
    return image, ran


SMALL = replace(
    P2VIT,
    name="small",
    lanes=8,
    columns=2,
    memories=tuple(
        MemorySpec(name, size)
        for name, size in (
            ("abuf", 3000),
            ("bbuf", 3000),
            ("cbuf", 3000),
            ("obuf", 6000),
            ("pbuf", 4000),
        )
    ),
)
"""A machine with buffers so small that everything is cut into blocks with remainders."""

ARCHITECTURES = (P2VIT, SMALL, EDGE, TRIO, P2VIT_LARGE)
