"""`vit-bench digits`: float model and integer backends on the test images of the examples."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError
from vit_opt.tools.execution import BACKENDS
from vit_opt.tools.tables import print_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


def data_file(folder: Path, name: str) -> Path:
    """A file of an example, or of the example `digits` beside it, whose images all share."""
    own = folder / name
    return own if own.exists() else folder.resolve().parent / "digits" / name


def measure(folder: Path, compiled: Path | None = None, count: int | None = None) -> dict[str, Any]:
    """Float model and integer backends on the test images of an example.

    Returns the accuracy of each, SQNR of the logits in dB, a hash of all output integers, and
    sizes and cycles from the report. `compiled` is an output of `vit-compile`; without it the model
    is compiled first. `count` limits the number of images.
    """
    from vit_opt.tools.compile import compile_model
    from vit_opt.tools.compile_options import CompileOptions

    model = folder / "model.onnx"
    if not model.exists():
        raise VitError(f"{model}: no such file")
    if compiled is not None:
        return _run(folder, compiled, count)
    with TemporaryDirectory() as name:
        options = CompileOptions(calib=data_file(folder, "calib.npz"))
        compile_model(model, Path(name), options)
        return _run(folder, Path(name), count)


def _run(folder: Path, compiled: Path, count: int | None) -> dict[str, Any]:
    """`measure` for a compiled model."""
    import numpy as np

    from vit_opt.dialects.npz import read_npz
    from vit_opt.tools.artefact import Artefact
    from vit_opt.tools.check import run_float, sqnr_db
    from vit_opt.tools.run import run_folder, sha256_of

    test = read_npz(data_file(folder, "test.npz"))
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
        "example": folder.resolve().name,
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
    folders: Sequence[str] = args.folders
    if args.compiled is not None and len(folders) != 1:
        raise VitError("--compiled is for one example")
    compiled = None if args.compiled is None else Path(args.compiled)
    found: list[dict[str, Any]] = []
    for folder in folders:
        facts = measure(Path(folder), compiled, args.count)
        found.append(facts)
        if args.json:
            print(json.dumps(facts), flush=True)
        else:
            _print(facts)
    different = [facts["example"] for facts in found if not facts["bits_equal"]]
    if different:
        raise VitError(f"the backends give different integers for {', '.join(different)}")


def _print(facts: Mapping[str, Any]) -> None:
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
    print(f"\n{facts['example']}, {facts['images']} test images")
    print_table(["", "accuracy", "logits SQNR", "output bits", "host time"], rows)
    c, accel = facts["backends"]["c"], facts["backends"]["accel"]
    print()
    print(f"output bits of the three backends: {'equal' if facts['bits_equal'] else 'DIFFERENT'}")
    print(f"weights {facts['weight_bytes']:,} bytes, arena {facts['arena_bytes']:,} bytes")
    print(f"C: {c['latency_ms']:.2f} ms an image")
    print(
        f"accelerator: {facts['cycles']:,} cycles an image, {100 * accel['utilisation']:.0f} % of "
        f"the array's peak, {accel['energy_uj']:.0f} uJ",
        flush=True,
    )


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add `digits` to the commands of `vit-bench`."""
    command = commands.add_parser("digits", help="accuracy and bits on the digits' test images")
    command.add_argument("folders", nargs="+", metavar="FOLDER", help="examples/digits, ...")
    command.add_argument("--compiled", metavar="DIR", help="output of vit-compile (default: made)")
    command.add_argument("--count", type=int, metavar="N", help="only the first N images")
    command.add_argument("--json", action="store_true", help="one JSON object an example")
    command.set_defaults(run=_digits)
