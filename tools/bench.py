"""`vit-bench`: measures.

    vit-bench digits examples/digits examples/...      accuracy and bits on the digits' test images
    vit-bench road MODEL.onnx                          time, memory and bits on the whole road
    vit-bench cpu MODEL...                             speed against ONNX Runtime and OpenVINO
    vit-bench models MODEL... | --builders             the road and all backends, model by model
    vit-bench ablation MODEL --eval DATA               what each feature of the quantiser is worth
    vit-bench accuracy MODEL... --eval DATA            power-of-two against arbitrary scales
    vit-bench dse MODEL --sweep lanes=32,64            latency, energy, area of many accelerators
    vit-bench pipelines MODEL                          an accelerator without its pipelines
    vit-bench layers 197x768x192 nets.csv              products and convolutions by their sizes
    vit-bench scalesim                                 cycles of matrix products against SCALE-Sim

Every command prints a table, or with `--json` one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError
from vit_opt.tools.command import command_line, run_command
from vit_opt.tools.tables import print_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

DESCRIPTION = "Measure accuracy, speed, memory, and whether the backends agree bit for bit."


# ---- road ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    peak_bytes: int


def measure(command: Sequence[str | Path]) -> Cost:
    """Run a command and measure time and peak memory; raises VitError if it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise VitError(f"{command[0]} failed: {said.strip() or process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(time.perf_counter() - start, usage.ru_maxrss * unit)


def _tool(name: str) -> list[str]:
    """A tool of this installation as a command."""
    return [sys.executable, "-m", f"vit_opt.tools.{name}"]


def road(
    model: Path, inferences: int, targets: Sequence[str], calib: Path | None
) -> dict[str, Any]:
    """Time and memory of vit-opt, vit-compile per target, and every backend on random inputs."""
    import numpy as np

    from vit_opt.tools.artefact import Artefact
    from vit_opt.tools.run import run_folder, sha256_of

    data = [] if calib is None else ["--calib", str(calib)]
    found: dict[str, Any] = {"model": str(model)}
    with TemporaryDirectory() as name:
        folder = Path(name)
        out = ["-o", str(folder / "model.mlir")]
        cost = measure([*_tool("opt"), str(model), "-p", "pot-fold,tile", *data, *out])
        found["vit-opt"] = vars(cost)
        for target in targets:
            out = ["-o", str(folder / target), "--target", target]
            cost = measure([*_tool("compile"), str(model), *data, *out])
            found[f"compile {target}"] = vars(cost)
        first = folder / targets[0]
        ports = Artefact(first).read_report()["inputs"]
        random = np.random.default_rng(0)
        inputs = {
            port: random.standard_normal((inferences, *facts["shape"][1:])).astype(np.float32)
            for port, facts in ports.items()
        }
        hashes: set[tuple[str, ...]] = set()
        for backend in ("reference", *targets):
            compiled = first if backend == "reference" else folder / backend
            result = run_folder(compiled, backend, inputs, jobs=1)
            hashes.add(tuple(sha256_of(array) for array in result.codes.values()))
            seconds = result.seconds / inferences
            found[f"run {backend}"] = {"seconds_per_inference": seconds, **result.measures}
        found["bits_equal"] = len(hashes) == 1
    return found


def _road(args: argparse.Namespace) -> None:
    targets = {"c": ["c"], "accel": ["accel"], "all": ["c", "accel"]}[args.target]
    calib = None if args.calib is None else Path(args.calib)
    facts = road(Path(args.model), args.inferences, targets, calib)
    if args.json:
        print(json.dumps(facts))
        return
    print(facts.pop("model"))
    equal = facts.pop("bits_equal")
    rows: list[list[str]] = []
    for step, numbers in facts.items():
        seconds = numbers.get("seconds", numbers.get("seconds_per_inference"))
        memory = f"{numbers['peak_bytes'] / 1e6:,.0f} MB" if "peak_bytes" in numbers else ""
        cycles = f"{numbers['cycles']:,}" if "cycles" in numbers else ""
        rows.append([step, f"{seconds:.2f} s", memory, cycles])
    print_table(["", "time", "peak memory", "cycles"], rows)
    print(f"output bits of the backends: {'equal' if equal else 'DIFFERENT'}")


# ---- command line -------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from vit_opt.tools.benchmarks import (
        ablation,
        accuracy,
        cpu,
        digits,
        dse,
        layers,
        models,
        pipelines,
        scalesim,
    )
    from vit_opt.tools.opt import positive

    result = command_line("vit-bench", DESCRIPTION)
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    digits.add_command(commands)
    command = commands.add_parser("road", help="time, memory and bits from ONNX to the backends")
    command.add_argument("model", metavar="MODEL.onnx")
    command.add_argument("--calib", metavar="DATA", help="calibration data (default: synthetic)")
    command.add_argument("--target", choices=("c", "accel", "all"), default="all")
    command.add_argument("--inferences", type=positive, default=3, metavar="N", help="default: 3")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=_road)
    cpu.add_command(commands)
    models.add_command(commands)
    ablation.add_command(commands)
    accuracy.add_command(commands)
    dse.add_command(commands)
    pipelines.add_command(commands)
    layers.add_command(commands)
    scalesim.add_command(commands)
    return result


def run(arguments: Sequence[str] | None = None) -> int:
    """`vit-bench` with these arguments; returns the exit code."""
    args = parser().parse_args(arguments)
    return run_command("vit-bench", lambda: args.run(args))


def main() -> None:
    """Entry point of `vit-bench`."""
    sys.exit(run())


if __name__ == "__main__":
    main()
