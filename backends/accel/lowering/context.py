"""State of one lowering: which value lies where, who uses it, and until when it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import StringAttr
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from vit_opt.backends.accel.lowering.builder import Builder, Region
from vit_opt.backends.accel.lowering.tensors import (
    Tensor,
    row_major,
    value_format,
    value_shape,
)
from vit_opt.dialects.assets import AssetStore, attribute_array
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.fields import Space

Array = NDArray[Any]


def where(op: Operation) -> str:
    """How messages name an operation: its kind, and its node in the imported model if known."""
    node = op.properties.get("node_name")
    return f"{op.name} '{node.data}'" if isinstance(node, StringAttr) else op.name


def node_of(op: Operation) -> str:
    """The node of the imported model that an operation is a part of, else its kind."""
    node = op.properties.get("node_name")
    return node.data if isinstance(node, StringAttr) else op.name


class Lowering:
    """One function being lowered. Pipelines are transparent: their results are what they yield."""

    def __init__(self, body: Block, assets: AssetStore, arch: AccelTarget):
        self.builder = Builder(arch)
        self.arch = arch
        self.assets = assets
        self.tensors: dict[SSAValue, Tensor] = {}
        self.done: set[Operation] = set()
        self._yields: dict[SSAValue, SSAValue] = {}
        self.order: list[Operation] = list(self._flatten(body))
        end = len(self.order)
        self.position = {
            op: end if isinstance(op, ops.DequantizeOp | ReturnOp) else index
            for index, op in enumerate(self.order)
        }
        self.users: dict[SSAValue, list[Operation]] = {}
        for op in self.order:
            for operand in op.operands:
                self.users.setdefault(self.source(operand), []).append(op)
        self._last_use: dict[Region, int] = {}

    def _flatten(self, body: Block) -> Iterator[Operation]:
        for op in body.ops:
            if isinstance(op, ops.PipelineOp):
                yield from self._flatten(op.body.block)
                for result, value in zip(op.results, op.terminator.values, strict=True):
                    self._yields[result] = value
            elif not isinstance(op, ops.YieldOp):
                yield op

    def source(self, value: SSAValue) -> SSAValue:
        """The value itself, or what the pipeline that gives it yields."""
        while value in self._yields:
            value = self._yields[value]
        return value

    # -- values -----------------------------------------------------------------------------

    def tensor(self, value: SSAValue) -> Tensor:
        """Where a value lies; constants are placed in DRAM when first asked for."""
        value = self.source(value)
        found = self.tensors.get(value)
        if found is not None:
            return found
        array = self.array(value)
        if array is None:
            raise VitError(f"{where(cast('Operation', value.owner))} has not been lowered yet")
        dtype, format_ = value_format(value)
        strides = row_major(array.shape, dtype.size)
        tensor = Tensor(self.builder.constant(array), dtype, format_, array.shape, strides)
        self.tensors[value] = tensor
        return tensor

    def is_available(self, value: SSAValue) -> bool:
        """Whether a value lies in DRAM already, or is a constant."""
        value = self.source(value)
        return value in self.tensors or isinstance(value.owner, ops.ConstantOp)

    def array(self, value: SSAValue) -> Array | None:
        """The codes of a constant in their storage dtype, or None for another value."""
        owner = self.source(value).owner
        if not isinstance(owner, ops.ConstantOp):
            return None
        return attribute_array(self.assets, owner.value).reshape(value_shape(owner.result))

    def constant(self, value: SSAValue, op: Operation, what: str) -> Array:
        """The codes of an operand that must be a constant."""
        array = self.array(value)
        if array is None:
            raise VitError(f"{where(op)}: {what} is not a constant; the accelerator packs it ahead")
        return array

    def define(self, value: SSAValue) -> Tensor:
        """Allocate DRAM for a result."""
        dtype, format_ = value_format(value)
        shape = value_shape(value)
        strides = row_major(shape, dtype.size)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.size
        region = self.builder.allocate(Space.DRAM, size)
        tensor = Tensor(region, dtype, format_, shape, strides)
        self.bind(value, tensor)
        return tensor

    def bind(self, value: SSAValue, tensor: Tensor) -> None:
        """Say that a value is a view of memory that lives until the value's last use."""
        self.tensors[value] = tensor
        if self.builder.is_constant(tensor.region):
            return
        last = max((self.position[op] for op in self.users.get(value, ())), default=-1)
        self._last_use[tensor.region] = max(self._last_use.get(tensor.region, -1), last)

    def temporary(self, like: Tensor) -> Tensor:
        """Allocate DRAM for a contiguous copy of a view, needed as long as the view."""
        strides = row_major(like.shape, like.dtype.size)
        region = self.builder.allocate(Space.DRAM, like.size)
        self._last_use[region] = self._last_use.get(like.region, len(self.order))
        return Tensor(region, like.dtype, like.format, like.shape, strides)

    def retire(self, position: int) -> None:
        """Give back the DRAM of tensors whose last use was at `position` or before."""
        for region in [r for r, last in self._last_use.items() if last <= position]:
            del self._last_use[region]
            self.builder.forget(region)
            self.builder.release(region)


def fixed_format(value: SSAValue) -> FixedType:
    """The power-of-two format of a value; VitError if it has none."""
    return value_format(value)[1]
