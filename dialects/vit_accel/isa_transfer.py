"""Instructions that move data: queues `ld` and `st`."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import (
    Engine,
)
from vit_opt.dialects.vit_accel.fields import (
    Addr,
    Space,
    signed,
    unsigned,
)
from vit_opt.dialects.vit_accel.isa_base import (
    Count,
    Dst,
    Src,
    Stride,
    Type,
    UnitInst,
    ceil_div,
)

GROUP = 8
"""Columns of a weight that share a shift, see `Expand`."""


@dataclass(frozen=True)
class TransferInst(UnitInst):
    """What may use the DRAM bus."""

    dst: Dst
    src: Src

    @abstractmethod
    def dram_bytes(self, arch: AccelTarget) -> int:
        """Bytes moved on the DRAM bus, whole bursts."""

    @abstractmethod
    def reach(self) -> int:
        """Bytes of the source from the first to behind the last."""


@dataclass(frozen=True)
class CopyInst(TransferInst):
    """A copy of n0 x n1 x n2 runs of `run` bytes.

    for i0 < n0, i1 < n1, i2 < n2:
        dst[i0*d0 + i1*d1 + i2*d2 : +run] = src[i0*s0 + i1*s1 + i2*s2 : +run]
    """

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

    def reach(self) -> int:
        steps = ((self.n0, self.s0), (self.n1, self.s1), (self.n2, self.s2))
        return self.run + sum((count - 1) * stride for count, stride in steps)

    def runs(self) -> int:
        """Number of contiguous runs."""
        return self.n0 * self.n1 * self.n2

    def dram_runs(self, side: Addr, strides: tuple[int, int, int]) -> tuple[int, int]:
        """Number and length of the contiguous runs on one side, neighbouring ones merged."""
        runs, length = self.runs(), self.run
        if not runs:
            return 0, 0
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
        """Bursts at the peak bandwidth of DRAM, whose on-chip port is as wide; else whole runs.

        dram_latency is charged by the queue.
        """
        moved = self.dram_bytes(arch)
        if moved:
            return max(1, math.ceil(moved / arch.dram_bytes_per_cycle - 1e-9))
        return self.runs() * ceil_div(self.run, arch.move_width)


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
class Expand(TransferInst):
    """Load codes of bytes that lie in DRAM with 4 bits each, in groups of eight (queue `ld`).

    The source is one run of `size` bytes: a mark for each of ceil(cols / 8) groups, eight a byte,
    lowest first (1: the group's codes are bytes); then the rows, each from a whole byte on: 2 bits
    for every group that is not marked, four a byte, and the groups in order, from whole bytes on,
    nibbles low first.

    for i < rows, g < ceil(cols / 8), j < min(8, cols - 8*g):
        dst[i*dst_row + 8*g + j] = mark[g] ? byte : nibble << (shift + bits[i][g])

    Where marks and `size` contradict each other it traps.
    """

    opcode: ClassVar[int] = 0x12
    mnemonic: ClassVar[str] = "ld.expand"
    engine_of: ClassVar[Engine] = Engine.LD
    rows: Count
    cols: Count
    size: Annotated[int, unsigned(32, "bytes of the source")]
    dst_row: Stride
    shift: Annotated[int, unsigned(1, "least shift")] = 1

    def elements(self) -> int:
        """One shift each."""
        return self.rows * self.cols

    def reach(self) -> int:
        return self.size

    def dram_bytes(self, arch: AccelTarget) -> int:
        return ceil_div(self.size, arch.dram_burst) * arch.dram_burst

    def cycles(self, arch: AccelTarget) -> int:
        """Bursts of the source, or what is written, whichever takes longer; the port is as wide as
        DRAM's peak or as copies inside the chip. dram_latency is charged by the queue.
        """
        port = max(arch.dram_bytes_per_cycle, arch.move_width)
        arriving = self.dram_bytes(arch) / arch.dram_bytes_per_cycle
        return max(1, math.ceil(max(arriving, self.elements() / port) - 1e-9))


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
