"""`vit-bench pipelines`: what the accelerator's pipelines within and between layers bring.

    vit-bench pipelines MODEL --arch p2vit

The model is lowered four times: without pipelines, with the one between layers, with the one within
layers, with both; every program is timed by itself (what each pipeline is, stands in
`backends/accel/lowering/pipelines.py`). Latencies are given relative to both, for the attention
blocks (LayerNorm to residual sum), the MLP blocks and the whole model, beside those that P2-ViT
(arXiv 2405.19915) reports for its own array and units.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.tools.architectures import arch_for
from vit_opt.tools.benchmarks.dse import prepare
from vit_opt.tools.benchmarks.dse_workers import PreparedModel, module_of
from vit_opt.tools.progress import progress

PAPER = {
    "none": (1.79, 1.15, 1.57),
    "inter": (1.45, 1.00, 1.32),
    "intra": (1.34, 1.15, 1.37),
    "both": (1.0, 1.0, 1.0),
}
"""Latencies of P2-ViT relative to both pipelines: attention, MLP, all."""


def pipelines(
    prepared: PreparedModel, arch: AccelTarget, say: Callable[[str], None] = lambda _: None
) -> dict[str, dict[str, Any]]:
    """Cycles, latency in ms, use of the array, DRAM bytes and energy in uJ of every case."""
    from vit_opt.backends.accel.lowering import lower_accel, part_names
    from vit_opt.backends.accel.lowering.pipelines import ATTENTION, CASES, MLP
    from vit_opt.backends.accel.profile import Profile
    from vit_opt.backends.accel.run import time_accel
    from vit_opt.passes.tile import tile

    module, context = module_of(prepared)
    tile(module, arch)
    names = part_names(module, context.assets, arch)
    found: dict[str, dict[str, Any]] = {}
    for name, case in CASES.items():
        say(name)
        image = lower_accel(module, context.assets, arch, case)
        profile = Profile(image, arch)
        stats = time_accel(image, arch, profile)
        parts = {ATTENTION: 0, MLP: 0}
        for layer in profile.layers():
            part = names.get(layer.name)
            if part in parts:
                parts[part] += layer.cycles
        found[name] = {
            "cycles": stats.cycles,
            "latency_ms": stats.cycles / (arch.clock_mhz * 1e3),
            "utilisation": stats.utilisation,
            "dram_bytes": stats.dram_bytes,
            "energy_uj": stats.energy_uj,
            "parts": parts,
        }
    fastest = found["both"]["cycles"], found["both"]["parts"]
    for name, figures in found.items():
        figures["relative"] = figures["cycles"] / fastest[0]
        figures["relative_parts"] = {
            part: figures["parts"][part] / cycles for part, cycles in fastest[1].items() if cycles
        }
        figures["paper"] = PAPER[name][2]
        figures["paper_parts"] = dict(zip(fastest[1], PAPER[name], strict=False))
    return found


def _run(args: argparse.Namespace) -> None:
    from vit_opt.tools.tables import print_table

    arch = arch_for(Path(args.model), args.arch)
    calib = None if args.calib is None else Path(args.calib)
    with progress("vit-bench pipelines") as say:
        found = pipelines(prepare(Path(args.model), calib, say), arch, say)
    if args.json:
        print(json.dumps(found))
        return
    rows = [
        [
            name,
            f"{figures['cycles']:,}",
            f"{figures['latency_ms']:.3f}",
            f"{100 * figures['utilisation']:.1f} %",
            f"{figures['dram_bytes'] / 1e6:.1f}",
            f"{figures['energy_uj']:.0f}",
            _three(figures["relative_parts"], figures["relative"]),
            _three(figures["paper_parts"], figures["paper"]),
        ]
        for name, figures in found.items()
    ]
    header = ("pipelines", "cycles", "ms", "used", "DRAM MB", "uJ", "relative", "P2-ViT")
    print_table(header, rows)
    print(
        f"on {arch.name}; used: MACs of the model / (cycles x MACs a cycle); relative: latencies of "
        "attention / MLP / all, and what P2-ViT reports of its own array and units"
    )


def _three(parts: dict[str, float], everything: float) -> str:
    """Latencies of the parts that a model has, and of all, as the paper's table writes them."""
    return " / ".join(f"{each:.2f}" for each in (*parts.values(), everything))


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add `pipelines` to the commands of `vit-bench`."""
    command = commands.add_parser(
        "pipelines", help="the accelerator without its pipelines within and between layers"
    )
    command.add_argument("model", metavar="MODEL", help=".onnx file, or output of vit-compile")
    command.add_argument(
        "--arch", metavar="NAME|FILE", help="default: that of a compiled folder, else p2vit"
    )
    command.add_argument("--calib", metavar="DATA", help="calibration data (default: synthetic)")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=_run)
