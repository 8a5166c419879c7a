"""A run in the units of papers: frames and operations a second, per multiplier and per watt.

One MAC is two operations, as in the papers. The MACs are those of the model, so work that a mapping
does in vain counts for nothing. With f the clock in Hz, `cycles` and E the energy of an inference:

    latency = cycles / f          FPS = 1 / latency        GOPS = 2 MACs / latency / 1e9
    power = E / latency           GOPS per MAC = GOPS / multipliers (P2-ViT: GOPS per DSP)
    GOPS/W = GOPS / power = 2 MACs / E / 1e9

GOPS per MAC is utilisation times twice the clock in GHz. Utilisation counts all MACs of the model,
against a peak of int8 MACs: with weights of 4 bits, of which a multiplier takes `int4_rate` a cycle,
it may be as high as that. `occupied` is the share of the multipliers' cycles that the same MACs need:
a share s of them by 4 bits, utilisation * (1 - s + s / int4_rate), so at most 1. Energy is that of
the operations and of memory accesses; leakage and the clock tree are not modelled. Batch size 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vit_opt.backends.accel.dram import parts_line
from vit_opt.backends.accel.emulator import Stats
from vit_opt.backends.accel.image import Image
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget


@dataclass(frozen=True)
class GpuFigure:
    """What a GPU takes for an inference of the same model, as whoever measured it states."""

    latency_ms: float
    watts: float

    @staticmethod
    def parse(text: str) -> GpuFigure:
        """`MS,WATTS`; VitError if it is anything else."""
        try:
            latency, watts = (float(part) for part in text.split(","))
        except ValueError:
            latency = watts = 0.0
        if not (0 < latency < 1e9 and 0 < watts < 1e9):
            raise VitError(f"'{text}' is not a GPU's MS,WATTS, such as 1.02,250")
        return GpuFigure(latency, watts)


def metrics(
    stats: Stats, arch: AccelTarget, image: Image, gpu: GpuFigure | None = None
) -> dict[str, Any]:
    """The figures of one inference of a program, and against a GPU if given."""
    macs = image.macs
    seconds = stats.cycles / (arch.clock_mhz * 1e6)
    joules = stats.energy_uj * 1e-6
    gops = 2 * macs / seconds / 1e9
    narrow = stats.narrow_macs / stats.macs if stats.macs else 0.0
    found: dict[str, Any] = {
        "clock_mhz": arch.clock_mhz,
        "macs_per_cycle": arch.macs_per_cycle,
        "macs": macs,
        "cycles": stats.cycles,
        "latency_ms": seconds * 1e3,
        "fps": 1 / seconds,
        "gops": gops,
        "gops_per_mac": gops / arch.macs_per_cycle,
        "utilisation": stats.utilisation,
        "narrow_macs": stats.narrow_macs,
        "narrow_share": narrow,
        "int4_rate": arch.int4_rate,
        "occupied": stats.utilisation * (1 - narrow + narrow / arch.int4_rate),
        "power_w": joules / seconds,
        "gops_per_w": 2 * macs / joules / 1e9 if joules else 0.0,
        "energy_uj": stats.energy_uj,
        "energy_source": arch.energy.source,
        "engine_uj": {name: value * 1e-6 for name, value in stats.engine_pj.items()},
        "memory_uj": {name: value * 1e-6 for name, value in stats.memory_pj.items()},
        "dram_bytes": stats.dram_bytes,
        "dram_parts": stats.dram_parts,
        "compulsory_bytes": image.compulsory_bytes,
        "sram_bytes": stats.sram_bytes,
    }
    if gpu is not None:
        found["gpu"] = {
            "latency_ms": gpu.latency_ms,
            "watts": gpu.watts,
            "speed_up": gpu.latency_ms / found["latency_ms"],
            "energy_ratio": gpu.watts * gpu.latency_ms * 1e-3 / joules if joules else 0.0,
        }
    return found


def metrics_lines(found: dict[str, Any]) -> list[str]:
    """The figures to read."""
    lines = [
        f"{found['cycles']:,} cycles at {found['clock_mhz']} MHz: {_duration(found)}, "
        f"{found['fps']:.1f} FPS",
        f"{found['gops']:.1f} GOPS, {found['gops_per_mac']:.3f} GOPS per MAC unit "
        f"({found['macs_per_cycle']} units), utilisation {found['utilisation']:.1%}",
        *_narrow_lines(found),
        f"{found['energy_uj']:.1f} uJ, {found['power_w']:.3f} W, {found['gops_per_w']:.1f} GOPS/W "
        f"(energies: {found['energy_source']})",
        f"{found['dram_bytes']:,} bytes of DRAM traffic, {_times_compulsory(found)}",
        parts_line(found["dram_parts"]),
        "energy by engine: " + _shares(found["engine_uj"], found["energy_uj"]),
        "energy by memory: " + _shares(found["memory_uj"], found["energy_uj"]),
    ]
    if "gpu" in found:
        gpu = found["gpu"]
        lines.append(
            f"against a GPU of {gpu['latency_ms']:g} ms at {gpu['watts']:g} W, as stated: "
            f"{gpu['speed_up']:.2f} times as fast, {gpu['energy_ratio']:.2f} times less energy"
        )
    return lines


def _narrow_lines(found: dict[str, Any]) -> list[str]:
    """What weights of 4 bits mean for utilisation, if there are any."""
    if not found["narrow_macs"]:
        return []
    return [
        f"{found['narrow_share']:.1%} of the MACs by weights of 4 bits, {found['int4_rate']} a "
        f"multiplier and cycle; {found['occupied']:.1%} of the multipliers' cycles used"
    ]


def work_lines(work: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the multipliers did by kind of work, to read."""
    return [
        f"{each['kind']}: {each['macs']:,} MACs, at work in {each['cycles']:,} cycles ("
        + ", ".join(f"{engine} {cycles:,}" for engine, cycles in sorted(each["busy"].items()))
        + ")"
        + ("" if each["utilisation"] is None else f", {each['utilisation']:.1%} used meanwhile")
        for each in work
    ]


def _duration(found: dict[str, Any]) -> str:
    """The latency, in microseconds where milliseconds would hide it."""
    milliseconds = found["latency_ms"]
    return f"{milliseconds:.3f} ms" if milliseconds >= 0.1 else f"{milliseconds * 1e3:.3f} us"


def _times_compulsory(found: dict[str, Any]) -> str:
    compulsory = found["compulsory_bytes"]
    ratio = found["dram_bytes"] / compulsory if compulsory else 0.0
    return f"{ratio:.2f} times constants, inputs and outputs once"


def _shares(parts: dict[str, float], total: float) -> str:
    return ", ".join(
        f"{name} {value:.2f} uJ ({value / total:.1%})"
        for name, value in parts.items()
        if value > 0 and total > 0
    )
