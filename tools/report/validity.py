"""Whether a report has what tables and pages show: it may be old, cut short, or not one at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from vit_opt.dialects.errors import VitError

Kinds: TypeAlias = tuple[type, ...]

NUMBER: Kinds = (int, float)
MEASURE: Kinds = (int, float, type(None))

REPORT: Mapping[str, Kinds] = {"quality": (dict,), "layers": (list,)}
"""What the whole report must have, besides what `Artefact.read_report` asks for."""

LAYER: Mapping[str, Kinds] = {
    "layer": (str,),
    "operation": (str,),
    "bits": (int,),
    "fracs": (list, type(None)),
    "low": NUMBER,
    "high": NUMBER,
    "clipped": NUMBER,
    "grid_db": MEASURE,
    "alone_db": MEASURE,
    "sqnr_db": MEASURE,
    "histogram": (list,),
    "grid": (list,),
}
"""What the row of a layer must have."""

WEIGHT: Mapping[str, Kinds] = {
    "layer": (str,),
    "weights": (int,),
    "bytes": (int,),
    "bits": NUMBER,
}
"""What the row of a layer must have where bits were chosen; `error` is there if it was measured."""

WEIGHTS: Mapping[str, Kinds] = {"bytes": (int,), "share": NUMBER}
"""What the row after these, of all layers, must have."""

EVALUATION: Mapping[str, Kinds] = {"data": (str,), "backend": (str,), "outputs": (dict,)}
"""What a measurement on data must have."""


def check_report(report: Mapping[str, Any], path: Path) -> None:
    """Raise VitError, naming the first thing amiss, for a report that cannot be shown."""
    _check(report, REPORT, f"{path}")
    for place, row in enumerate(report["layers"]):
        where = f"{path}: layers[{place}]"
        _check(row, LAYER, where)
        _check({"weight_db": row.get("weight_db")}, {"weight_db": MEASURE}, where)
        if not all(isinstance(frac, int) for frac in row["fracs"] or ()):
            raise VitError(f"{where}: no usable 'fracs'; compile the model again")
    _check_choices(report.get("choices", {}), path)
    evaluations = report.get("evaluations", [])
    _check({"evaluations": evaluations}, {"evaluations": (list,)}, f"{path}")
    for place, each in enumerate(evaluations):
        _check(each, EVALUATION, f"{path}: evaluations[{place}]")
    for outputs in (report["quality"], *(each["outputs"] for each in evaluations)):
        for name, facts in cast("dict[str, Any]", outputs).items():
            _check({name: facts}, {name: (dict,)}, f"{path}")
            measures = cast("dict[str, Any]", facts)
            _check(measures, dict.fromkeys(measures, MEASURE), f"{path}: {name}")


def _check_choices(choices: Any, path: Path) -> None:
    """Raise VitError unless what passes chose can be shown: the bits of weights."""
    _check({"choices": choices}, {"choices": (dict,)}, f"{path}")
    if "assign-bits" not in choices:
        return
    rows = choices["assign-bits"]
    if not isinstance(rows, list) or not rows:
        raise VitError(f"{path}: no usable 'assign-bits'; compile the model again")
    *layers, everything = cast("list[Any]", rows)
    for place, row in enumerate(layers):
        where = f"{path}: assign-bits[{place}]"
        _check(row, WEIGHT, where)
        _check({"error": row.get("error", 0.0)}, {"error": NUMBER}, where)
    _check(everything, WEIGHTS, f"{path}: assign-bits[{len(layers)}]")


def _check(data: Any, wanted: Mapping[str, Kinds], where: str) -> None:
    """Raise VitError for a key that is missing or holds another type."""
    if not isinstance(data, dict):
        raise VitError(f"{where}: expected names with values; compile the model again")
    found = cast("dict[str, Any]", data)
    for key, kinds in wanted.items():
        if key not in found or not isinstance(found[key], kinds):
            raise VitError(f"{where}: no usable '{key}'; compile the model again")


__all__ = ["check_report"]
