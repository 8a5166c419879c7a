"""Instructions on blocks of rows that rescale: shifters, softmax, LayerNorm, divisions."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import (
    DivMode,
    DType,
    Engine,
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
    UNLIMITED,
    Batch,
    BatchStride,
    Binary,
    Block,
    Dst,
    High,
    Low,
    OptVector,
    Round,
    RowMap,
    Shift,
    Src,
    Stride,
    Type,
    ZeroPoint,
    ceil_div,
)


@dataclass(frozen=True)
class Requant(RowMap):
    """Requantisation by a shift: one rounding, zero point, saturation.

    for i < rows, j < cols, s = shifts is none ? shift : shifts[j]:
        dst[i*dst_row][j] = sat(round(src[i*src_row][j] - zp_in, s) + zp_out)

    Saturation is to the codes of `dst_type` from `low` to `high`: ReLU and Clip on the way. It
    traps where there are none.
    """

    opcode: ClassVar[int] = 0x30
    mnemonic: ClassVar[str] = "shift.requant"
    engine_of: ClassVar[Engine] = Engine.SHIFT
    shift: Shift = 0
    shifts: OptVector = NO_ADDR
    zp_in: ZeroPoint = 0
    zp_out: ZeroPoint = 0
    rounding: Round = Rounding.RHU
    low: Low = UNLIMITED[0]
    high: High = UNLIMITED[1]

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.shift_width) + arch.shift_latency


@dataclass(frozen=True)
class Add(Binary):
    """Addition on a common grid, rounded once: an accumulator may be added to a residual.

    for i < rows, j < cols, (la, lb, s) = shifts is none ? (shift_a, shift_b, shift) : shifts[*][j]:
        t = ((a[i*a_row + j*a_col] - zp_a) << la) + ((b[i*b_row + j*b_col] - zp_b) << lb)
        dst[i*dst_row][j] = sat(round(t, s) + zp_out)

    A stride of 0 repeats a row or a column; `shifts` holds three rows of `cols` int8. Saturation is
    that of `shift.requant`.
    """

    opcode: ClassVar[int] = 0x31
    mnemonic: ClassVar[str] = "shift.add"
    engine_of: ClassVar[Engine] = Engine.SHIFT
    shift_a: Shift = 0
    shift_b: Shift = 0
    shift: Shift = 0
    shifts: Annotated[Addr, address("3 x cols int8 (la, lb, s), or none")] = NO_ADDR
    zp_a: ZeroPoint = 0
    zp_b: ZeroPoint = 0
    zp_out: ZeroPoint = 0
    rounding: Round = Rounding.RHU
    low: Low = UNLIMITED[0]
    high: High = UNLIMITED[1]

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.shift_width) + arch.shift_latency


@dataclass(frozen=True)
class NormalizeInst(Block):
    """Rows divided by one divisor each."""

    multiplies: ClassVar[bool] = True

    dst: Dst
    acc: Annotated[Addr, address("rows x cols dividends")]
    div: Annotated[Addr, address("one divisor per row, 32 bits")]
    dst_row: Stride
    acc_row: Stride
    div_row: Stride
    shift: Shift
    dst_type: Type
    acc_type: Type = DType.I32
    div_type: Type = DType.UI32
    shifts: OptVector = NO_ADDR
    zp: ZeroPoint = 0
    rounding: Round = Rounding.RHU


@dataclass(frozen=True)
class Divide(NormalizeInst):
    """Division of linear attention, by a 16-bit reciprocal or by a power of two.

    for p < batch, i < rows:
        to = p*dst_batch + i*dst_row;  at = p*acc_batch + i*acc_row
        d = div[p*div_batch + i*div_row];  nb = bit length of d;  R = floor(2^(nb+15) / d)
        for j < cols, s = shifts is none ? shift : shifts[j]:
            recip:  dst[to][j] = sat(round(acc[at][j] * R, nb + 15 + s) + zp)
            pot:    dst[to][j] = sat(round(acc[at][j], L + s) + zp),
                    L = log2 of d, rounded in the log domain
        d = 0 gives sat(zp)
    """

    opcode: ClassVar[int] = 0x2A
    mnemonic: ClassVar[str] = "dw.divide"
    engine_of: ClassVar[Engine] = Engine.DW
    mode: Annotated[DivMode, choice(DivMode, "divisor")] = DivMode.RECIP
    batch: Batch = 1
    dst_batch: BatchStride = 0
    acc_batch: BatchStride = 0
    div_batch: BatchStride = 0

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.elements(), arch.divider_width) + arch.divider_latency

    def elements(self) -> int:
        return self.batch * self.rows * self.cols


@dataclass(frozen=True)
class Normalize(NormalizeInst):
    """Second half of the deferred softmax: one division a row, after the product with V.

    for i < rows:
        d = div[i*div_row];  nb = bit length of d;  R = floor(2^(nb+15) / d)
        for j < cols, s = shifts is none ? shift : shifts[j]:
            dst[i*dst_row][j] = sat(round(acc[i*acc_row][j] * R, nb + 15 + s) + zp)
        d = 0 traps: a sum of exponentials is at least 255
    """

    opcode: ClassVar[int] = 0x39
    mnemonic: ClassVar[str] = "softmax.normalize"
    engine_of: ClassVar[Engine] = Engine.SOFTMAX

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.softmax_width) + arch.divider_latency


@dataclass(frozen=True)
class SoftmaxExp(Block):
    """First half of the deferred softmax: exponentials from a 256-entry table and their sum.

    for i < rows:
        mx = max_j src[i*src_row][j]
        for j < cols:  p[i*p_row][j] = T[min(255, round(mx - src[i][j], shift))]
        sum[i*sum_row] = sum_j p[i][j]              T[u] = floor(255 * exp(-u/16) + 1/2)
    """

    opcode: ClassVar[int] = 0x38
    mnemonic: ClassVar[str] = "softmax.exp"
    engine_of: ClassVar[Engine] = Engine.SOFTMAX
    p: Annotated[Addr, address("rows x cols ui8 exponentials")]
    sum: Annotated[Addr, address("one ui32 per row")]
    src: Annotated[Addr, address("rows x cols scores")]
    p_row: Stride
    sum_row: Stride
    src_row: Stride
    src_type: Type
    frac: Annotated[int, signed(8, "fractional bits e of the scores; shift = e - 4")]

    def cycles(self, arch: AccelTarget) -> int:
        """Two sweeps (maximum, then table and sum) of one row overlap the next row's."""
        return self.rows * ceil_div(self.cols, arch.softmax_width) + arch.softmax_latency


@dataclass(frozen=True)
class Shiftmax(RowMap):
    """Softmax by shifts (I-ViT) over each row; an 8- or 16-bit result with one bit less of frac.

    for i < rows:
        E_j = exponential by shifts of src[i*src_row][j] - max, n octaves;  S = sum E
        dst[i*dst_row][j] = sat(round(E_j * floor((2^31-1) / S), 32 - bits of dst_type))
    """

    opcode: ClassVar[int] = 0x3A
    mnemonic: ClassVar[str] = "softmax.shiftmax"
    engine_of: ClassVar[Engine] = Engine.SOFTMAX
    multiplies: ClassVar[bool] = True
    frac: Annotated[int, unsigned(5, "fractional bits of the scores")]
    n: Annotated[int, unsigned(5, "octaves kept")] = 15
    rounding: Round = Rounding.RHU

    def cycles(self, arch: AccelTarget) -> int:
        sweeps = 2 * ceil_div(self.cols, arch.softmax_width)
        return self.rows * sweeps + arch.softmax_latency + arch.divider_latency


@dataclass(frozen=True)
class Log2Softmax(Block):
    """Softmax to 4-bit logarithmic codes over each row: 2^-code, 15 for zero.

    for i < rows:  dst[i*dst_row][*] = log2_softmax(src[i*src_row][*], frac)
    """

    opcode: ClassVar[int] = 0x3B
    mnemonic: ClassVar[str] = "softmax.log2"
    engine_of: ClassVar[Engine] = Engine.SOFTMAX
    dst: Dst
    src: Src
    dst_row: Stride
    src_row: Stride
    src_type: Type
    frac: Annotated[int, unsigned(5, "fractional bits of the scores")]

    def cycles(self, arch: AccelTarget) -> int:
        return self.rows * 2 * ceil_div(self.cols, arch.softmax_width) + arch.softmax_latency


@dataclass(frozen=True)
class LayerNorm(RowMap):
    """LayerNorm over each row with one integer square root and one division a row.

    for i < rows:
        X_j = (src[i*src_row][j] - zp_in) << in_shifts[j]
        S1 = sum X;  S2 = sum X^2;  V = cols*S2 - S1^2 + eps
        T = max(1, isqrt(V << 12));  nb = bit length of T;  R = floor(2^(nb+16) / T)
        N_j = round((cols*X_j - S1) * R, nb)
        dst[i*dst_row][j] = sat(round(N_j*gamma[j] + (beta[j] << beta_shift), shift[j]) + zp_out)

    V has 63 bits. The root is exact however wide V << 12 is: it is taken two bits a step, the last
    six steps reading zeros, so that the radicand is never formed.
    """

    opcode: ClassVar[int] = 0x40
    mnemonic: ClassVar[str] = "norm.layernorm"
    engine_of: ClassVar[Engine] = Engine.NORM
    multiplies: ClassVar[bool] = True
    gamma: Annotated[Addr, address("cols gains")]
    beta: Annotated[Addr, address("cols int32 offsets")]
    gamma_type: Type
    beta_shift: Shift
    shift: Shift
    in_shifts: Annotated[Addr, address("int8 left shift per column, or none: 0")] = NO_ADDR
    shifts: OptVector = NO_ADDR
    eps: Annotated[int, unsigned(48, "added to the variance term V")] = 0
    zp_in: ZeroPoint = 0
    zp_out: ZeroPoint = 0
    rounding: Round = Rounding.RHU

    def cycles(self, arch: AccelTarget) -> int:
        """Sums of one row overlap the outputs of the row before."""
        return (self.rows + 1) * ceil_div(self.cols, arch.norm_width) + arch.norm_latency
