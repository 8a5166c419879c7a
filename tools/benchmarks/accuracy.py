"""`vit-bench accuracy`: power-of-two scales against arbitrary ones, model by model.

Both go the same road with the same calibration; only the scales differ, and with them shifts
(`vit.pot_requant`) from multipliers and shifts (`vit.requant`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_opt.dialects.errors import VitError
from vit_opt.tools.benchmarks.ablation import add_data_arguments, open_variants
from vit_opt.tools.benchmarks.variants import Variants
from vit_opt.tools.progress import progress
from vit_opt.tools.tables import markdown_table, print_table

SCALES: Mapping[str, str] = {"pot": "powers of two", "dyadic": "arbitrary"}

COLUMNS = (
    ("top-1 float", "float_top1"),
    ("top-1", "top1"),
    ("as float", "top1_agreement"),
    ("SQNR", "sqnr_db"),
    ("mean", "sqnr_mean_db"),
    ("worst", "sqnr_worst_db"),
    ("IoU", "iou"),
)


def measure(
    model: Variants, say: Callable[[str], None] = lambda _: None
) -> dict[str, dict[str, Any]]:
    """`quality` of the integer model by kind of scales; `error` where one fails."""
    found: dict[str, dict[str, Any]] = {}
    for road in SCALES:
        say(f"{model.model.parent.name}: {road}")
        try:
            found[road] = model.measure({}, road)
        except VitError as error:
            found[road] = {"error": str(error)}
    return found


def table(
    results: Sequence[tuple[str, Mapping[str, Mapping[str, Any]]]],
) -> tuple[list[str], list[list[str]]]:
    """Header and a line for each model and kind of scales."""
    rows = [(name, road, facts) for name, found in results for road, facts in found.items()]
    columns = [(title, key) for title, key in COLUMNS if any(key in facts for *_, facts in rows)]
    lines = [
        [name, SCALES[road], *(_text(key, facts) for _, key in columns)]
        for name, road, facts in rows
    ]
    return ["model", "scales", *(title for title, _ in columns)], lines


def _text(key: str, facts: Mapping[str, Any]) -> str:
    if key not in facts:
        return "fails" if "error" in facts else ""
    value = facts[key]
    if key.endswith("_db"):
        return f"{value:.1f} dB"
    return f"{value:.3f}" if key == "iou" else f"{value:.1%}"


def _run(args: argparse.Namespace) -> None:
    paths = [Path(model) for model in args.models]
    results: list[tuple[str, dict[str, dict[str, Any]]]] = []
    with progress("vit-bench accuracy") as say:
        for path in paths:
            name = path.parent.name if path.stem == "model" else path.stem
            results.append((name, measure(open_variants(args, path), say)))
    if args.json:
        print(json.dumps(dict(results)))
        return
    header, lines = table(results)
    if args.markdown:
        print(markdown_table(header, lines), end="")
    else:
        print_table(header, lines)
    failed = [
        f"{name}, {SCALES[road]}: {facts['error']}"
        for name, found in results
        for road, facts in found.items()
        if "error" in facts
    ]
    if failed:
        raise VitError("; ".join(failed))


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add `accuracy` to the commands of `vit-bench`."""
    command = commands.add_parser("accuracy", help="power-of-two against arbitrary scales")
    command.add_argument("models", nargs="+", metavar="MODEL.onnx")
    add_data_arguments(command)
    command.set_defaults(run=_run)


__all__ = ["add_command", "measure", "table"]
