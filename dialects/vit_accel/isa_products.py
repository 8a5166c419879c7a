"""Instructions of the MAC array and the reconfigurable engine: products, convolutions, pooling."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import (
    DType,
    Engine,
    Flag,
    MacMap,
    PoolMode,
)
from vit_opt.dialects.vit_accel.fields import (
    NO_ADDR,
    Addr,
    Space,
    address,
    choice,
    unsigned,
)
from vit_opt.dialects.vit_accel.isa_base import (
    Batch,
    BatchStride,
    Count,
    Dst,
    Fill,
    Outside,
    Src,
    Stride,
    Type,
    UnitInst,
    ZeroPoint,
    ceil_div,
)
from vit_opt.dialects.vit_accel.isa_transfer import GROUP

Marks = Annotated[Addr, address("a bit for every eight weights of a row, or none: no groups")]
Wide = Annotated[int, unsigned(16, "groups of a row that are bytes, as many as are marked")]


def array_cycles(
    arch: AccelTarget,
    size: tuple[int, int, int],
    mapping: MacMap,
    types: tuple[DType, DType],
    lanes: int | None = None,
    count: int = 1,
    wide: int | None = None,
) -> int:
    """Cycles of `count` m x n x k products on the MAC array, or on `lanes` lanes of its kind.

    fill + count * ceil(lane axis / lanes) * ceil(column axis / columns) * time axis + drain; 16-bit
    and log2 operands take two passes each, int4 weights pair int4_rate steps of the reduction in one.

    With weights in groups of eight, `wide` of them bytes, k counts the steps of one group after the
    other: ceil(8 / int4_rate), or 8 for bytes. What a cycle adds up in a sum is shifted before it is
    accumulated, so it must be of one group: with k in time or on the lanes it is what one multiplier
    takes, and nothing is lost. On the columns it is what a lane takes, and each group is whole steps.
    """
    lanes = arch.lanes if lanes is None else lanes
    extents = dict(zip("MNK", size, strict=True))
    lane, column = mapping.name
    if wide is not None:
        whole = arch.columns if column == "K" else 1
        narrow = max(0, ceil_div(size[2], GROUP) - wide)
        narrow *= ceil_div(ceil_div(GROUP, arch.int4_rate), whole)
        extents["K"] = (narrow + wide * ceil_div(GROUP, whole)) * whole
    elif types[1] is DType.I4X2:
        extents["K"] = ceil_div(extents["K"], arch.int4_rate)
    steps = ceil_div(extents.pop(lane), lanes) * ceil_div(extents.pop(column), arch.columns)
    (time,) = extents.values()
    passes = 1
    for dtype in types:
        passes *= 2 if dtype in (DType.I16, DType.UI16, DType.LOG2) else 1
    return arch.array_fill + count * passes * steps * time + arch.array_drain


def group_row_bytes(depth: int, wide: int) -> int:
    """Bytes of a row of `depth` weights in groups of eight, of which `wide` are bytes."""
    narrow = max(0, ceil_div(depth, GROUP) - wide)
    return ceil_div(narrow, 4) + narrow * GROUP // 2 + wide * GROUP


class Weighted(Protocol):
    """An instruction whose right operand may lie in groups of eight."""

    @property
    def marks(self) -> Addr: ...
    @property
    def wide(self) -> int: ...
    @property
    def depth(self) -> int: ...
    def macs(self) -> int: ...


def wide_groups(inst: Weighted) -> int | None:
    """Groups of a row that are bytes; None where the right operand does not lie in groups."""
    return None if inst.marks.space is Space.NONE else inst.wide


def macs_of_four_bits(inst: Weighted, dtype: DType) -> int:
    """Multiply-accumulates by codes of 4 bits that lie in pairs; `dtype` is the right operand's."""
    if dtype is not DType.I4X2:
        return 0
    byte = (wide_groups(inst) or 0) * GROUP
    return inst.macs() // max(1, inst.depth) * max(0, inst.depth - byte)


def shifted_sums(inst: Weighted, dtype: DType) -> int:
    """Sums that are shifted by what their group says: those of pairs of codes."""
    return 0 if wide_groups(inst) is None else macs_of_four_bits(inst, dtype) // 2


class Windowed(Protocol):
    """An instruction whose windows slide over an image."""

    @property
    def oh(self) -> int: ...
    @property
    def ow(self) -> int: ...
    @property
    def kh(self) -> int: ...
    @property
    def kw(self) -> int: ...
    @property
    def sh(self) -> int: ...
    @property
    def sw(self) -> int: ...
    @property
    def dh(self) -> int: ...
    @property
    def dw(self) -> int: ...
    @property
    def top(self) -> int: ...
    @property
    def left(self) -> int: ...
    @property
    def bottom(self) -> int: ...
    @property
    def right(self) -> int: ...


def reach(inst: Windowed) -> tuple[int, int]:
    """Rows and columns that the windows reach over, borders included."""
    height = (inst.oh - 1) * inst.sh + (inst.kh - 1) * inst.dh + 1
    return height, (inst.ow - 1) * inst.sw + (inst.kw - 1) * inst.dw + 1


def inside(inst: Windowed) -> tuple[int, int]:
    """Rows and columns of it that are read; not above 0 where the instruction makes no sense."""
    height, width = reach(inst)
    return height - inst.top - inst.bottom, width - inst.left - inst.right


@dataclass(frozen=True)
class Matmul(UnitInst):
    """Matrix products into int32 accumulators: one, or a `batch` of as many that lie apart.

    for p < batch, i < m, j < n:
        at = p*acc_batch + i*acc_row
        t = accumulate ? acc[at][j] : (bias is none ? 0 : bias[j])
        acc[at][j] = t + sum_{l < k} a[p*a_batch + i*a_row + l*a_step]
                                     * b[p*b_batch + j*b_row + l*b_step]

    `a_step`, `b_step` are bytes between neighbours along k (an `i4x2` operand is contiguous).
    A batch fills and drains the array once. A sum outside int32 traps: nothing wraps.

    With `marks`, b is `i4x2` in groups of eight along k, a multiple of 8: a bit for each group, the
    same for all rows, lowest first (1: bytes), of which `wide` are set. Row j, at b + j*b_row, is
    then 2 bits for each of the other groups, four a byte, and the groups in order, nibbles low
    first; it is what `ld.expand` reads, and means the same:
        acc[at][j] = t + sum_{g < k/8} mark[g] ? sum a*byte : (sum a*nibble) << (1 + bits[j][g])
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
    batch: Batch = 1
    acc_batch: BatchStride = 0
    a_batch: BatchStride = 0
    b_batch: BatchStride = 0
    marks: Marks = NO_ADDR
    wide: Wide = 0

    @property
    def depth(self) -> int:
        """Length of a sum."""
        return self.k

    def cycles(self, arch: AccelTarget) -> int:
        size, types = (self.m, self.n, self.k), (self.a_type, self.b_type)
        return array_cycles(arch, size, self.map, types, count=self.batch, wide=wide_groups(self))

    def macs(self) -> int:
        return self.batch * self.m * self.n * self.k

    def narrow_macs(self) -> int:
        return macs_of_four_bits(self, self.b_type)

    def elements(self) -> int:
        return shifted_sums(self, self.b_type)


@dataclass(frozen=True)
class EngineMatmul(Matmul):
    """Matrix products into int32 accumulators, on the reconfigurable engine.

    for p < batch, i < m, j < n:
        at = p*acc_batch + i*acc_row
        t = accumulate ? acc[at][j] : (bias is none ? 0 : bias[j])
        acc[at][j] = t + sum_{l < k} a[p*a_batch + i*a_row + l*a_step]
                                     * b[p*b_batch + j*b_row + l*b_step]

    Its multipliers take the shape of the array: dw_width / columns lanes of as many columns.
    Otherwise it is `mac.matmul`.
    """

    opcode: ClassVar[int] = 0x2B
    mnemonic: ClassVar[str] = "dw.matmul"
    engine_of: ClassVar[Engine] = Engine.DW

    def cycles(self, arch: AccelTarget) -> int:
        lanes = max(1, arch.dw_width // arch.columns)
        size, types = (self.m, self.n, self.k), (self.a_type, self.b_type)
        return array_cycles(arch, size, self.map, types, lanes, self.batch, wide_groups(self))


@dataclass(frozen=True)
class Conv(UnitInst):
    """Convolution into int32 accumulators, with borders around the input block.

    for g < groups, y < oh, x < ow, o < oc:
        t = accumulate ? acc : (bias is none ? 0 : bias[g*oc + o])
        acc[y*acc_row + x*acc_pix][g*oc + o] = t + sum_{r < kh, c < kw, i < ic}
            src[(y*sh + r*dh - top)*src_row + (x*sw + c*dw - left)*src_pix + (g*ic + i)*src_step]
            * w[(g*oc + o)*w_row][(r*kw + c)*ic + i]

    `src_step` is the distance of neighbouring channels, so that both image layouts can be read.

    The windows reach over (oh-1)*sh + (kh-1)*dh + 1 rows and as many columns by ow, sw, kw, dw. Of
    these, `top` and `bottom` rows, `left` and `right` columns lie outside and are read as `fill`;
    `src` is the first pixel inside. It traps where none is inside, for a source of `i4x2` or `log2`,
    and for a stride or dilation of 0.

    With `marks` and `wide`, rows of w lie in groups of eight, as those of `mac.matmul`; kh*kw*ic is a
    multiple of 8.
    """

    opcode: ClassVar[int] = 0x21
    mnemonic: ClassVar[str] = "mac.conv"
    engine_of: ClassVar[Engine] = Engine.MAC
    acc: Annotated[Addr, address("oh x ow x (groups * oc) int32 accumulators")]
    src: Annotated[Addr, address("input block")]
    w: Annotated[Addr, address("(groups * oc) x kh x kw x ic weights")]
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
    bias: Annotated[Addr, address("groups * oc int32, or none")] = NO_ADDR
    accumulate: Annotated[Flag, choice(Flag, "start from the accumulators' contents")] = Flag.OFF
    map: Annotated[MacMap, choice(MacMap, "axes: m = pixels, n = oc, k = window")] = MacMap.NM
    top: Outside = 0
    left: Outside = 0
    bottom: Outside = 0
    right: Outside = 0
    fill: Fill = 0
    groups: Count = 1
    marks: Marks = NO_ADDR
    wide: Wide = 0

    @property
    def depth(self) -> int:
        """Length of a sum."""
        return self.kh * self.kw * self.ic

    def cycles(self, arch: AccelTarget) -> int:
        size, types = (self.oh * self.ow, self.oc, self.depth), (self.src_type, self.w_type)
        return array_cycles(arch, size, self.map, types, count=self.groups, wide=wide_groups(self))

    def macs(self) -> int:
        return self.groups * self.oh * self.ow * self.oc * self.depth

    def narrow_macs(self) -> int:
        return macs_of_four_bits(self, self.w_type)

    def elements(self) -> int:
        return shifted_sums(self, self.w_type)


def depthwise_cycles(arch: AccelTarget, macs: int, dtype: DType) -> int:
    """Cycles of a depthwise convolution on the reconfigurable engine: 16-bit input takes two
    passes."""
    passes = 2 if dtype.size == 2 else 1
    return passes * ceil_div(macs, arch.dw_width) + arch.dw_latency


@dataclass(frozen=True)
class DepthwiseConv(UnitInst):
    """Depthwise convolution into int32 accumulators, with borders around the input block.

    for y < oh, x < ow, c < chans:
        t = accumulate ? acc : (bias is none ? 0 : bias[c*bias_step])
        acc[y*acc_row + x*acc_pix][c*acc_step] = t + sum_{r < kh, q < kw} w[c*w_row][r*kw + q]
            * src[(y*sh + r*dh - top)*src_row + (x*sw + q*dw - left)*src_pix][c]

    Steps are in elements: a channel multiplier is one instruction per multiple. Borders are those
    of `mac.conv`.
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
    accumulate: Annotated[Flag, choice(Flag, "start from the accumulators' contents")] = Flag.OFF
    top: Outside = 0
    left: Outside = 0
    bottom: Outside = 0
    right: Outside = 0
    fill: Fill = 0

    def cycles(self, arch: AccelTarget) -> int:
        return depthwise_cycles(arch, self.macs(), self.src_type)

    def macs(self) -> int:
        return self.oh * self.ow * self.chans * self.kh * self.kw


@dataclass(frozen=True)
class Pool(UnitInst):
    """Maximum or sum over windows, channel by channel, with borders around the input block.

    for y < oh, x < ow, c < chans:
        dst[y*dst_row + x*dst_pix][c] = max or sum over r < kh, q < kw of
            src[(y*sh + r*dh - top)*src_row + (x*sw + q*dw - left)*src_pix][c] - zp
    (zp: sum only). Borders are those of `mac.conv`.
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
    top: Outside = 0
    left: Outside = 0
    bottom: Outside = 0
    right: Outside = 0
    fill: Fill = 0

    def cycles(self, arch: AccelTarget) -> int:
        return ceil_div(self.elements(), arch.dw_width) + arch.dw_latency

    def elements(self) -> int:
        return self.oh * self.ow * self.chans * self.kh * self.kw
