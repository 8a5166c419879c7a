"""The machine: what it is called, what it runs, and how many int8 MACs a second it can do."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PACKAGES = ("vit-opt", "numpy", "onnxruntime", "openvino", "nncf", "torch")

NOTABLE = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512vbmi", "avx512_bf16"),
    *("amx_int8", "amx_bf16", "asimddp", "i8mm", "sve"),
)
"""Processor features that matter here, as Linux calls them."""


def pin(count: int) -> list[int]:
    """Keep this process on `count` processors and return them; an empty list where it cannot.

    To be called before libraries start threads, which inherit the choice.
    """
    if not hasattr(os, "sched_setaffinity"):
        return []
    chosen = sorted(os.sched_getaffinity(0))[-count:]
    os.sched_setaffinity(0, chosen)
    return chosen


def processor_count() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Processor, features, system, compiler and versions, as plain data."""
    info = _cpuinfo()
    present = set((info.get("flags") or info.get("Features") or "").split())
    return {
        "processor": info.get("model name", platform.processor() or platform.machine()),
        "family": " ".join(filter(None, (info.get("cpu family"), info.get("model")))),
        "processors": processor_count(),
        "features": [name for name in NOTABLE if name in present],
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "compiler": _compiler(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor in /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiler() -> str:
    from vit_opt.backends.c.build import find_compiler

    command = [*find_compiler(), "--version"]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return text.splitlines()[0] if text else "unknown"


# ---- peak ----------------------------------------------------------------------------------------

_PEAK = """\
/* Independent chains of the widest int8 dot product instruction, as many as hide its latency. */
#include <stdint.h>

typedef int32_t vec __attribute__((vector_size(BYTES)));

int32_t peak(int64_t rounds)
{
    vec a = {1}, CHAINS;
    for (int64_t r = 0; r < rounds; r++) {
        STEPS
    }
    a = SUM;
    return a[0];
}
"""

_CHAINS = 12

_DOTS: Sequence[tuple[str, int, str, str, str]] = (
    ("avx512_vnni", 64, "-mavx512vnni", "v", "vpdpbusd %2, %1, %0"),
    ("avx_vnni", 32, "-mavxvnni", "x", "%{vex%} vpdpbusd %2, %1, %0"),
    ("asimddp", 16, "-march=armv8.2-a+dotprod", "w", "sdot %0.4s, %1.16b, %2.16b"),
)
"""Processor feature, bytes of a vector, compiler flag, register class, instruction."""


def peak_macs(features: Sequence[str], seconds: float = 0.2) -> float | None:
    """Measured int8 MACs a second of one processor; None without a dot product instruction.

    The best of several short runs of nothing but the instruction.
    """
    for feature, width, flag, register, instruction in _DOTS:
        if feature in features:
            source = _peak_source(width, register, instruction)
            return _measure_peak(source, flag, width * _CHAINS, seconds)
    return None


def _peak_source(width: int, register: str, instruction: str) -> str:
    """C of `peak`; its sums are variables, because compilers keep arrays in memory."""
    names = [f"s{i}" for i in range(_CHAINS)]
    step = f'__asm__ volatile("{instruction}" : "+{register}"(SUM) : "{register}"(a), "{register}"(a));'
    replacements = {
        "BYTES": str(width),
        "CHAINS": ", ".join(f"{name} = {{{i}}}" for i, name in enumerate(names)),
        "STEPS": "\n        ".join(step.replace("SUM", name) for name in names),
        "SUM": " + ".join(names),
    }
    source = _PEAK
    for key, text in replacements.items():
        source = source.replace(key, text)
    return source


def _measure_peak(source: str, flag: str, macs: int, seconds: float) -> float:
    """Best rate of a compiled `peak`, of which every round does `macs` MACs."""
    from vit_opt.backends.c.build import compile_c, find_compiler
    from vit_opt.tools.benchmarks.contest import timed

    with TemporaryDirectory() as name:
        path, library = Path(name) / "peak.c", Path(name) / "peak.so"
        path.write_text(source, encoding="utf-8")
        command = [*find_compiler(), "-std=gnu11", "-O2", flag, "-fPIC", "-shared"]
        compile_c([*command, str(path), "-o", str(library)], path.name)
        function = ctypes.CDLL(str(library)).peak
    function.argtypes = [ctypes.c_int64]
    rounds = 20_000
    run = timed(lambda: function(rounds))
    best, spent = run().seconds, 0.0
    while spent < seconds:
        taken = run().seconds
        best, spent = min(best, taken), spent + taken
    return rounds * macs / best
