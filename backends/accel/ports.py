"""How an engine's unit gets at the memories, and the register of what each instruction does there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.groups import expand_rows, narrow_groups
from vit_opt.backends.accel.memory import AccessError, Memories, unpack_int4
from vit_opt.dialects.vit.semantics import arithmetic
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, Rounding
from vit_opt.dialects.vit_accel.fields import Addr, Inst, Space
from vit_opt.dialects.vit_accel.isa_transfer import GROUP

Ints = NDArray[np.integer[Any]]
Resolve = Callable[[Addr], Addr]
Work = Callable[[], None]
Effect = Callable[["Port", Any], Work]

EFFECTS: dict[type[Inst], Effect] = {}
"""The effect of every instruction that touches memory: checks what it wants, returns what it does."""

MAX_MACS = 1 << 32
"""Multiply-accumulates of one instruction; more is a damaged program."""

AnyInst = TypeVar("AnyInst", bound=Inst)


def effect(
    cls: type[AnyInst],
) -> Callable[[Callable[[Port, AnyInst], Work]], Callable[[Port, AnyInst], Work]]:
    """Register the effect of an instruction class.

    The function takes views of the operands and results and raises AccessError for whatever the
    instruction's fields and addresses make impossible, without looking at any number in memory. It
    returns the work itself, which looks, and raises for what the numbers make impossible.
    """

    def register(function: Callable[[Port, AnyInst], Work]) -> Callable[[Port, AnyInst], Work]:
        EFFECTS[cls] = function
        return function

    return register


class Port:
    """An engine's access to the memories: resolves address registers, reads and writes blocks."""

    def __init__(self, memories: Memories, resolve: Resolve):
        self.memories = memories
        self.resolve = resolve

    def view(
        self, addr: Addr, dtype: DType, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> NDArray[Any]:
        """A checked view of elements."""
        return self.memories.view(self.resolve(addr), dtype, shape, strides)

    def apart(
        self, addr: Addr, dtype: DType, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> NDArray[Any]:
        """A checked view of elements that are written; AccessError if they lie over each other."""
        view, end = self.view(addr, dtype, shape, strides), dtype.size
        for stride, count in sorted(zip(strides, shape, strict=True)):
            if count > 1 and stride < end:
                raise AccessError(f"results at {addr} lie over each other")
            end += (count - 1) * stride
        return view

    def inside(self, addr: Addr, dtype: DType, count: int) -> None:
        """AccessError unless `count` contiguous elements lie inside the memory."""
        self.memories.check(self.resolve(addr), dtype, (count,), (dtype.size,))

    def block(self, addr: Addr, dtype: DType, rows: int, cols: int, stride: int) -> NDArray[Any]:
        """A view of `rows x cols` elements with contiguous columns."""
        return self.view(addr, dtype, (rows, cols), (stride, dtype.size))

    def vector(self, addr: Addr, dtype: DType, count: int) -> NDArray[Any]:
        """A view of `count` contiguous elements."""
        return self.view(addr, dtype, (count,), (dtype.size,))

    def shifts(self, addr: Addr, immediate: int, cols: int) -> int | Ints:
        """A shift per column, or the immediate one."""
        return immediate if addr.space is Space.NONE else self.vector(addr, DType.I8, cols)

    def bias(self, addr: Addr, count: int, step: int = 1) -> Ints | None:
        """An int32 bias per channel, or None."""
        if addr.space is Space.NONE:
            return None
        return self.view(addr, DType.I32, (count,), (4 * step,))

    def operand(
        self, addr: Addr, dtype: DType, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Callable[[], Ints]:
        """An operand of the array, along whose last axis it reduces, as what gives it: int4 pairs
        unpacked, log2 codes decoded."""
        if dtype.size > 2:
            name = dtype.name.lower()
            raise AccessError(f"multipliers take numbers of up to 16 bits, not {name}")
        if dtype is DType.I4X2:
            pairs = (*shape[:-1], (shape[-1] + 1) // 2)
            packed = self.view(addr, dtype, pairs, (*strides[:-1], 1))
            return lambda: unpack_int4(packed, shape[-1])
        values = self.view(addr, dtype, shape, strides)
        if dtype is DType.LOG2:
            return lambda: np.append(1 << np.arange(14, -1, -1), 0)[np.minimum(values, 15)]
        return lambda: values

    def weights(
        self,
        inst: isa.Matmul | isa.Conv,
        addr: Addr,
        dtype: DType,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
    ) -> Callable[[], Ints]:
        """Rows of a right operand of the array, as what gives them; those that lie in groups as what
        they mean."""
        wide, depth = isa.wide_groups(inst), inst.depth
        if wide is None:
            if inst.wide:
                raise AccessError(f"{inst.wide} groups of bytes, but no marks that say which")
            return self.operand(addr, dtype, (*shape, depth), strides)
        groups = depth // GROUP
        if dtype is not DType.I4X2 or depth % GROUP:
            raise AccessError(
                f"groups are rows of i4x2 of a multiple of {GROUP}, not {depth} of {dtype.name.lower()}"
            )
        if wide > groups:
            raise AccessError(f"{wide} groups of bytes, but {groups} groups")
        marks = self.vector(inst.marks, DType.UI8, -(-groups // 8))
        row = isa.group_row_bytes(depth, wide)
        rows = self.view(addr, DType.UI8, (*shape, row), (*strides[:-1], 1))

        def expanded() -> Ints:
            narrow = narrow_groups(marks, groups)
            if groups - int(narrow.sum()) != wide:
                raise AccessError(f"{groups - int(narrow.sum())} groups are marked, not {wide}")
            return expand_rows(rows.reshape(-1, row), narrow, depth, 1).reshape(*shape, depth)

        return expanded


class Places(Port):
    """A port that checks every place and gives nothing: for machines that compute no data."""

    _NOTHING = np.empty(0, np.uint8)

    def view(
        self, addr: Addr, dtype: DType, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> NDArray[Any]:
        """Checks a view of elements; an empty array."""
        self.memories.check(self.resolve(addr), dtype, shape, strides)
        return self._NOTHING


def check_types(*dtypes: DType, bits: int = 64) -> None:
    """AccessError for element types that the units for blocks do not read or write."""
    for dtype in dtypes:
        if dtype is DType.I4X2 or 8 * dtype.size > bits:
            raise AccessError(
                f"an element is one number of up to {bits} bits, not {dtype.name.lower()}"
            )


def rounding_of(inst: Any) -> arithmetic.Rounding:
    """The name that `semantics` gives to an instruction's rounding."""
    return cast("arithmetic.Rounding", cast("Rounding", inst.rounding).name.lower())


def accumulate(acc: NDArray[Any], product: Ints, previous: Ints | None, more: bool) -> None:
    """Write `product` plus a bias, or plus the accumulators' contents; int32 never wraps."""
    if more:
        product = product + acc
    elif previous is not None:
        product = product + previous
    if product.size and (int(product.max()) >= 1 << 31 or int(product.min()) < -(1 << 31)):
        raise AccessError("an accumulator leaves 32 bits")
    acc[...] = product


def check_macs(inst: isa.UnitInst) -> None:
    """Refuse a size that no chip memory can hold the operands of."""
    if inst.macs() > MAX_MACS or inst.elements() > MAX_MACS:
        raise AccessError("the instruction is larger than any memory")
