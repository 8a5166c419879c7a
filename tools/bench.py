"""`vit-bench`: measures.

    vit-bench digits examples/digits --compiled DIR    accuracy and bits on the digits' test images
    vit-bench road MODEL.onnx                          time, memory and bits on the whole road
    vit-bench cpu MODEL...                             speed against ONNX Runtime and OpenVINO
    vit-bench models MODEL... | --builders             the road and all backends, model by model
    vit-bench ablation MODEL --eval DATA               what each feature of the quantiser is worth
    vit-bench accuracy MODEL... --eval DATA            power-of-two against arbitrary scales
    vit-bench dse MODEL --sweep lanes=32,64            latency, energy, area of many accelerators

Every command prints a table, or with `--json` one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError
from vit_opt.tools.command import run_command
from vit_opt.tools.execution import BACKENDS
from vit_opt.tools.tables import print_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

DESCRIPTION = "Measure accuracy, speed, memory, and whether the backends agree bit for bit."


# ---- digits -------------------------------------------------------------------------------------


def digits(folder: Path, compiled: Path, count: int | None = None) -> dict[str, Any]:
    """Float model and integer backends on the test images of `examples/digits`.

    Returns the accuracy of each, SQNR of the logits in dB, a hash of all output integers, and
    sizes and cycles from the report. `count` limits the number of images.
    """
    import numpy as np

    from vit_opt.dialects.npz import read_npz
    from vit_opt.tools.artefact import Artefact
    from vit_opt.tools.check import run_float, sqnr_db
    from vit_opt.tools.run import run_folder, sha256_of

    test = read_npz(folder / "test.npz")
    pixels, labels = test["image"][:count], test["label"][:count]
    inputs = {"image": (pixels.astype(np.float32) - 128) / 128}
    logits = run_float(folder / "model.onnx", inputs)["logits"]
    rows: dict[str, dict[str, Any]] = {"float": {"accuracy": _accuracy(logits, labels)}}
    for backend in BACKENDS:
        result = run_folder(compiled, backend, inputs)
        rows[backend] = {
            "accuracy": _accuracy(result.reals["logits"], labels),
            "sqnr_db": sqnr_db(logits, result.reals["logits"]),
            "sha256": sha256_of(result.codes["logits"]),
            **result.measures,
            "seconds": result.seconds,
        }
    report = Artefact(compiled).read_report()
    return {
        "images": len(labels),
        "backends": rows,
        "bits_equal": len({rows[backend]["sha256"] for backend in BACKENDS}) == 1,
        "weight_bytes": report["c"]["weight_bytes"],
        "arena_bytes": report["c"]["arena_bytes"],
        "cycles": rows["accel"]["cycles"],
    }


def _accuracy(logits: Array, labels: Array) -> float:
    return float((logits.argmax(axis=-1) == labels).mean())


def _digits(args: argparse.Namespace) -> None:
    facts = digits(Path(args.folder), Path(args.compiled), args.count)
    if args.json:
        print(json.dumps(facts))
    else:
        _print_digits(facts)
    if not facts["bits_equal"]:
        raise VitError("the backends give different integers")


def _print_digits(facts: Mapping[str, Any]) -> None:
    rows: list[list[str]] = []
    for name, row in facts["backends"].items():
        rows.append(
            [
                name,
                f"{100 * row['accuracy']:.1f} %",
                f"{row['sqnr_db']:.1f} dB" if "sqnr_db" in row else "",
                row.get("sha256", "")[:16],
                f"{row['seconds']:.1f} s" if "seconds" in row else "",
            ]
        )
    print(f"\n{facts['images']} test images")
    print_table(["", "accuracy", "logits SQNR", "output bits", "host time"], rows)
    c, accel = facts["backends"]["c"], facts["backends"]["accel"]
    print()
    print(f"output bits of the three backends: {'equal' if facts['bits_equal'] else 'DIFFERENT'}")
    print(f"weights {facts['weight_bytes']:,} bytes, arena {facts['arena_bytes']:,} bytes")
    print(f"C: {c['latency_ms']:.2f} ms an image")
    print(
        f"accelerator: {facts['cycles']:,} cycles an image, {100 * accel['utilisation']:.0f} % of "
        f"the array's peak, {accel['energy_uj']:.0f} uJ"
    )


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
    from vit_opt.tools.benchmarks import ablation, accuracy, cpu, dse, models

    result = argparse.ArgumentParser(prog="vit-bench", description=DESCRIPTION)
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("digits", help="accuracy and bits on the digits' test images")
    command.add_argument("folder", metavar="FOLDER", help="examples/digits")
    command.add_argument("--compiled", required=True, metavar="DIR", help="output of vit-compile")
    command.add_argument("--count", type=int, metavar="N", help="only the first N images")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=_digits)
    command = commands.add_parser("road", help="time, memory and bits from ONNX to the backends")
    command.add_argument("model", metavar="MODEL.onnx")
    command.add_argument("--calib", metavar="DATA", help="calibration data (default: synthetic)")
    command.add_argument("--target", choices=("c", "accel", "all"), default="all")
    command.add_argument("--inferences", type=int, default=3, metavar="N", help="default: 3")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=_road)
    cpu.add_command(commands)
    models.add_command(commands)
    ablation.add_command(commands)
    accuracy.add_command(commands)
    dse.add_command(commands)
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
