"""What all instructions of a unit share: field types, and blocks of rows."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, ClassVar

from vit_opt.dialects.vit_accel.enums import DType, Engine, Rounding
from vit_opt.dialects.vit_accel.fields import Addr, Inst, address, choice, signed, some, unsigned

Count = Annotated[int, unsigned(16, "number of elements along this axis")]
Stride = Annotated[int, unsigned(32, "bytes between neighbours along this axis")]
Batch = Annotated[int, unsigned(16, "number of blocks of equal shape")]
BatchStride = Annotated[int, unsigned(32, "bytes between the blocks of a batch; 0 repeats one")]
Shift = Annotated[int, signed(8, "right shift (negative: left)")]
ZeroPoint = Annotated[int, signed(33, "code of real zero")]
Type = Annotated[DType, choice(DType, "element type")]
Round = Annotated[Rounding, choice(Rounding, "rounding")]
Dst = Annotated[Addr, address("result")]
Src = Annotated[Addr, address("operand")]
OptVector = Annotated[Addr, address("int8 shift per column, or none: use the immediate")]


Outside = Annotated[int, unsigned(16, "rows or columns under the windows that lie outside")]
Fill = Annotated[int, signed(33, "code that is read outside")]

UNLIMITED = (-(1 << 32), (1 << 32) - 1)
"""Limits that leave the element type's own."""

Low = Annotated[int, signed(33, "smallest code of the result, if above the element type's")]
High = Annotated[int, signed(33, "largest code of the result, if below the element type's")]


def between(giver: Engine, taker: Engine) -> int:
    """The semaphore with which one engine lets another go on."""
    return giver * len(Engine) + taker


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below a / b."""
    return -(-a // b)


@dataclass(frozen=True)
class UnitInst(Inst):
    """An instruction of one engine's unit, with what it waits for and what it signals.

    Every ordered pair of engines has a semaphore, `between(giver, taker)`. Before the unit begins,
    the sequencer does `wait sem=between(other, engine)` for each of `wait`, in the order of the
    engines; behind it, `signal sem=between(engine, other)` for each of `signal`.
    """

    _: KW_ONLY
    wait: Annotated[tuple[Engine, ...], some(Engine, "whose tokens it takes before it begins")] = ()
    signal: Annotated[tuple[Engine, ...], some(Engine, "to whom it gives one when complete")] = ()
    engine_of: ClassVar[Engine]
    multiplies: ClassVar[bool] = False
    """Whether an element costs a wide multiplication rather than a shift, addition or look-up."""

    @property
    def engine(self) -> Engine:
        """The engine whose queue it belongs to."""
        return self.engine_of

    def macs(self) -> int:
        """Multiply-accumulates, for utilisation and energy."""
        return 0

    def narrow_macs(self) -> int:
        """Those of them by codes of 4 bits, which the array multiplies `int4_rate` a cycle."""
        return 0

    def elements(self) -> int:
        """Element operations other than MACs, for energy."""
        return 0


@dataclass(frozen=True)
class Block(UnitInst):
    """An instruction on a block of `rows x cols` elements."""

    rows: Count
    cols: Count

    def elements(self) -> int:
        return self.rows * self.cols


@dataclass(frozen=True)
class RowMap(Block):
    """A block of rows made from one other block, row by row."""

    dst: Dst
    src: Src
    dst_row: Stride
    src_row: Stride
    src_type: Type
    dst_type: Type


@dataclass(frozen=True)
class Binary(Block):
    """A block of rows made from two others, element by element."""

    dst: Dst
    a: Src
    b: Src
    dst_row: Stride
    a_row: Stride
    b_row: Stride
    a_col: Stride
    b_col: Stride
    a_type: Type
    b_type: Type
    dst_type: Type
