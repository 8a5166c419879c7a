"""Instructions of the table unit: tables and elementwise operations."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import (
    DType,
    Engine,
    Flag,
    Rounding,
)
from vit_opt.dialects.vit_accel.fields import (
    NO_ADDR,
    Addr,
    address,
    choice,
    signed,
    unsigned,
)
from vit_opt.dialects.vit_accel.isa_base import (
    Binary,
    Block,
    Count,
    Dst,
    OptVector,
    Round,
    RowMap,
    Shift,
    Src,
    Stride,
    Type,
    UnitInst,
    ZeroPoint,
    ceil_div,
)


@dataclass(frozen=True)
class Lut(RowMap):
    """Any function of 8-bit codes by a table of 256 entries.

    for i < rows, j < cols:  dst[i*dst_row][j] = table[src[i*src_row][j] - smallest code]
    """

    opcode: ClassVar[int] = 0x48
    mnemonic: ClassVar[str] = "table.lut"
    engine_of: ClassVar[Engine] = Engine.TABLE
    table: Annotated[Addr, address("entries of dst_type, one per code")]

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.table_width) + arch.table_latency


@dataclass(frozen=True)
class Lut16(RowMap):
    """Any function of 16-bit codes by 257 int16 entries and linear interpolation.

    for i < rows, j < cols:
        c = src[i*src_row][j] - smallest code;  t = c >> 8;  g = c & 255
        dst[i*dst_row][j] = table[t] + round((table[t+1] - table[t]) * g, 8)
    """

    opcode: ClassVar[int] = 0x49
    mnemonic: ClassVar[str] = "table.lut16"
    engine_of: ClassVar[Engine] = Engine.TABLE
    multiplies: ClassVar[bool] = True
    table: Annotated[Addr, address("257 int16")]

    def cycles(self, arch: AccelTarget) -> int:
        return 2 * ceil_div(self.rows * self.cols, arch.table_width) + arch.table_latency


@dataclass(frozen=True)
class ShiftGelu(RowMap):
    """GELU by shifts, per element: x * sigmoid(1.702 x) with 7 more fractional bits.

    for i < rows, j < cols:  dst[i*dst_row][j] = sat(shift_gelu(src[i*src_row][j], frac))
    """

    opcode: ClassVar[int] = 0x4A
    mnemonic: ClassVar[str] = "table.gelu"
    engine_of: ClassVar[Engine] = Engine.TABLE
    multiplies: ClassVar[bool] = True
    frac: Annotated[int, unsigned(5, "fractional bits of the input")]

    def cycles(self, arch: AccelTarget) -> int:
        """One division per element; the dividers are pipelined, as wide as an eighth of the unit."""
        width = max(1, arch.table_width // 8)
        return ceil_div(self.rows * self.cols, width) + arch.divider_latency


@dataclass(frozen=True)
class Mul(Binary):
    """Elementwise product, rounded once.

    for i < rows, j < cols, s = shifts is none ? shift : shifts[j]:
        t = (a[i*a_row + j*a_col] - zp_a) * (b[i*b_row + j*b_col] - zp_b)
        dst[i*dst_row][j] = sat(round(t, s) + zp_out)
    """

    opcode: ClassVar[int] = 0x4B
    mnemonic: ClassVar[str] = "table.mul"
    engine_of: ClassVar[Engine] = Engine.TABLE
    multiplies: ClassVar[bool] = True
    shift: Shift = 0
    shifts: OptVector = NO_ADDR
    zp_a: ZeroPoint = 0
    zp_b: ZeroPoint = 0
    zp_out: ZeroPoint = 0
    rounding: Round = Rounding.RHU

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.table_width) + arch.table_latency


@dataclass(frozen=True)
class Clamp(Block):
    """Clamp codes (ReLU, ReLU6, Clip).

    for i < rows, j < cols:  dst[i*dst_row][j] = min(max(src[i*src_row][j], low), high)
    """

    opcode: ClassVar[int] = 0x4C
    mnemonic: ClassVar[str] = "table.clamp"
    engine_of: ClassVar[Engine] = Engine.TABLE
    dst: Dst
    src: Src
    dst_row: Stride
    src_row: Stride
    type: Type
    low: Annotated[int, signed(33, "smallest code")]
    high: Annotated[int, signed(33, "largest code")]

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.table_width) + arch.table_latency


@dataclass(frozen=True)
class Lerp(Block):
    """One output row of a bilinear resize: rows = output pixels, cols = channels.

    for x < rows, c < cols, with i0 = param[0][x], i1 = param[1][x], u0 = param[2][x],
    u1 = param[3][x] (four vectors of `rows` uint16; u in Q.8):
        t = w0 * (u0 * top[i0*pix][c] + u1 * top[i1*pix][c])
          + w1 * (u0 * low[i0*pix][c] + u1 * low[i1*pix][c])
        dst[x*dst_row][c] = sat(round(t - zp_in * 2^16, 16 + shift) + zp_out)
    """

    opcode: ClassVar[int] = 0x4D
    mnemonic: ClassVar[str] = "table.lerp"
    engine_of: ClassVar[Engine] = Engine.TABLE
    multiplies: ClassVar[bool] = True
    dst: Dst
    top: Annotated[Addr, address("upper source row")]
    low: Annotated[Addr, address("lower source row")]
    param: Annotated[Addr, address("4 x rows uint16: indices and weights")]
    dst_row: Stride
    pix: Annotated[int, unsigned(32, "bytes between source pixels")]
    src_type: Type
    dst_type: Type
    w0: Annotated[int, unsigned(9, "weight of the upper row, Q.8")]
    w1: Annotated[int, unsigned(9, "weight of the lower row, Q.8")]
    shift: Shift = 0
    zp_in: ZeroPoint = 0
    zp_out: ZeroPoint = 0
    rounding: Round = Rounding.RHU

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(4 * self.rows * self.cols, arch.table_width) + arch.table_latency


@dataclass(frozen=True)
class Gather(UnitInst):
    """Gather runs of bytes by index.

    for i < count:  dst[i*dst_row : +run] = src[index[i]*src_row : +run]
    """

    opcode: ClassVar[int] = 0x4E
    mnemonic: ClassVar[str] = "table.gather"
    engine_of: ClassVar[Engine] = Engine.TABLE
    dst: Dst
    src: Src
    index: Annotated[Addr, address("count uint32")]
    count: Count
    run: Annotated[int, unsigned(24, "bytes per index")]
    dst_row: Stride
    src_row: Stride

    def cycles(self, arch: AccelTarget) -> int:
        return self.count * ceil_div(self.run, arch.table_width) + arch.table_latency

    def elements(self) -> int:
        return self.count


@dataclass(frozen=True)
class Sum(Block):
    """Sum over rows.

    for j < cols:
        acc[j] = (accumulate ? acc[j] : 0) + sum_{i < rows} (src[i*src_row][j] - zp)
    """

    opcode: ClassVar[int] = 0x4F
    mnemonic: ClassVar[str] = "table.sum"
    engine_of: ClassVar[Engine] = Engine.TABLE
    acc: Annotated[Addr, address("cols sums")]
    src: Src
    src_row: Stride
    src_type: Type
    acc_type: Type = DType.I64
    zp: ZeroPoint = 0
    accumulate: Annotated[Flag, choice(Flag, "start from the sums' contents")] = Flag.OFF

    def cycles(self, arch: AccelTarget) -> int:
        return self.rows * ceil_div(self.cols, arch.table_width) + arch.table_latency


@dataclass(frozen=True)
class Mean(RowMap):
    """Rounded division of sums by a count: the end of a mean or an average pooling.

    for i < rows, j < cols, n = counts is none ? count : counts[i]:
        dst[i*dst_row][j] = sat(floor((2a + b) / (2b)) + zp_out)
            with a = src[i*src_row][j] << max(0, -shift),  b = n << max(0, shift)
    """

    opcode: ClassVar[int] = 0x50
    mnemonic: ClassVar[str] = "table.mean"
    engine_of: ClassVar[Engine] = Engine.TABLE
    multiplies: ClassVar[bool] = True
    count: Annotated[int, unsigned(32, "divisor")] = 1
    counts: Annotated[Addr, address("uint32 per row, or none")] = NO_ADDR
    shift: Annotated[int, signed(8, "frac of the input - frac of the result")] = 0
    zp_out: ZeroPoint = 0
    rounding: Round = Rounding.RHU

    def cycles(self, arch: AccelTarget) -> int:
        """One division per element, pipelined, an eighth of the unit wide."""
        width = max(1, arch.table_width // 8)
        return ceil_div(self.rows * self.cols, width) + arch.divider_latency
