"""One instruction for one operation of the `vit` dialect, on blocks that lie on chip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation, SSAValue

from vit_opt.backends.accel.lowering.arena import Use, whole
from vit_opt.backends.accel.lowering.context import Lowering, fixed_format, where
from vit_opt.backends.accel.lowering.tensors import (
    Block,
    Ints,
    load_vector,
    value_format,
    value_shape,
)
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType, Rounding
from vit_opt.dialects.vit_accel.fields import NO_ADDR, Addr, Space
from vit_opt.dialects.vit_accel.isa_base import UNLIMITED

RowMapFields = tuple[int, int, Addr, Addr, int, int, DType, DType]
BinaryFields = tuple[int, int, Addr, Addr, Addr, int, int, int, int, int, DType, DType, DType]


@dataclass(frozen=True)
class Window:
    """The part of a tensor that a block covers: columns `col` on, and the outer channel if any."""

    rows: int
    cols: int
    col: int
    channel: int | None = None
    """Index along a channel axis that is not the last, where parameters vary by it."""


@dataclass
class Emit:
    """A step being emitted: collects what the instruction reads."""

    lowering: Lowering
    window: Window
    reads: list[Use] = field(default_factory=list[Use])
    into: list[Block] = field(default_factory=list[Block])
    """Where results are to be written, in their order; by default to new buffers."""
    limits: tuple[int, int] = UNLIMITED
    """Smallest and largest code of the result, where a clamp behind the step is a part of it."""

    def vector(self, values: Ints) -> tuple[int, Addr]:
        """Shifts as an immediate, or as a vector in the parameter buffer: (immediate, address)."""
        values = np.clip(values, -127, 127)
        if values.ndim == 0:
            return int(values), NO_ADDR
        if self.window.channel is not None:
            return int(values[self.window.channel]), NO_ADDR
        if (values == values[0]).all():
            return int(values[0]), NO_ADDR
        return 0, self.parameters(values.astype(np.int8))

    def parameters(self, values: np.ndarray[Any, Any]) -> Addr:
        """Entries of constant vectors for the columns of the window, in the parameter buffer."""
        builder = self.lowering.builder
        region = load_vector(builder, values, self.window.col, self.window.cols)
        self.reads.append(whole(region))
        return region.addr()

    def read(self, block: Block) -> Block:
        """Note that the instruction reads a block."""
        self.reads.append(block.use(self.window.rows, self.window.cols))
        return block

    def read_column(self, block: Block) -> Block:
        """Note that the instruction reads one entry of a block for each row."""
        self.reads.append(block.use(self.window.rows, 1))
        return block

    def read_row(self, block: Block, count: int) -> Block:
        """Note that the instruction reads entries of a parameter, for any number of rows."""
        self.reads.append(block.use(1, count))
        return block

    def result(self, value: SSAValue, cols: int | None = None) -> Block:
        """A new block for a result; `cols` where it differs from the window's."""
        if self.into:
            return self.into.pop(0)
        dtype = value_format(value)[0]
        width = (self.window.cols if cols is None else cols) * dtype.size
        region = self.lowering.builder.allocate(Space.OBUF, self.window.rows * width)
        return Block(region, dtype, width, dtype.size)

    def row_map(self, x: Block, y: Block) -> RowMapFields:
        """The window and where an `isa.RowMap` reads and writes it."""
        rows, cols = self.window.rows, self.window.cols
        return rows, cols, y.addr, x.addr, y.row, x.row, x.dtype, y.dtype

    def binary(self, a: Block, b: Block, y: Block) -> BinaryFields:
        """The window and where an `isa.Binary` reads and writes it."""
        rows, cols = self.window.rows, self.window.cols
        strides = (y.row, a.row, b.row, a.col, b.col)
        return (rows, cols, y.addr, a.addr, b.addr, *strides, a.dtype, b.dtype, y.dtype)

    def emit(self, inst: isa.UnitInst, y: Block, total: Block | None = None) -> list[Block]:
        """Append the instruction; `total` takes one entry for each row."""
        writes = [y.use(self.window.rows, self.window.cols)]
        if total is not None:
            writes.append(total.use(self.window.rows, 1))
        self.lowering.builder.emit(inst, self.reads, writes)
        return [y] if total is None else [y, total]


Step = Callable[[Emit, Any, Sequence[Block]], list[Block]]


def rounding(op: Any) -> Rounding:
    """The rounding that an operation names."""
    name: StringAttr = op.rounding
    return Rounding[name.data.upper()]


def _requant(e: Emit, op: ops.PotRequantOp, args: Sequence[Block]) -> list[Block]:
    source, target = fixed_format(op.x), fixed_format(op.result)
    x, y = e.read(args[0]), e.result(op.result)
    shift, shifts = e.vector(source.channel_fracs() - target.channel_fracs())
    inst = isa.Requant(
        *e.row_map(x, y),
        shift,
        shifts,
        source.zero_point,
        target.zero_point,
        rounding(op),
        *e.limits,
    )
    return e.emit(inst, y)


def _add(e: Emit, op: ops.AddOp, args: Sequence[Block]) -> list[Block]:
    formats = [fixed_format(value) for value in (op.a, op.b, op.result)]
    fa, fb, fo = (f.channel_fracs() for f in formats)
    common = np.maximum(fa, fb)
    gaps = np.stack(np.broadcast_arrays(common - fa, common - fb, common - fo))
    gaps = np.clip(gaps, -127, 127)
    if gaps.ndim == 2 and e.window.channel is not None:
        gaps = gaps[:, e.window.channel]
    a, b, y = e.read(args[0]), e.read(args[1]), e.result(op.result)
    shifts, (left, right, down) = NO_ADDR, (0, 0, 0)
    if gaps.ndim == 1 or (gaps == gaps[:, :1]).all():
        left, right, down = (int(gap) for gap in (gaps if gaps.ndim == 1 else gaps[:, 0]))
    else:
        shifts = e.parameters(gaps.astype(np.int8))
    za, zb, zo = (f.zero_point for f in formats)
    inst = isa.Add(
        *e.binary(a, b, y),
        left,
        right,
        down,
        shifts,
        za,
        zb,
        zo,
        rounding(op),
        *e.limits,
    )
    return e.emit(inst, y)


def _mul(e: Emit, op: ops.MulOp, args: Sequence[Block]) -> list[Block]:
    formats = [fixed_format(value) for value in (op.a, op.b, op.result)]
    fa, fb, fo = (f.channel_fracs() for f in formats)
    a, b, y = e.read(args[0]), e.read(args[1]), e.result(op.result)
    shift, shifts = e.vector(fa + fb - fo)
    za, zb, zo = (f.zero_point for f in formats)
    inst = isa.Mul(
        *e.binary(a, b, y),
        shift,
        shifts,
        za,
        zb,
        zo,
        rounding(op),
    )
    return e.emit(inst, y)


def _clamp(e: Emit, op: ops.ClampOp, args: Sequence[Block]) -> list[Block]:
    x, y = e.read(args[0]), e.result(op.result)
    limits = clamp_limits(op)
    inst = isa.Clamp(e.window.rows, e.window.cols, y.addr, x.addr, y.row, x.row, y.dtype, *limits)
    return e.emit(inst, y)


def clamp_limits(op: ops.ClampOp) -> tuple[int, int]:
    """Smallest and largest code that a clamp leaves, within its element type."""
    low, high = value_format(op.result)[0].bounds
    smallest, largest = op.min.value.data, op.max.value.data
    return min(max(smallest, low), high), min(max(largest, low), high)


def _lut(e: Emit, op: ops.LutOp, args: Sequence[Block]) -> list[Block]:
    entries = value_shape(op.table)[0]
    x, table, y = e.read(args[0]), e.read_row(args[1], entries), e.result(op.result)
    cls = isa.Lut if x.dtype.size == 1 else isa.Lut16
    inst = cls(*e.row_map(x, y), table.addr)
    return e.emit(inst, y)


def _shift_gelu(e: Emit, op: ops.ShiftGeluOp, args: Sequence[Block]) -> list[Block]:
    _require_standard(op)
    x, y = e.read(args[0]), e.result(op.result)
    frac = fixed_format(op.x).frac
    inst = isa.ShiftGelu(*e.row_map(x, y), frac)
    return e.emit(inst, y)


def _require_standard(op: Any) -> None:
    """Conformance forms of published code run on the reference and in C only."""
    mode: StringAttr = op.mode
    if mode.data != "standard":
        raise VitError(
            f"{where(op)}: mode '{mode.data}' has no unit in the accelerator; use the standard form"
        )


def _softmax_exp(e: Emit, op: ops.SoftmaxExpOp, args: Sequence[Block]) -> list[Block]:
    s, p, total = e.read(args[0]), e.result(op.p), e.result(op.sum, cols=1)
    inst = isa.SoftmaxExp(
        e.window.rows,
        e.window.cols,
        p.addr,
        total.addr,
        s.addr,
        p.row,
        total.row,
        s.row,
        s.dtype,
        fixed_format(op.s).frac,
    )
    return e.emit(inst, p, total)


def _normalize(e: Emit, op: ops.NormalizeOp, args: Sequence[Block]) -> list[Block]:
    source, target = fixed_format(op.acc), fixed_format(op.result)
    acc, total, y = e.read(args[0]), e.read_column(args[1]), e.result(op.result)
    shift, shifts = e.vector(source.channel_fracs() - target.channel_fracs())
    inst = isa.Normalize(
        e.window.rows,
        e.window.cols,
        y.addr,
        acc.addr,
        total.addr,
        y.row,
        acc.row,
        total.row,
        shift,
        y.dtype,
        acc.dtype,
        total.dtype,
        shifts,
        target.zero_point,
        rounding(op),
    )
    return e.emit(inst, y)


def _shiftmax(e: Emit, op: ops.ShiftmaxOp, args: Sequence[Block]) -> list[Block]:
    _require_standard(op)
    s, y = e.read(args[0]), e.result(op.result)
    inst = isa.Shiftmax(
        *e.row_map(s, y),
        fixed_format(op.s).frac,
        op.n.value.data,
        rounding(op),
    )
    return e.emit(inst, y)


def _log2_softmax(e: Emit, op: ops.Log2SoftmaxOp, args: Sequence[Block]) -> list[Block]:
    s, y = e.read(args[0]), e.result(op.result)
    inst = isa.Log2Softmax(
        e.window.rows,
        e.window.cols,
        y.addr,
        s.addr,
        y.row,
        s.row,
        s.dtype,
        fixed_format(op.s).frac,
    )
    return e.emit(inst, y)


def _layernorm(e: Emit, op: ops.LayerNormOp, args: Sequence[Block]) -> list[Block]:
    _require_standard(op)
    cols = e.window.cols
    x, gamma, y = e.read(args[0]), e.read_row(args[1], cols), e.result(op.result)
    source, target = fixed_format(op.x), fixed_format(op.result)
    fx, fg, fb = (fixed_format(v).channel_fracs() for v in (op.x, op.gamma, op.beta))
    raise_by = 10 + fg - fb
    beta_shift = int(raise_by.min())
    beta = e.read_row(args[2], cols).addr
    if (raise_by != beta_shift).any():
        codes = e.lowering.constant(op.beta, op, "beta with a scale per channel").astype(np.int64)
        codes = codes << (raise_by - beta_shift)
        if np.abs(codes).max() >= 1 << 31:
            raise VitError(f"{where(op)}: beta on one grid needs more than 32 bits")
        beta = e.parameters(codes.astype(np.int32))
    shift, shifts = e.vector(np.asarray(10 + fg - target.channel_fracs()))
    in_shift = np.asarray(fx.max() - fx)
    in_shifts = e.parameters(in_shift.astype(np.int8)) if in_shift.any() else NO_ADDR
    inst = isa.LayerNorm(
        *e.row_map(x, y),
        gamma.addr,
        beta,
        gamma.dtype,
        beta_shift,
        shift,
        in_shifts,
        shifts,
        op.eps_q.value.data,
        source.zero_point,
        target.zero_point,
        rounding(op),
    )
    return e.emit(inst, y)


STEPS: dict[type[Operation], Step] = {
    ops.PotRequantOp: _requant,
    ops.AddOp: _add,
    ops.MulOp: _mul,
    ops.ClampOp: _clamp,
    ops.LutOp: _lut,
    ops.ShiftGeluOp: _shift_gelu,
    ops.SoftmaxExpOp: _softmax_exp,
    ops.NormalizeOp: _normalize,
    ops.ShiftmaxOp: _shiftmax,
    ops.Log2SoftmaxOp: _log2_softmax,
    ops.LayerNormOp: _layernorm,
}
"""The instruction behind each operation that works on blocks of rows."""

CLAMPED = (ops.PotRequantOp, ops.AddOp)
"""Operations whose instruction can clamp its result."""

WHOLE_ROWS = (ops.SoftmaxExpOp, ops.ShiftmaxOp, ops.Log2SoftmaxOp, ops.LayerNormOp)
"""Operations that need all columns of a row at once."""

PARAMETERS: dict[type[Operation], tuple[int, ...]] = {
    ops.LutOp: (1,),
    ops.LayerNormOp: (1, 2),
}
"""Operands that are vectors of parameters rather than rows."""
