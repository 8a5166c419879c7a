"""Instruction levels: what a project may assume of the processor it runs on.

A level names compiler flags for the kernels, the processor features that they use, and the suffixes
of the kernel variants written for it. Weights are packed for the level when a project is emitted;
everything above the kernels is the same C for all levels.

| level | processors |
|---|---|
| `portable` | any, plain C11 |
| `x86-64-v3` | x86 with AVX2 (Haswell, Zen 1 and later) |
| `avxvnni` | x86 with AVX2 and AVX-VNNI (Alder Lake, Zen 5 and later) |
| `avx512vnni` | x86 with AVX-512, VNNI and VBMI (Ice Lake, Zen 4 and later) |
| `neon` | 64-bit Arm with dot products (Armv8.2 and later) |
| `riscv64` | 64-bit RISC-V with the general extensions (RV64GC) |
| `cortex-m` | Arm microcontrollers with DSP instructions (Cortex-M4, M7, M33), without a system |
| `host` | the best of these that this machine has |
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vit_opt.dialects.errors import VitError

KERNELS = Path(__file__).parent / "kernels"
"""The kernel library's sources."""


@dataclass(frozen=True)
class Layout:
    """How the packed products of a level take their operands."""

    group: int = 4
    """Reduction steps of one instruction."""
    weight: str = "int8"
    """What weights are stored as."""
    signed: bool = False
    """Whether activations become signed bytes; unsigned ones otherwise."""
    in_lanes: bool = False
    """Whether columns are permuted, for instructions that pack within 128 bits."""

    @property
    def direct(self) -> bool:
        """Whether unsigned bytes are multiplied where they are, without a copy."""
        return self.weight == "int8" and not self.signed


@dataclass(frozen=True)
class Level:
    """An instruction level."""

    name: str
    machine: str | None = None
    """Architecture as `platform.machine()` calls it; None for any."""
    flags: tuple[str, ...] = ()
    """Compiler flags of the kernels."""
    features: tuple[str, ...] = ()
    """Processor features as Linux lists them in /proc/cpuinfo."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of kernel variants that it can run, best first."""
    layout: Layout = Layout()
    """Of the operands of packed products, where it has any."""

    def variant(self, kernel: str) -> str | None:
        """The best variant of a kernel for this level; None if there is none but portable ones."""
        names = kernel_names()
        return next((f"{kernel}_{s}" for s in self.suffixes if f"{kernel}_{s}" in names), None)

    def best(self, kernel: str) -> str:
        """The variant of a kernel that has one portable form of the same interface."""
        return self.variant(kernel) or kernel

    def runs(self, source: Path) -> bool:
        """Whether a kernel source compiles for this level."""
        own = next((s for s in _SUFFIXES if source.stem.endswith(f"_{s}")), None)
        return own is None or own in self.suffixes


_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

PORTABLE = Level("portable")

LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level(
            "avx512vnni",
            "x86_64",
            ("-march=x86-64-v4", "-mavx512vnni", "-mavx512vbmi"),
            (*_V4, "avx512_vnni", "avx512vbmi"),
            ("avx512vnni",),
            Layout(in_lanes=True),
        ),
        Level(
            "avxvnni",
            "x86_64",
            ("-march=x86-64-v3", "-mavxvnni"),
            (*_V3, "avx_vnni"),
            ("avxvnni",),
        ),
        Level(
            "x86-64-v3",
            "x86_64",
            ("-march=x86-64-v3",),
            _V3,
            ("avx2",),
            Layout(group=2, weight="int16"),
        ),
        Level(
            "neon",
            "aarch64",
            ("-march=armv8.2-a+dotprod",),
            ("asimddp",),
            ("neon",),
            Layout(signed=True),
        ),
        Level("riscv64", "riscv64", ("-march=rv64gc",)),
        Level("cortex-m", "armv7e-m", ("-mcpu=cortex-m7", "-mthumb", "-ffreestanding")),
        PORTABLE,
    )
}
"""Every level, better ones first."""

_SUFFIXES = sorted({suffix for level in LEVELS.values() for suffix in level.suffixes})


@lru_cache
def kernel_names() -> frozenset[str]:
    """Names of the kernel sources."""
    return frozenset(path.stem for path in KERNELS.glob("vit_*.c"))


@lru_cache
def shared_shapes() -> frozenset[str]:
    """Shapes of kernels whose work several workers can share: those with `part` and `parts`."""
    text = (KERNELS / "vit_kernels.h").read_text(encoding="utf-8")
    bodies = re.findall(r"typedef struct \{([^}]*)\} (\w+);", text)
    return frozenset(name for body, name in bodies if "int32_t part, parts;" in body)


@lru_cache
def host_features() -> frozenset[str]:
    """Features of this machine's processor; none where the system does not say."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()


def runs_here(level: Level) -> bool:
    """Whether this machine runs code of a level."""
    return level.machine in (None, platform.machine()) and host_features().issuperset(
        level.features
    )


def host_level() -> Level:
    """The best level that this machine runs."""
    return next(level for level in LEVELS.values() if runs_here(level))


MAX_THREADS = 64
"""VIT_MOST_THREADS of vit_team.c."""


def check_threads(count: int) -> None:
    """Raises VitError for a number of threads that a project cannot have."""
    if not 1 <= count <= MAX_THREADS:
        raise VitError(f"{count} threads: a C project takes 1 to {MAX_THREADS}")


def find_level(name: str) -> Level:
    """The level of a name, `host` included; raises VitError for an unknown one."""
    if name == "host":
        return host_level()
    if name not in LEVELS:
        raise VitError(f"unknown --cpu '{name}'; known: host, {', '.join(LEVELS)}")
    return LEVELS[name]
