"""The instruction set of the accelerator, declared once.

The machine. Eight engines with an in-order queue each: `ld` and `st` move data between DRAM and
the chip, `mac` is the multiply-accumulate array, `dw` the reconfigurable engine (depthwise
convolution, pooling, divisors), `shift` the shifters that requantise, `softmax`, `norm`
(LayerNorm) and `table` (tables and elementwise operations). One program is one stream of
instructions; the dispatcher hands each to the queue of its engine. Engines run ahead of each
other freely and meet only at semaphores (`wait`, `signal`).

The numbers. Integers only; a real value is integer * 2^-frac, so changing a scale is a shift. Every
instruction works on a block: a strided view of `rows x cols` elements, columns contiguous, the row
stride in bytes. Zero points have been folded into biases by the compiler, except where an
instruction has a field for them.

Each docstring gives the loop nest that the instruction executes. `round`, `sat` are the functions
of the same name in `dialects/vit/semantics`, which is the definition.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import (
    DivMode,
    DType,
    Engine,
    Flag,
    MacMap,
    PoolMode,
    Rounding,
)
from vit_opt.dialects.vit_accel.fields import (
    NO_ADDR,
    Addr,
    Inst,
    Space,
    address,
    choice,
    signed,
    unsigned,
)

# Field types that many instructions share.
Count = Annotated[int, unsigned(16, "number of elements along this axis")]
Stride = Annotated[int, unsigned(32, "bytes between neighbours along this axis")]
Shift = Annotated[int, signed(8, "right shift (negative: left)")]
ZeroPoint = Annotated[int, signed(33, "code of real zero")]
Type = Annotated[DType, choice(DType, "element type")]
Round = Annotated[Rounding, choice(Rounding, "rounding")]
Dst = Annotated[Addr, address("result")]
Src = Annotated[Addr, address("operand")]
OptVector = Annotated[Addr, address("int8 shift per column, or none: use the immediate")]


def ceil_div(a: int, b: int) -> int:
    """Smallest integer not below a / b."""
    return -(-a // b)


# -- control: for every engine ----------------------------------------------------------------


@dataclass(frozen=True)
class ControlInst(Inst):
    """An instruction that every engine's sequencer executes."""

    engine: Annotated[Engine, choice(Engine, "whose queue it belongs to")]

    def cycles(self, arch: AccelTarget) -> int:
        return 1

    def name(self) -> str:
        return f"{self.engine.name.lower()}.{self.mnemonic}"


@dataclass(frozen=True)
class Wait(ControlInst):
    """Block the engine until semaphore `sem` holds at least `count`, then subtract `count`.

    while (semaphore[sem] < count) stall;  semaphore[sem] -= count
    """

    opcode: ClassVar[int] = 0x01
    mnemonic: ClassVar[str] = "wait"
    sem: Annotated[int, unsigned(6, "semaphore")]
    count: Annotated[int, unsigned(8, "tokens to take")] = 1


@dataclass(frozen=True)
class Signal(ControlInst):
    """Add `count` to semaphore `sem` when all earlier instructions of the engine are complete.

    semaphore[sem] += count
    """

    opcode: ClassVar[int] = 0x02
    mnemonic: ClassVar[str] = "signal"
    sem: Annotated[int, unsigned(6, "semaphore")]
    count: Annotated[int, unsigned(8, "tokens to give")] = 1


@dataclass(frozen=True)
class Loop(ControlInst):
    """Open a hardware loop of `count` iterations (at least 1); at most 4 are nested per engine.

    for (index[depth] = 0; index[depth] < count; index[depth]++) { body up to the matching end }
    """

    opcode: ClassVar[int] = 0x03
    mnemonic: ClassVar[str] = "loop"
    count: Annotated[int, unsigned(16, "iterations")]


@dataclass(frozen=True)
class End(ControlInst):
    """Close the innermost hardware loop of the engine."""

    opcode: ClassVar[int] = 0x04
    mnemonic: ClassVar[str] = "end"


@dataclass(frozen=True)
class Base(ControlInst):
    """Set an address register and clear its loop strides.

    base[areg] = value;  stride[areg][*] = 0
    """

    opcode: ClassVar[int] = 0x05
    mnemonic: ClassVar[str] = "base"
    areg: Annotated[int, unsigned(4, "address register, 1..15")]
    value: Annotated[int, unsigned(33, "bytes")] = 0


@dataclass(frozen=True)
class Step(ControlInst):
    """Set how far an address register moves in each iteration of the loop at `depth`.

    stride[areg][depth] = step;  effective offset = offset + base[areg] + sum_d index[d] *
    stride[areg][d] over the open loops d, outermost depth 0.
    """

    opcode: ClassVar[int] = 0x06
    mnemonic: ClassVar[str] = "step"
    areg: Annotated[int, unsigned(4, "address register, 1..15")]
    depth: Annotated[int, unsigned(2, "loop level")]
    step: Annotated[int, signed(34, "bytes per iteration")]


# -- units ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitInst(Inst):
    """An instruction of one engine's unit."""

    engine_of: ClassVar[Engine]

    @property
    def engine(self) -> Engine:
        """The engine whose queue it belongs to."""
        return self.engine_of

    def macs(self) -> int:
        """Multiply-accumulates, for utilisation and energy."""
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
class CopyInst(UnitInst):
    """A copy of n0 x n1 x n2 runs of `run` bytes.

    for i0 < n0, i1 < n1, i2 < n2:
        dst[i0*d0 + i1*d1 + i2*d2 : +run] = src[i0*s0 + i1*s1 + i2*s2 : +run]
    """

    dst: Dst
    src: Src
    run: Annotated[int, unsigned(24, "contiguous bytes")]
    n0: Count = 1
    n1: Count = 1
    n2: Count = 1
    d0: Stride = 0
    d1: Stride = 0
    d2: Stride = 0
    s0: Stride = 0
    s1: Stride = 0
    s2: Stride = 0

    def runs(self) -> int:
        """Number of contiguous runs."""
        return self.n0 * self.n1 * self.n2

    def dram_runs(self, side: Addr, strides: tuple[int, int, int]) -> tuple[int, int]:
        """Number and length of the contiguous runs on one side, neighbouring ones merged."""
        runs, length = self.runs(), self.run
        for count, stride in zip((self.n2, self.n1, self.n0), reversed(strides), strict=True):
            if count > 1 and stride != length:
                break
            length, runs = length * count, runs // count
        return (runs, length) if side.space is Space.DRAM else (0, 0)

    def dram_bytes(self, arch: AccelTarget) -> int:
        """Bytes moved on the DRAM bus, whole bursts per contiguous run."""
        total = 0
        for side, strides in (
            (self.dst, (self.d0, self.d1, self.d2)),
            (self.src, (self.s0, self.s1, self.s2)),
        ):
            runs, length = self.dram_runs(side, strides)
            total += runs * ceil_div(length, arch.dram_burst) * arch.dram_burst
        return total

    def cycles(self, arch: AccelTarget) -> int:
        """The slower of DRAM bus and on-chip port; dram_latency is charged by the queue."""
        bus = -int(-self.dram_bytes(arch) // arch.dram_bytes_per_cycle)
        port = self.runs() * ceil_div(self.run, arch.move_width)
        if Space.DRAM in (self.dst.space, self.src.space):
            port = ceil_div(self.runs() * self.run, int(arch.dram_bytes_per_cycle))
        return max(bus, port, 1)


@dataclass(frozen=True)
class Load(CopyInst):
    """Copy from DRAM, or inside the chip, to the chip (queue `ld`).

    for i0 < n0, i1 < n1, i2 < n2:
        dst[i0*d0 + i1*d1 + i2*d2 : +run] = src[i0*s0 + i1*s1 + i2*s2 : +run]
    """

    opcode: ClassVar[int] = 0x10
    mnemonic: ClassVar[str] = "ld.copy"
    engine_of: ClassVar[Engine] = Engine.LD


@dataclass(frozen=True)
class Fill(UnitInst):
    """Fill n0 x n1 runs of `count` elements with one value (queue `ld`).

    for i0 < n0, i1 < n1, j < count:  dst[i0*d0 + i1*d1][j] = value
    """

    opcode: ClassVar[int] = 0x11
    mnemonic: ClassVar[str] = "ld.fill"
    engine_of: ClassVar[Engine] = Engine.LD
    dst: Dst
    count: Annotated[int, unsigned(24, "contiguous elements")]
    value: Annotated[int, signed(33, "code to write")]
    type: Type
    n0: Count = 1
    n1: Count = 1
    d0: Stride = 0
    d1: Stride = 0

    def cycles(self, arch: AccelTarget) -> int:
        return self.n0 * self.n1 * ceil_div(self.count * self.type.size, arch.move_width)


@dataclass(frozen=True)
class Store(CopyInst):
    """Copy from the chip to DRAM (queue `st`).

    for i0 < n0, i1 < n1, i2 < n2:
        dst[i0*d0 + i1*d1 + i2*d2 : +run] = src[i0*s0 + i1*s1 + i2*s2 : +run]
    """

    opcode: ClassVar[int] = 0x18
    mnemonic: ClassVar[str] = "st.copy"
    engine_of: ClassVar[Engine] = Engine.ST


def array_cycles(
    arch: AccelTarget, size: tuple[int, int, int], mapping: MacMap, types: tuple[DType, DType]
) -> int:
    """Cycles of an m x n x k product on the MAC array.

    fill + ceil(lane axis / lanes) * ceil(column axis / columns) * time axis + drain; 16-bit and
    log2 operands take two passes each, int4 weights pair two steps of the reduction in one.
    """
    extents = dict(zip("MNK", size, strict=True))
    if types[1] is DType.I4X2:
        extents["K"] = ceil_div(extents["K"], arch.int4_rate)
    lane, column = mapping.name
    steps = ceil_div(extents.pop(lane), arch.lanes) * ceil_div(extents.pop(column), arch.columns)
    (time,) = extents.values()
    passes = 1
    for dtype in types:
        passes *= 2 if dtype in (DType.I16, DType.UI16, DType.LOG2) else 1
    return arch.array_fill + passes * steps * time + arch.array_drain


@dataclass(frozen=True)
class Matmul(UnitInst):
    """Matrix product into int32 accumulators.

    for i < m, j < n:
        t = accumulate ? acc[i*acc_row][j] : (bias is none ? 0 : bias[j])
        acc[i*acc_row][j] = t + sum_{l < k} a[i*a_row + l*a_step] * b[j*b_row + l*b_step]

    `a_step`, `b_step` are bytes between neighbours along k (an `i4x2` operand is contiguous).
    A sum outside int32 traps: nothing wraps.
    """

    opcode: ClassVar[int] = 0x20
    mnemonic: ClassVar[str] = "mac.matmul"
    engine_of: ClassVar[Engine] = Engine.MAC
    acc: Annotated[Addr, address("m x n int32 accumulators")]
    a: Annotated[Addr, address("m x k left operand")]
    b: Annotated[Addr, address("n x k right operand")]
    m: Count
    n: Count
    k: Count
    acc_row: Stride
    a_row: Stride
    b_row: Stride
    a_type: Type = DType.I8
    b_type: Type = DType.I8
    a_step: Stride = 1
    b_step: Stride = 1
    bias: Annotated[Addr, address("n int32, or none")] = NO_ADDR
    accumulate: Annotated[Flag, choice(Flag, "start from the accumulators' contents")] = Flag.OFF
    map: Annotated[MacMap, choice(MacMap, "axes on the array")] = MacMap.NM

    def cycles(self, arch: AccelTarget) -> int:
        return array_cycles(arch, (self.m, self.n, self.k), self.map, (self.a_type, self.b_type))

    def macs(self) -> int:
        return self.m * self.n * self.k


@dataclass(frozen=True)
class Conv(UnitInst):
    """Convolution of one group into int32 accumulators; the input block carries its own halo.

    for y < oh, x < ow, o < oc:
        t = accumulate ? acc : (bias is none ? 0 : bias[o])
        acc[y*acc_row + x*acc_pix][o] = t + sum_{r < kh, c < kw, i < ic}
            src[(y*sh + r*dh)*src_row + (x*sw + c*dw)*src_pix + i*src_step]
            * w[o*w_row][(r*kw + c)*ic + i]

    `src_step` is the distance of neighbouring channels, so that both image layouts can be read.
    """

    opcode: ClassVar[int] = 0x21
    mnemonic: ClassVar[str] = "mac.conv"
    engine_of: ClassVar[Engine] = Engine.MAC
    acc: Annotated[Addr, address("oh x ow x oc int32 accumulators")]
    src: Annotated[Addr, address("input block")]
    w: Annotated[Addr, address("oc x kh x kw x ic weights")]
    oh: Count
    ow: Count
    oc: Count
    kh: Count
    kw: Count
    ic: Count
    acc_row: Stride
    acc_pix: Stride
    src_row: Stride
    src_pix: Stride
    w_row: Stride
    sh: Annotated[int, unsigned(8, "vertical stride")] = 1
    sw: Annotated[int, unsigned(8, "horizontal stride")] = 1
    dh: Annotated[int, unsigned(8, "vertical dilation")] = 1
    dw: Annotated[int, unsigned(8, "horizontal dilation")] = 1
    src_step: Stride = 1
    src_type: Type = DType.I8
    w_type: Type = DType.I8
    bias: Annotated[Addr, address("oc int32, or none")] = NO_ADDR
    accumulate: Annotated[Flag, choice(Flag, "start from the accumulators' contents")] = Flag.OFF
    map: Annotated[MacMap, choice(MacMap, "axes: m = pixels, n = oc, k = window")] = MacMap.NM

    def cycles(self, arch: AccelTarget) -> int:
        size = (self.oh * self.ow, self.oc, self.kh * self.kw * self.ic)
        return array_cycles(arch, size, self.map, (self.src_type, self.w_type))

    def macs(self) -> int:
        return self.oh * self.ow * self.oc * self.kh * self.kw * self.ic


@dataclass(frozen=True)
class DepthwiseConv(UnitInst):
    """Depthwise convolution into int32 accumulators; the input block carries its own halo.

    for y < oh, x < ow, c < chans:
        acc[y*acc_row + x*acc_pix][c*acc_step] = (bias is none ? 0 : bias[c*bias_step])
            + sum_{r < kh, q < kw} src[(y*sh + r*dh)*src_row + (x*sw + q*dw)*src_pix][c]
                                   * w[c*w_row][r*kw + q]

    Steps are in elements: a channel multiplier is one instruction per multiple.
    """

    opcode: ClassVar[int] = 0x28
    mnemonic: ClassVar[str] = "dw.conv"
    engine_of: ClassVar[Engine] = Engine.DW
    acc: Annotated[Addr, address("oh x ow x chans int32 accumulators")]
    src: Annotated[Addr, address("input block")]
    w: Annotated[Addr, address("chans x kh x kw weights, one a byte")]
    oh: Count
    ow: Count
    chans: Count
    kh: Count
    kw: Count
    acc_row: Stride
    acc_pix: Stride
    src_row: Stride
    src_pix: Stride
    w_row: Stride
    acc_step: Count = 1
    bias_step: Count = 1
    sh: Annotated[int, unsigned(8, "vertical stride")] = 1
    sw: Annotated[int, unsigned(8, "horizontal stride")] = 1
    dh: Annotated[int, unsigned(8, "vertical dilation")] = 1
    dw: Annotated[int, unsigned(8, "horizontal dilation")] = 1
    src_type: Type = DType.I8
    bias: Annotated[Addr, address("int32 per channel, or none")] = NO_ADDR

    def cycles(self, arch: AccelTarget) -> int:
        passes = 2 if self.src_type.size == 2 else 1
        return passes * ceil_div(self.macs(), arch.dw_width) + arch.dw_latency

    def macs(self) -> int:
        return self.oh * self.ow * self.chans * self.kh * self.kw


@dataclass(frozen=True)
class Pool(UnitInst):
    """Maximum or sum over windows, channel by channel; the input block carries its own halo.

    for y < oh, x < ow, c < chans:
        dst[y*dst_row + x*dst_pix][c] = max or sum over r < kh, q < kw of
            src[(y*sh + r*dh)*src_row + (x*sw + q*dw)*src_pix][c] - zp     (zp: sum only)
    """

    opcode: ClassVar[int] = 0x29
    mnemonic: ClassVar[str] = "dw.pool"
    engine_of: ClassVar[Engine] = Engine.DW
    dst: Dst
    src: Src
    mode: Annotated[PoolMode, choice(PoolMode, "maximum or sum")]
    oh: Count
    ow: Count
    chans: Count
    kh: Count
    kw: Count
    dst_row: Stride
    dst_pix: Stride
    src_row: Stride
    src_pix: Stride
    src_type: Type
    dst_type: Type
    sh: Annotated[int, unsigned(8, "vertical stride")] = 1
    sw: Annotated[int, unsigned(8, "horizontal stride")] = 1
    dh: Annotated[int, unsigned(8, "vertical dilation")] = 1
    dw: Annotated[int, unsigned(8, "horizontal dilation")] = 1
    zp: ZeroPoint = 0

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.elements(), arch.dw_width) + arch.dw_latency

    def elements(self) -> int:
        return self.oh * self.ow * self.chans * self.kh * self.kw


@dataclass(frozen=True)
class NormalizeInst(Block):
    """Rows divided by one divisor each."""

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

    for i < rows:
        d = div[i*div_row];  nb = bit length of d;  R = floor(2^(nb+15) / d)
        for j < cols, s = shifts is none ? shift : shifts[j]:
            recip:  dst[i*dst_row][j] = sat(round(acc[i*acc_row][j] * R, nb + 15 + s) + zp)
            pot:    dst[i*dst_row][j] = sat(round(acc[i*acc_row][j], L + s) + zp),
                    L = log2 of d, rounded in the log domain
        d = 0 gives sat(zp)
    """

    opcode: ClassVar[int] = 0x2A
    mnemonic: ClassVar[str] = "dw.divide"
    engine_of: ClassVar[Engine] = Engine.DW
    mode: Annotated[DivMode, choice(DivMode, "divisor")] = DivMode.RECIP

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.divider_width) + arch.divider_latency


@dataclass(frozen=True)
class Requant(Block):
    """Requantisation by a shift: one rounding, zero point, saturation.

    for i < rows, j < cols, s = shifts is none ? shift : shifts[j]:
        dst[i*dst_row][j] = sat(round(src[i*src_row][j] - zp_in, s) + zp_out)
    """

    opcode: ClassVar[int] = 0x30
    mnemonic: ClassVar[str] = "shift.requant"
    engine_of: ClassVar[Engine] = Engine.SHIFT
    dst: Dst
    src: Src
    dst_row: Stride
    src_row: Stride
    src_type: Type
    dst_type: Type
    shift: Shift = 0
    shifts: OptVector = NO_ADDR
    zp_in: ZeroPoint = 0
    zp_out: ZeroPoint = 0
    rounding: Round = Rounding.RHU

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.shift_width) + arch.shift_latency


@dataclass(frozen=True)
class Add(Block):
    """Addition on a common grid, rounded once: an accumulator may be added to a residual.

    for i < rows, j < cols, (la, lb, s) = shifts is none ? (shift_a, shift_b, shift) : shifts[*][j]:
        t = ((a[i*a_row + j*a_col] - zp_a) << la) + ((b[i*b_row + j*b_col] - zp_b) << lb)
        dst[i*dst_row][j] = sat(round(t, s) + zp_out)

    A stride of 0 repeats a row or a column; `shifts` holds three rows of `cols` int8.
    """

    opcode: ClassVar[int] = 0x31
    mnemonic: ClassVar[str] = "shift.add"
    engine_of: ClassVar[Engine] = Engine.SHIFT
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
    shift_a: Shift = 0
    shift_b: Shift = 0
    shift: Shift = 0
    shifts: Annotated[Addr, address("3 x cols int8 (la, lb, s), or none")] = NO_ADDR
    zp_a: ZeroPoint = 0
    zp_b: ZeroPoint = 0
    zp_out: ZeroPoint = 0
    rounding: Round = Rounding.RHU

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.shift_width) + arch.shift_latency


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
class Shiftmax(Block):
    """Softmax by shifts (I-ViT) over each row; an 8- or 16-bit result with one bit less of frac.

    for i < rows:
        E_j = exponential by shifts of src[i*src_row][j] - max, n octaves;  S = sum E
        dst[i*dst_row][j] = sat(round(E_j * floor((2^31-1) / S), 32 - bits of dst_type))
    """

    opcode: ClassVar[int] = 0x3A
    mnemonic: ClassVar[str] = "softmax.shiftmax"
    engine_of: ClassVar[Engine] = Engine.SOFTMAX
    dst: Dst
    src: Src
    dst_row: Stride
    src_row: Stride
    src_type: Type
    dst_type: Type
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
class LayerNorm(Block):
    """LayerNorm over each row with one integer square root and one division a row.

    for i < rows:
        X_j = (src[i*src_row][j] - zp_in) << in_shifts[j]
        S1 = sum X;  S2 = sum X^2;  V = cols*S2 - S1^2 + eps
        T = max(1, isqrt(V << 12));  nb = bit length of T;  R = floor(2^(nb+16) / T)
        N_j = round((cols*X_j - S1) * R, nb)
        dst[i*dst_row][j] = sat(round(N_j*gamma[j] + (beta[j] << beta_shift), shift[j]) + zp_out)
    """

    opcode: ClassVar[int] = 0x40
    mnemonic: ClassVar[str] = "norm.layernorm"
    engine_of: ClassVar[Engine] = Engine.NORM
    dst: Dst
    src: Src
    gamma: Annotated[Addr, address("cols gains")]
    beta: Annotated[Addr, address("cols int32 offsets")]
    dst_row: Stride
    src_row: Stride
    src_type: Type
    dst_type: Type
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


@dataclass(frozen=True)
class Lut(Block):
    """Any function of 8-bit codes by a table of 256 entries.

    for i < rows, j < cols:  dst[i*dst_row][j] = table[src[i*src_row][j] - smallest code]
    """

    opcode: ClassVar[int] = 0x48
    mnemonic: ClassVar[str] = "table.lut"
    engine_of: ClassVar[Engine] = Engine.TABLE
    dst: Dst
    src: Src
    table: Annotated[Addr, address("entries of dst_type, one per code")]
    dst_row: Stride
    src_row: Stride
    src_type: Type
    dst_type: Type

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.rows * self.cols, arch.table_width) + arch.table_latency


@dataclass(frozen=True)
class Lut16(Block):
    """Any function of 16-bit codes by 257 int16 entries and linear interpolation.

    for i < rows, j < cols:
        c = src[i*src_row][j] - smallest code;  t = c >> 8;  g = c & 255
        dst[i*dst_row][j] = table[t] + round((table[t+1] - table[t]) * g, 8)
    """

    opcode: ClassVar[int] = 0x49
    mnemonic: ClassVar[str] = "table.lut16"
    engine_of: ClassVar[Engine] = Engine.TABLE
    dst: Dst
    src: Src
    table: Annotated[Addr, address("257 int16")]
    dst_row: Stride
    src_row: Stride
    src_type: Type
    dst_type: Type

    def cycles(self, arch: AccelTarget) -> int:
        return 2 * ceil_div(self.rows * self.cols, arch.table_width) + arch.table_latency


@dataclass(frozen=True)
class ShiftGelu(Block):
    """GELU by shifts, per element: x * sigmoid(1.702 x) with 7 more fractional bits.

    for i < rows, j < cols:  dst[i*dst_row][j] = sat(shift_gelu(src[i*src_row][j], frac))
    """

    opcode: ClassVar[int] = 0x4A
    mnemonic: ClassVar[str] = "table.gelu"
    engine_of: ClassVar[Engine] = Engine.TABLE
    dst: Dst
    src: Src
    dst_row: Stride
    src_row: Stride
    src_type: Type
    dst_type: Type
    frac: Annotated[int, unsigned(5, "fractional bits of the input")]

    def cycles(self, arch: AccelTarget) -> int:
        """One division per element; the dividers are pipelined, as wide as an eighth of the unit."""
        width = max(1, arch.table_width // 8)
        return ceil_div(self.rows * self.cols, width) + arch.divider_latency


@dataclass(frozen=True)
class Mul(Block):
    """Elementwise product, rounded once.

    for i < rows, j < cols, s = shifts is none ? shift : shifts[j]:
        t = (a[i*a_row + j*a_col] - zp_a) * (b[i*b_row + j*b_col] - zp_b)
        dst[i*dst_row][j] = sat(round(t, s) + zp_out)
    """

    opcode: ClassVar[int] = 0x4B
    mnemonic: ClassVar[str] = "table.mul"
    engine_of: ClassVar[Engine] = Engine.TABLE
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
class Mean(Block):
    """Rounded division of sums by a count: the end of a mean or an average pooling.

    for i < rows, j < cols, n = counts is none ? count : counts[i]:
        dst[i*dst_row][j] = sat(floor((2a + b) / (2b)) + zp_out)
            with a = src[i*src_row][j] << max(0, -shift),  b = n << max(0, shift)
    """

    opcode: ClassVar[int] = 0x50
    mnemonic: ClassVar[str] = "table.mean"
    engine_of: ClassVar[Engine] = Engine.TABLE
    dst: Dst
    src: Src
    dst_row: Stride
    src_row: Stride
    src_type: Type
    dst_type: Type
    count: Annotated[int, unsigned(32, "divisor")] = 1
    counts: Annotated[Addr, address("uint32 per row, or none")] = NO_ADDR
    shift: Annotated[int, signed(8, "frac of the input - frac of the result")] = 0
    zp_out: ZeroPoint = 0
    rounding: Round = Rounding.RHU

    def cycles(self, arch: AccelTarget) -> int:
        """One division per element, pipelined, an eighth of the unit wide."""
        width = max(1, arch.table_width // 8)
        return ceil_div(self.rows * self.cols, width) + arch.divider_latency


INSTRUCTIONS: tuple[type[Inst], ...] = (
    Wait,
    Signal,
    Loop,
    End,
    Base,
    Step,
    Load,
    Fill,
    Store,
    Matmul,
    Conv,
    DepthwiseConv,
    Pool,
    Divide,
    Requant,
    Add,
    SoftmaxExp,
    Normalize,
    Shiftmax,
    Log2Softmax,
    LayerNorm,
    Lut,
    Lut16,
    ShiftGelu,
    Mul,
    Clamp,
    Lerp,
    Gather,
    Sum,
    Mean,
)
"""Every instruction, in the order of the manual."""

ISA_VERSION = 1
"""Raised whenever an encoding or an effect changes."""

BY_OPCODE: dict[int, type[Inst]] = {cls.opcode: cls for cls in INSTRUCTIONS}
CONTROL: tuple[type[ControlInst], ...] = (Wait, Signal, Loop, End, Base, Step)

SEMAPHORES = 64
SEMAPHORE_MAX = 65535
LOOP_DEPTH = 4
