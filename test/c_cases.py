"""Small programs of vit operations: built in Python, evaluated by the definition and by C kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from c_kernels import HOST_LEVELS, Machine
from xdsl.dialects.builtin import (
    Attribute,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    TensorType,
    UnitAttr,
    i64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue
from xdsl.irdl import IRDLOperation

from vit_opt.backends.c.lowering import Lowered, lower
from vit_opt.dialects.assets import AssetStore, array_attribute
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, Log2Type, QuantizedType, storage_range
from vit_opt.dialects.vit.evaluate import evaluate_op, result_dtype
from vit_opt.dialects.vit.ops.base import VitOp, i64_array, shape_of

__all__ = ["Case", "FixedType", "Log2Type", "codes", "ops"]


def codes(rng: np.random.Generator, format_: Attribute, shape: Sequence[int]) -> np.ndarray:
    """Random codes of a format with extremes among them; 64-bit types stay within 40 bits."""
    if isinstance(format_, Log2Type):
        return rng.integers(0, 16, shape).astype(np.uint8)
    assert isinstance(format_, QuantizedType)
    low, high = storage_range(format_.storage)
    low, high = max(low, -(2**40)), min(high, 2**40)
    kind = rng.integers(0, 6)
    values = rng.integers(low, high + 1, shape)
    if kind == 0:
        values = rng.choice(np.array([low, high, 0, -1 if low < 0 else 1]), shape)
    elif kind == 1:
        values = np.full(shape, rng.choice([low, high, 0]))
    elif kind == 2:
        values = np.clip(rng.normal(0, max(1.0, high / 16), shape), low, high).astype(np.int64)
    return values


class Case:
    """A function under construction, with concrete inputs."""

    def __init__(self) -> None:
        self.store = AssetStore()
        self.block = Block()
        self.arrays: dict[SSAValue, np.ndarray] = {}
        self.inputs: list[np.ndarray] = []

    def _hold(self, value: SSAValue, array: np.ndarray) -> SSAValue:
        held = np.asarray(array).astype(result_dtype(value))
        assert (held == array).all()
        self.arrays[value] = held
        return value

    def input(self, format_: Attribute, array: np.ndarray) -> SSAValue:
        """An argument of the function."""
        array = np.asarray(array)
        value = self.block.insert_arg(TensorType(format_, array.shape), len(self.block.args))
        self._hold(value, array)
        self.inputs.append(self.arrays[value])
        return value

    def constant(self, format_: QuantizedType, array: np.ndarray) -> SSAValue:
        """A constant in the asset store."""
        array = np.asarray(array)
        type_ = TensorType(format_, array.shape)
        probe = Block(arg_types=[type_]).args[0]
        held = array.astype(result_dtype(probe))
        attribute = array_attribute(self.store, "k", held, inline=False)
        op = ops.ConstantOp(properties={"value": attribute}, result_types=[type_])
        self.block.add_op(op)
        return self._hold(op.result, array)

    def op(
        self,
        cls: type[VitOp],
        operands: Sequence[Any],
        result: Attribute | None = None,
        shape: Sequence[int] | None = None,
        **properties: Any,
    ) -> SSAValue:
        """Append an operation; formats and shapes that follow from the operands may be left out."""
        attributes = {k: _attribute(v) for k, v in properties.items() if v is not None}
        first = operands[0][0] if isinstance(operands[0], list) else operands[0]
        count = 2 if cls is ops.SoftmaxExpOp else 1
        guess = TensorType(result or first.type.get_element_type(), shape or shape_of(first))
        probe = _build(cls, operands, attributes, [guess] * count)
        shapes, formats = probe.result_shapes(), probe.derived_formats()
        probe.erase()
        types = [
            TensorType(derived or result, shape_)
            for derived, shape_ in zip(formats, shapes, strict=True)
        ]
        op = _build(cls, operands, attributes, types)
        self.block.add_op(op)
        op.verify()
        values = evaluate_op(op, [self.arrays[value] for value in op.operands])
        self.arrays.update(zip(op.results, values, strict=True))
        return op.results[0]

    def module(self, *outputs: SSAValue) -> ModuleOp:
        """The finished function in a module."""
        self.block.add_op(ReturnOp(*outputs))
        types = [a.type for a in self.block.args], [o.type for o in outputs]
        module = ModuleOp([FuncOp("main", types, Region(self.block))])
        module.verify()
        return module

    def function(self, *outputs: SSAValue) -> FuncOp:
        """The finished function."""
        function = self.module(*outputs).body.block.first_op
        assert isinstance(function, FuncOp)
        return function

    def lower(self, *outputs: SSAValue) -> Lowered:
        """Kernel calls of the finished function."""
        return lower(self.function(*outputs), self.store)

    def check(self, *outputs: SSAValue, kernel: str | None = None) -> Lowered:
        """Compare the C kernels with the definition, bit for bit, for every level that runs here.

        The work is that of one to three workers, depending on the inputs' size. `kernel` is one that
        the portable form must call; that form is returned.
        """
        function = self.function(*outputs)
        workers = 1 + sum(array.size for array in self.inputs) % 3
        for level in HOST_LEVELS:
            lowered = lower(function, self.store, level, workers)
            if kernel is not None and level.name == "portable":
                assert kernel in [call.kernel for call in lowered.calls]
            results = Machine(lowered, cpu=level.name).run(self.inputs)
            for value, result in zip(outputs, results, strict=True):
                expected = self.arrays[value]
                actual = result.view(expected.dtype).reshape(expected.shape)
                np.testing.assert_array_equal(actual, expected, f"level {level.name}")
        assert level.name == "portable"
        return lowered


def _build(
    cls: type[VitOp], operands: Sequence[Any], attributes: dict[str, Attribute], types: list[Any]
) -> VitOp:
    """The generic constructor, also of operations that have a constructor of their own."""
    op = cls.__new__(cls)
    IRDLOperation.__init__(op, operands=operands, properties=attributes, result_types=types)
    return op


def _attribute(value: Any) -> Attribute:
    if isinstance(value, bool):
        return UnitAttr()
    if isinstance(value, int):
        return IntegerAttr(value, i64)
    if isinstance(value, str):
        return StringAttr(value)
    return i64_array([int(v) for v in value])
