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

EVALUATION: Mapping[str, Kinds] = {"data": (str,), "backend": (str,), "outputs": (dict,)}
"""What a measurement on data must have."""


def check_report(report: Mapping[str, Any], path: Path) -> None:
    """Raise VitError, naming the first thing amiss, for a report that cannot be shown."""
    _check(report, REPORT, f"{path}")
    for place, row in enumerate(report["layers"]):
        _check(row, LAYER, f"{path}: layers[{place}]")
    evaluations = report.get("evaluations", [])
    _check({"evaluations": evaluations}, {"evaluations": (list,)}, f"{path}")
    for place, each in enumerate(evaluations):
        _check(each, EVALUATION, f"{path}: evaluations[{place}]")
    for outputs in (report["quality"], *(each["outputs"] for each in evaluations)):
        for name, facts in cast("dict[str, Any]", outputs).items():
            _check({name: facts}, {name: (dict,)}, f"{path}")
            measures = cast("dict[str, Any]", facts)
            _check(measures, dict.fromkeys(measures, MEASURE), f"{path}: {name}")


def _check(data: Any, wanted: Mapping[str, Kinds], where: str) -> None:
    """Raise VitError for a key that is missing or holds another type."""
    if not isinstance(data, dict):
        raise VitError(f"{where}: expected names with values; compile the model again")
    found = cast("dict[str, Any]", data)
    for key, kinds in wanted.items():
        if key not in found or not isinstance(found[key], kinds):
            raise VitError(f"{where}: no usable '{key}'; compile the model again")


__all__ = ["check_report"]
