"""`vit-run DIR --on reference|c|accel --input IN.npz --output OUT.npz`: runs a compiled model.

Inputs are arrays by name: float arrays hold real values, integer arrays raw codes. A leading batch
of any size is run one inference at a time. The output file holds real values under the model's
output names, and raw integers under `NAME.int`. With `--json`, one object on standard output says
what ran: backend, outputs (shape, dtype, sha256 of the integers), `latency_ms` (c), `cycles`,
`utilisation` and `energy_uj` (accel), each the median per inference, and `seconds` on the host, from
when the model is loaded.

On the accelerator, `metrics` (with `--json`) are the papers' units: FPS, GOPS, GOPS per multiplier and
per watt, energy by engine and memory; `--gpu MS,WATTS` compares with what a GPU takes. `--layers` shows
where cycles, bytes and energy went, operation by operation of the model (under `layers` with `--json`),
`--html FILE` draws it as one page to look at, and `--trace FILE.json` writes what every engine did when,
for Perfetto (ui.perfetto.dev) or chrome://tracing; all of one inference. `--timing-only` computes
no data and needs no input: cycles and energy, which do not depend on it, in less time.

`--check MODEL.onnx` compares with the float model (by onnxruntime if it is installed, else by our
own interpreter): signal to quantisation noise, largest error, agreement of the largest entry.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from vit_opt.dialects.npz import read_npz
from vit_opt.tools import accel_report
from vit_opt.tools.artefact import Artefact
from vit_opt.tools.command import (
    UsageError,
    command_line,
    replacing,
    require_writable,
    run_command,
    write_text,
)
from vit_opt.tools.execution import BACKENDS, RunResult, run_batch, split_batch
from vit_opt.tools.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

DESCRIPTION = "Run a compiled model on one of its backends."


def run_folder(
    folder: Path, backend: str, inputs: Mapping[str, Array], jobs: int | None = None
) -> RunResult:
    """Run a batch on a compiled folder; see the module docstring for what arrays mean.

    `jobs` is the number of processes (default: one per processor).
    """
    artefact = Artefact(folder)
    shapes = {name: port["shape"] for name, port in artefact.read_report()["inputs"].items()}
    batch = split_batch(inputs, shapes)
    with progress(f"vit-run on {backend}") as say:
        return run_batch(artefact, backend, batch, jobs or os.cpu_count() or 1, say)


def write_outputs(path: Path, reals: Mapping[str, Array], codes: Mapping[str, Array]) -> None:
    """Write real values under the output names and integers under `NAME.int`."""
    import numpy as np

    arrays = dict(reals) | {f"{name}.int": array for name, array in codes.items()}
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def sha256_of(array: Array) -> str:
    """Hash of an array's bytes, little-endian and row-major."""
    import numpy as np

    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return hashlib.sha256(little.tobytes()).hexdigest()


def summary(result: RunResult) -> dict[str, Any]:
    """What `--json` prints."""
    outputs = {
        name: {
            "shape": list(array.shape),
            "dtype": array.dtype.name,
            "sha256": sha256_of(array),
        }
        for name, array in result.codes.items()
    }
    return {
        "backend": result.backend,
        "outputs": outputs,
        **result.measures,
        "seconds": result.seconds,
    }


def _real_inputs(artefact: Artefact, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Inputs as real values: integer arrays are codes of the formats in the report."""
    import numpy as np

    ports = artefact.read_report()["inputs"]
    reals: dict[str, Array] = {}
    for name, array in inputs.items():
        if array.dtype.kind == "f" or "scale" not in ports[name]:
            reals[name] = array.astype(np.float32)
        else:
            scale, zero = ports[name]["scale"], ports[name].get("zero_point", 0)
            reals[name] = ((array.astype(np.float64) - zero) * scale).astype(np.float32)
    return reals


def _finite(facts: Any) -> Any:
    """Plain data with null for infinity (the SQNR of equal results), which JSON does not have."""
    if isinstance(facts, dict):
        return {key: _finite(value) for key, value in cast("dict[str, Any]", facts).items()}
    return None if isinstance(facts, float) and not math.isfinite(facts) else facts


def _print_summary(facts: Mapping[str, Any]) -> None:
    for name, port in facts["outputs"].items():
        print(f"{name}: {port['dtype']}{port['shape']}, sha256 {port['sha256'][:16]}")
    for key, unit in (
        ("latency_ms", "ms an inference"),
        ("seconds", "s on the host"),
    ):
        if key in facts:
            print(f"{facts[key]:.3g} {unit}")
    for name, check in facts.get("check", {}).items():
        text = ", ".join(f"{key} {value:.6g}" for key, value in check.items())
        print(f"{name} against float: {text}")


def _check_options(args: argparse.Namespace) -> None:
    """Raises UsageError for options that do not go together, VitError for places to write to."""
    accel = ("layers", "trace", "html", "gpu", "timing_only")
    asked = [f"--{name.replace('_', '-')}" for name in accel if getattr(args, name)]
    if asked and args.on != "accel":
        raise UsageError(f"{asked[0]} is for the accelerator: add --on accel")
    if args.html:
        from vit_opt.tools.report.plots import require_plotting

        require_plotting()
    if args.gpu:
        from vit_opt.backends.accel.metrics import GpuFigure

        GpuFigure.parse(args.gpu)
    without = ("input", "output", "check", "jobs")
    if args.timing_only and (given := [name for name in without if getattr(args, name)]):
        raise UsageError(f"--timing-only computes no data: leave out --{given[0]}")
    if args.input is None and not args.timing_only:
        raise UsageError("--input IN.npz is missing")
    for path in (args.output, args.trace, args.html):
        if path is not None:
            require_writable(Path(path))


def _run(args: argparse.Namespace) -> None:
    _check_options(args)
    artefact = Artefact(Path(args.folder))
    artefact.read_report()
    facts: dict[str, Any] = {"backend": args.on, "outputs": {}}
    if not args.timing_only:
        facts = _infer(args, artefact)
    record = None
    if args.on == "accel":
        record = accel_report.record(artefact, args.gpu)
        facts.setdefault("seconds", record.seconds)
        facts["metrics"], facts["work"] = record.figures, record.work
        if args.layers and args.json:
            facts["layers"] = record.layers
        if args.trace:
            write_text(Path(args.trace), json.dumps(record.profile.trace()))
        if args.html:
            from vit_opt.tools.report.accel_page import write_page

            model = Path(artefact.read_report().get("model", args.folder))
            name = "/".join(model.parts[-2:]) if model.stem == "model" else model.name
            write_page(record, name, Path(args.html))
    if args.json:
        print(json.dumps(_finite(facts)))
        return
    _print_summary(facts)
    if record is not None:
        record.print(layers=args.layers)


def _infer(args: argparse.Namespace, artefact: Artefact) -> dict[str, Any]:
    """Run a batch and write its outputs; what `--json` prints of it."""
    inputs = read_npz(Path(args.input))
    result = run_folder(artefact.folder, args.on, inputs, args.jobs)
    facts = summary(result)
    if args.check is not None:
        from vit_opt.tools.check import compare, run_float

        floats = run_float(Path(args.check), _real_inputs(artefact, inputs))
        facts["check"] = compare(floats, result.reals)
    if args.output is not None:
        write_outputs(Path(args.output), result.reals, result.codes)
    return facts


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from vit_opt.tools.opt import positive

    result = command_line("vit-run", DESCRIPTION)
    result.add_argument("folder", metavar="DIR", help="output of vit-compile")
    result.add_argument("--on", choices=BACKENDS, default="c", help="backend (default: c)")
    result.add_argument("--input", metavar="IN.npz", help="arrays by input name, any batch")
    result.add_argument(
        "--output", metavar="OUT.npz", help="real outputs by name, integers under NAME.int"
    )
    result.add_argument("--check", metavar="MODEL.onnx", help="compare with the float model")
    result.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="processes, except for c (default: one a processor)",
    )
    result.add_argument(
        "--layers", action="store_true", help="where cycles and energy go, by layer (accel)"
    )
    result.add_argument("--trace", metavar="FILE.json", help="trace for Perfetto (accel)")
    result.add_argument(
        "--timing-only", action="store_true", help="no data: cycles and energy alone (accel)"
    )
    result.add_argument("--gpu", metavar="MS,WATTS", help="of a GPU to compare with (accel)")
    result.add_argument("--html", metavar="FILE", help="a page with figures of the run (accel)")
    result.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return result


def run(arguments: Sequence[str] | None = None) -> int:
    """`vit-run` with these arguments; returns the exit code."""
    args = parser().parse_args(arguments)
    return run_command("vit-run", lambda: _run(args))


def main() -> None:
    """Entry point of `vit-run`."""
    sys.exit(run())


if __name__ == "__main__":
    main()
