"""Targets: records that describe the machines a model is scheduled for.

One record is the only place where a figure of the machine is written down: the tiler, the
assembler, the emulator and its cycle and energy model all read it.  A new accelerator is a new
record, nothing else.  Records are frozen; `AccelTarget.digest` names one exactly, and a binary
image carries it, so that an image made for another machine is refused.

Units: bytes, cycles of the accelerator's clock, picojoules.

Energy figures are those of M. Horowitz, "Computing's energy problem (and what we can do about
it)", ISSCC 2014, for a 45 nm process: int8 add 0.03 pJ, int32 add 0.1 pJ, int8 multiply 0.2 pJ,
int32 multiply 3.1 pJ, 8 KB SRAM 10 pJ per 64 bits, DRAM 640 pJ per 32 bits.
"""

import hashlib
from dataclasses import dataclass, fields, replace

from vit_opt.dialects.errors import VitError


@dataclass(frozen=True)
class MemorySpec:
    """One on-chip memory."""

    name: str
    """Name used in addresses, for example `abuf`."""
    size: int
    """Capacity in bytes."""
    banks: int = 8
    """Banks that can be used at the same time: one an engine."""
    width: int = 64
    """Bytes a cycle of one bank."""


@dataclass(frozen=True)
class EnergyTable:
    """Energy in picojoules."""

    mac_int8: float = 0.3
    """One int8 x int8 multiplication (0.2) and one int32 addition (0.1)."""
    add_int32: float = 0.1
    """One shift, addition or table element operation, counted as an int32 addition."""
    mul_int32: float = 3.1
    """One wide multiplication (normalise, LayerNorm, interpolation)."""
    sram_byte: float = 1.25
    """One byte of on-chip memory: 10 pJ per 64 bits."""
    dram_byte: float = 160.0
    """One byte of DRAM: 640 pJ per 32 bits."""
    source: str = "Horowitz, ISSCC 2014, 45 nm"
    """Where the figures come from, as reports say it."""


MAX_WIDTH = 65_535
"""Largest number of lanes, multipliers or elements a cycle: what an instruction can count."""

MAX_FIGURE = 1_000_000
"""Largest latency in cycles, clock in MHz, bandwidth in bytes a cycle, or energy in picojoules."""

MAX_MEMORY = 1 << 30
"""Bytes of the largest memory on chip."""


def _range_of(name: str) -> tuple[float, float]:
    """The values that a figure of a machine may have."""
    if name.endswith(("_latency", "_fill", "_drain")):
        return 0, MAX_FIGURE
    if name == "dram_bytes_per_cycle":
        return 0.001, MAX_FIGURE
    return 1, MAX_FIGURE if name == "clock_mhz" else MAX_WIDTH


def _check_range(what: str, value: float, low: float, high: float) -> None:
    """VitError unless low <= value <= high."""
    if not low <= value <= high:
        raise VitError(f"{what} is {value}, expected {low} to {high}")


@dataclass(frozen=True)
class AccelTarget:
    """Architecture record of a chunk-based accelerator.

    The MAC array has `lanes x columns` multipliers.  Two of the three axes (rows m, columns n,
    reduction k) of a matrix product lie on the array, the third runs in time; every instruction
    says which (`MacMap` in the ISA).
    """

    name: str
    clock_mhz: int
    """Clock in MHz."""
    lanes: int
    """Lanes of the MAC array."""
    columns: int
    """Multipliers in a lane."""
    int4_rate: int
    """MACs per multiplier and cycle with int4 weights."""
    memories: tuple[MemorySpec, ...]
    """On-chip memories, at most seven; the order is their code in an address."""
    dram_bytes_per_cycle: float
    """Peak DRAM bandwidth: bytes a cycle of the accelerator's clock, GB/s * 1000 / MHz."""
    dram_burst: int
    """Bytes of the smallest DRAM access: every contiguous run costs whole bursts."""
    dram_latency: int
    """Cycles from a DRAM request to its first byte; hidden between requests in one queue."""
    move_width: int
    """Bytes a cycle of copies and fills inside the chip."""
    array_fill: int
    """Cycles until the array's first result of an instruction."""
    array_drain: int
    """Cycles to drain the last results of an instruction."""
    dw_width: int
    """Multipliers of the reconfigurable engine (depthwise, pooling)."""
    dw_latency: int
    """Cycles until the reconfigurable engine's first result of an instruction."""
    divider_width: int
    """Elements a cycle multiplied by a row's reciprocal in the reconfigurable engine."""
    divider_latency: int
    """Cycles of one serial division (17 steps) and the multiplier after it."""
    shift_width: int
    """Shifters: elements requantised a cycle."""
    shift_latency: int
    """Cycles until the shifters' first result of an instruction."""
    softmax_width: int
    """Elements a cycle of the softmax unit."""
    softmax_latency: int
    """Cycles until the softmax unit's first result of an instruction."""
    norm_width: int
    """Elements a cycle of the LayerNorm unit, in each of its passes."""
    norm_latency: int
    """Cycles of the square root and the division of one row, overlapped between rows."""
    table_width: int
    """Elements a cycle of the table unit."""
    table_latency: int
    """Cycles until the table unit's first result of an instruction."""
    energy: EnergyTable = EnergyTable()
    peak: str = "array"
    """Whose multipliers utilisation is measured against: those of the `array`, or of `both` the
    array and the reconfigurable engine, where that engine is as large as the array."""

    def __post_init__(self) -> None:
        if self.peak not in ("array", "both"):
            raise VitError(f"field 'peak' is '{self.peak}', expected 'array' or 'both'")
        if not 0 < len(self.name.encode()) <= 32 or not self.name.isprintable():
            raise VitError("field 'name' must be 1 to 32 bytes of text on one line")
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float):
                _check_range(f"field '{item.name}'", value, *_range_of(item.name))
        for memory in self.memories:
            _check_range(f"memory '{memory.name}'", memory.size, 1, MAX_MEMORY)
            _check_range(f"banks of memory '{memory.name}'", memory.banks, 1, MAX_WIDTH)
            _check_range(f"width of memory '{memory.name}'", memory.width, 1, MAX_WIDTH)
        for item in fields(self.energy):
            value = getattr(self.energy, item.name)
            if isinstance(value, int | float):
                _check_range(f"energy '{item.name}'", value, 0, MAX_FIGURE)

    @property
    def macs_per_cycle(self) -> int:
        """Peak int8 MACs a cycle, of the engines that `peak` names."""
        return self.lanes * self.columns + (self.dw_width if self.peak == "both" else 0)

    def memory_size(self, name: str) -> int:
        """Capacity in bytes of the memory called `name`; VitError if there is none."""
        for memory in self.memories:
            if memory.name == name:
                return memory.size
        raise VitError(f"architecture '{self.name}' has no memory '{name}'")

    def digest(self) -> str:
        """sha256 (hex) of every figure of the record, in declaration order."""
        text = "\n".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return hashlib.sha256(text.encode()).hexdigest()


_KIB = 1024


def _buffers(*sizes: int, width: int = 64) -> tuple[MemorySpec, ...]:
    """abuf, bbuf, cbuf, obuf and pbuf of so many KiB, in banks so many bytes wide."""
    names = ("abuf", "bbuf", "cbuf", "obuf", "pbuf")
    return tuple(
        MemorySpec(name, size * _KIB, width=width) for name, size in zip(names, sizes, strict=True)
    )


P2VIT = AccelTarget(
    name="p2vit",
    clock_mhz=500,
    lanes=64,
    columns=8,
    int4_rate=2,
    memories=_buffers(53, 53, 53, 108, 32),
    dram_bytes_per_cycle=153.6,
    dram_burst=64,
    dram_latency=50,
    move_width=64,
    array_fill=8,
    array_drain=8,
    dw_width=64,
    dw_latency=8,
    divider_width=16,
    divider_latency=20,
    shift_width=64,
    shift_latency=4,
    softmax_width=16,
    softmax_latency=16,
    norm_width=16,
    norm_latency=64,
    table_width=32,
    table_latency=4,
)
"""After P2-ViT (arXiv 2405.19915), whose array, clock and buffers are not public; taken from the
nearest public configuration (ViTCoD): 512 int8 MACs as 64 lanes x 8, 500 MHz, 76.8 GB/s of DRAM,
three 53 KB buffers for inputs and weights and 108 KB for accumulators and outputs.  Softmax and
LayerNorm units take 16 elements a cycle, the table unit 32, the 64 shifters drain one lane row a
cycle.  The 32 KB parameter buffer (biases, shifts, tables), the latencies and the banks are ours:
one bank an engine, as wide as lanes or row units, whichever are more."""

P2VIT_LARGE = replace(
    P2VIT,
    name="p2vit-large",
    columns=36,
    memories=_buffers(212, 212, 212, 432, 64, width=128),
    dw_width=288,
    divider_width=64,
    softmax_width=64,
    norm_width=64,
    table_width=128,
)
"""`p2vit` with 64 lanes of 36: 2304 int8 MACs. Clock, DRAM, shifters and latencies stay. Buffers
and row units are four times as large, the parameter buffer twice, and the reconfigurable engine
grows with the columns, so that a block keeps the array busy about as long as on `p2vit`. The array
drains one lane row a cycle, which 64 shifters take."""

TRIO = replace(
    P2VIT,
    name="trio",
    clock_mhz=200,
    columns=16,
    int4_rate=1,
    memories=_buffers(128, 128, 128, 256, 32, width=128),
    dram_bytes_per_cycle=96.0,
    dram_latency=20,
    dw_width=1024,
    divider_width=64,
    peak="both",
)
"""After Trio-ViT (arXiv 2405.03882) and its sister design (arXiv 2403.20230), both on a ZCU102
board: (8x8 + 8x8) x 16 multipliers at 200 MHz. One half is the multiplier-adder tree (64 lanes of
16), the other the engine that is reconfigured for depthwise convolutions and divisors; utilisation
is measured against all 2048. Multipliers take 8 bits and are not split for int4. The rest is ours:
DRAM of 19.2 GB/s (64 bits of DDR4-2400), 672 KB of buffers, well within what such a board has, banks
as wide as the 64 + 64 lanes, row units as wide as `p2vit`'s, and the latencies."""

TRIO_LARGE = replace(
    TRIO,
    name="trio-large",
    dram_bytes_per_cycle=384.0,
    shift_width=128,
    softmax_width=64,
    norm_width=64,
    table_width=128,
)
"""`trio` with everything around its multipliers grown as they are. They are 2048, four times
`p2vit`'s, and so are its row units (softmax, LayerNorm, tables; the dividers are on `trio` already),
as on `p2vit-large`. Shifters take what both engines drain, 64 + 64 lanes a cycle. DRAM is the 76.8
GB/s of `p2vit`, 384 bytes at 200 MHz. Multipliers, clock, buffers and latencies are `trio`'s. These
figures were written down before anything was measured on them."""

EDGE = replace(
    P2VIT,
    name="edge",
    clock_mhz=100,
    lanes=16,
    columns=4,
    memories=_buffers(24, 24, 16, 48, 16, width=16),
    dram_bytes_per_cycle=4.0,
    dram_burst=16,
    dram_latency=20,
    move_width=8,
    array_fill=4,
    array_drain=4,
    dw_width=8,
    dw_latency=4,
    divider_width=2,
    shift_width=16,
    softmax_width=2,
    softmax_latency=8,
    norm_width=2,
    norm_latency=32,
    table_width=4,
)
"""A microcontroller-class part, ours: 64 int8 MACs at 100 MHz (the smaller sizes of such engines
have 32 to 256), 128 KB of memory on chip, and an external memory on eight data lines at 200 MHz,
both edges: 400 MB/s in bursts of 16 bytes. Row units are an eighth of `p2vit`'s, as the array is;
shifters drain one lane row a cycle."""

ACCEL_TARGETS = {target.name: target for target in (P2VIT, P2VIT_LARGE, TRIO, TRIO_LARGE, EDGE)}
"""The presets by name."""


def accel_target(name: str) -> AccelTarget:
    """The preset called `name`; VitError naming the presets if there is none."""
    if name not in ACCEL_TARGETS:
        known = ", ".join(sorted(ACCEL_TARGETS))
        raise VitError(f"unknown architecture '{name}'; known: {known}, or a .json or .yaml file")
    return ACCEL_TARGETS[name]


@dataclass(frozen=True)
class CpuTarget:
    """What blocking for a CPU core needs to know: vector registers and caches."""

    name: str
    lanes: int
    """int32 accumulators of one vector register."""
    dot: int
    """int8 products that one instruction sums into a lane."""
    l1: int
    """Bytes of the first-level data cache."""
    l2: int
    """Bytes of the second-level cache of one core."""


PORTABLE = CpuTarget(name="c", lanes=8, dot=4, l1=32 * _KIB, l2=256 * _KIB)
"""A core that any 64-bit CPU of the last ten years is at least: 256-bit vectors, small caches."""

CPU_TARGETS = {target.name: target for target in (PORTABLE,)}
"""The presets by name."""


def target(name: str) -> AccelTarget | CpuTarget:
    """The accelerator or CPU called `name`; VitError naming the presets if there is none."""
    if name in CPU_TARGETS:
        return CPU_TARGETS[name]
    if name in ACCEL_TARGETS:
        return ACCEL_TARGETS[name]
    known = ", ".join(sorted((*CPU_TARGETS, *ACCEL_TARGETS)))
    raise VitError(f"unknown target '{name}'; known: {known}")
