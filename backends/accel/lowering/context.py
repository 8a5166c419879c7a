"""State of one lowering: which value lies where, who uses it, and until when it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import StringAttr
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from vit_opt.backends.accel.lowering.arena import Region
from vit_opt.backends.accel.lowering.builder import Builder, Origin
from vit_opt.backends.accel.lowering.memory import Demand, Source
from vit_opt.backends.accel.lowering.pipelines import Pipelines, layers_of
from vit_opt.backends.accel.lowering.residency import Trace
from vit_opt.backends.accel.lowering.tensors import (
    Shape,
    Tensor,
    reshaped,
    row_major,
    value_format,
    value_shape,
)
from vit_opt.dialects.assets import AssetStore, attribute_array
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.ops.base import integers
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.windows import Choice

Array = NDArray[Any]


def where(op: Operation) -> str:
    """How messages name an operation: its kind, and its node in the imported model if known."""
    node = op.properties.get("node_name")
    return f"{op.name} '{node.data}'" if isinstance(node, StringAttr) else op.name


def node_of(op: Operation) -> str:
    """The node of the imported model that an operation is a part of; for one that has none, that
    of what it reads first, so that different places keep different names; else its kind."""
    source: object = op
    while isinstance(source, Operation):
        node = source.properties.get("node_name")
        if isinstance(node, StringAttr):
            return node.data
        source = source.operands[0].owner if source.operands else None
    return op.name


@dataclass(frozen=True)
class Plan:
    """How a product keeps its accumulators while panels of its left operand go by."""

    panel: int
    """Columns of the left operand in a panel."""
    heights: Sequence[tuple[int, int]]
    """Blocks of rows (first, count)."""
    groups: Sequence[tuple[int, int]]
    """Columns (first, count) whose accumulators are on chip together."""


class Lowering:
    """One function being lowered. Pipelines are transparent: their results are what they yield."""

    def __init__(
        self,
        body: Block,
        assets: AssetStore,
        arch: AccelTarget,
        trace: Trace | None = None,
        pipelines: Pipelines | None = None,
        pairs: bool = True,
    ):
        """Without a `trace` the lowering is a rehearsal, which makes one. `pairs` of linear products
        may keep accumulators on chip."""
        self.pairs = pairs
        self.pipelines = pipelines or Pipelines()
        self.builder = Builder(arch, trace)
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
        self.plans: dict[Operation, Plan] = {}
        """How products whose left operand is made for them panel by panel go about it."""
        self.layers = layers_of(self.order, self.source)
        self.widths: dict[Region, int] = {}
        """Columns of a result that lie together on chip."""
        self.planes: dict[Region, int] = {}
        """Planes of a result that lie together on chip, where more than one may."""
        self.choices: list[Choice] = []
        """How products and convolutions were cut, in the order in which they were lowered."""
        self.now = -1
        """Position of the operation that is lowered; chains behind it may reach further."""
        self._last_use: dict[Region, int] = {}
        self._readers: dict[Region, list[Operation]] = {}
        self._deferred: dict[Operation, list[Source]] = {}
        self._driver: dict[Operation, Operation] = {}
        """Who reads last what an operation makes, of those whose results are made when read."""
        self._awaited: set[Region] = set()
        """What they read."""

    def _flatten(self, body: Block) -> Iterator[Operation]:
        for op in body.ops:
            if isinstance(op, ops.PipelineOp):
                yield from self._flatten(op.body.block)
                for result, value in zip(op.results, op.terminator.values, strict=True):
                    self._yields[result] = value
            elif not isinstance(op, ops.YieldOp):
                yield op

    def origin_of(self, op: Operation) -> Origin:
        """What the instructions of an operation are a part of."""
        serial = not self.layers.together(op, self.pipelines)
        return Origin(node_of(op), self.layers.of[op], serial)

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

    def define(
        self, value: SSAValue, rows: Sequence[int] | None = None, like: Tensor | None = None
    ) -> Tensor:
        """Allocate DRAM for a result.

        `rows` are the axes that must have one distance, if its layout is free otherwise. With
        `like`, its axes lie in the order in which that tensor's do.
        """
        dtype, format_ = value_format(value)
        shape = value_shape(value)
        strides = row_major(shape, dtype.size)
        if like is not None:
            strides = _ordered(shape, like.strides, dtype.size)
        elif rows is not None and len(rows) < 2:
            strides = self._layout(value, shape, dtype.size)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.size
        region = self.builder.allocate(Space.DRAM, size)
        tensor = Tensor(region, dtype, format_, shape, strides)
        self.bind(value, tensor)
        return tensor

    def _layout(self, value: SSAValue, shape: Shape, item: int) -> Shape:
        """Strides of a result whose rows may lie anywhere: row-major, unless another order of its
        axes makes row-major what the views that alone read it lead to."""
        format_ = value_format(value)[1]
        dtype = value_format(value)[0]
        plain = row_major(shape, item)
        first = Tensor(cast("Region", None), dtype, format_, shape, plain)
        axes = [i for i, size in enumerate(shape[:-1]) if size > 1]
        if len(axes) > 3 or self._reads_in_order(value, first):
            return plain
        for order in permutations(axes):
            strides = list(plain)
            step = shape[-1] * item
            for axis in reversed(order):
                strides[axis] = step
                step *= shape[axis]
            if self._reads_in_order(value, replace(first, strides=tuple(strides))):
                return tuple(strides)
        return plain

    def _reads_in_order(self, value: SSAValue, tensor: Tensor) -> bool:
        """Whether the views of a value end with one that is row-major."""
        users = self.users.get(value, [])
        while len(users) == 1 and isinstance(users[0], ops.TransposeOp | ops.ReshapeOp):
            op = users[0]
            shape = value_shape(op.result)
            if isinstance(op, ops.TransposeOp):
                strides = tuple(tensor.strides[i] for i in integers(op.permutation))
                tensor = replace(tensor, shape=shape, strides=strides)
            else:
                found = reshaped(tensor, shape)
                if found is None:
                    return False
                tensor = found
            users = self.users.get(op.result, [])
        return tensor.is_contiguous

    def define_in_concat(self, value: SSAValue) -> Tensor | None:
        """Let a result be a part of the concatenation of channels that alone reads it, behind
        transpositions; None if there is none."""
        orders: list[Sequence[int]] = []
        read, op = value, self._only_user(value)
        while isinstance(op, ops.TransposeOp):
            orders.append(integers(op.permutation))
            read, op = op.result, self._only_user(op.result)
        if not isinstance(op, ops.ConcatOp):
            return None
        dtype, format_ = value_format(value)
        shape = value_shape(value)
        axis = op.axis.value.data
        for order in reversed(orders):
            axis = order[axis]
        if axis != len(shape) - 1:
            return None
        strides = row_major(shape, dtype.size)
        for order in orders:
            strides = tuple(strides[i] for i in order)
        joined = self.tensors.get(op.result)
        if joined is None:
            joined = self.define(op.result, like=Tensor(_NOWHERE, dtype, format_, (), strides))
        index = [self.source(x) for x in op.xs].index(read)
        axis = op.axis.value.data
        before = sum(value_shape(x)[axis] for x in op.xs[:index])
        strides = joined.strides
        for order in reversed(orders):
            strides = tuple(strides[order.index(i)] for i in range(len(order)))
        offset = joined.offset + before * joined.strides[axis]
        tensor = Tensor(joined.region, dtype, format_, shape, strides, offset)
        self.bind(value, tensor)
        return tensor

    def _only_user(self, value: SSAValue) -> Operation | None:
        users = self.users.get(value, [])
        return users[0] if len(users) == 1 else None

    def define_over(self, value: SSAValue, old: Tensor, op: Operation) -> Tensor | None:
        """Let a result take the memory of an operand of `op`; None unless it is free by then: who
        stands before `op` may still be to come, where `op` follows in a chain."""
        dtype, format_ = value_format(value)
        whole = old.is_contiguous and old.offset == 0 and old.size == old.region.size
        fits = whole and old.shape == value_shape(value) and old.dtype.size == dtype.size
        if old.region in self._awaited or old.region in self.builder.sources:
            return None
        if not fits or self._last_use.get(old.region, len(self.order)) > self.position[op]:
            return None
        readers = self._readers.get(old.region, ())
        if any(self.position[each] > self.now and each not in self.done for each in readers):
            return None
        tensor = Tensor(old.region, dtype, format_, old.shape, old.strides)
        self.bind(value, tensor)
        self.builder.rewritten.add(old.region)
        return tensor

    def bind(self, value: SSAValue, tensor: Tensor) -> None:
        """Say that a value is a view of memory that lives until the value's last use."""
        self.tensors[value] = tensor
        if self.builder.is_constant(tensor.region):
            return
        readers = self.users.get(value, ())
        self._readers.setdefault(tensor.region, []).extend(readers)
        last = max((self.position[op] for op in readers), default=-1)
        self._last_use[tensor.region] = max(self._last_use.get(tensor.region, -1), last)

    def temporary(self, like: Tensor) -> Tensor:
        """Allocate DRAM for a contiguous copy of a view, needed as long as the view."""
        strides = row_major(like.shape, like.dtype.size)
        region = self.builder.allocate(Space.DRAM, like.size)
        self._last_use[region] = self._last_use.get(like.region, len(self.order))
        return Tensor(region, like.dtype, like.format, like.shape, strides)

    def defer(self, source: Source, results: Sequence[Tensor], reader: Operation) -> None:
        """Let results be made as `reader`, which is lowered later, reads their rows."""
        for tensor in results:
            rows = prod(tensor.shape[:-1])
            panel = source.panel * tensor.dtype.size
            demand = Demand(source, tensor.strides[-2], rows, panel)
            self.builder.sources[tensor.region] = demand
        self._deferred.setdefault(reader, []).append(source)

    def stream(
        self,
        source: Source,
        results: Sequence[Tensor],
        members: Sequence[Operation],
        reader: Operation,
    ) -> None:
        """Let the results of some operations be made as their readers, of which `reader` is the
        last, read their rows or columns; what they read themselves is made no earlier."""
        self.defer(source, results, reader)
        self._driver.update(dict.fromkeys(members, reader))
        for operand in (operand for op in members for operand in op.operands):
            tensor = self.tensors.get(self.source(operand))
            if tensor is not None:
                self._awaited.add(tensor.region)

    def drain(self, reader: Operation) -> None:
        """Make what is left of the results that were deferred until `reader`; later, if its own
        results are made later."""
        driver = self._driver.get(reader)
        if driver is not None:
            self._deferred.setdefault(driver, []).extend(self._deferred.pop(reader, []))
            return
        for source in self._deferred.pop(reader, []):
            while source.advance():
                pass
            sources = self.builder.sources
            for region in [region for region, found in sources.items() if found.source is source]:
                del sources[region]

    def retire(self, position: int) -> None:
        """Give back the DRAM of tensors whose last use was at `position` or before.

        What deferred results are made of stays until they are made.
        """
        if any(self._deferred.values()):
            return
        self._awaited.clear()
        for region in [r for r, last in self._last_use.items() if last <= position]:
            del self._last_use[region]
            self._readers.pop(region, None)
            self.builder.forget(region)
            self.builder.release(region)


_NOWHERE = Region(Space.DRAM, 0, 0)
"""Stands for a place where only the order of axes matters."""


def _ordered(shape: Shape, pattern: Shape, item: int) -> Shape:
    """Strides without gaps in which the axes are nested as in a pattern."""
    strides = [0] * len(shape)
    step = item
    for axis in sorted(range(len(shape)), key=lambda i: (pattern[i], -i)):
        strides[axis] = step
        step *= shape[axis]
    return tuple(strides)


def fixed_format(value: SSAValue) -> FixedType:
    """The power-of-two format of a value; VitError if it has none."""
    return value_format(value)[1]
