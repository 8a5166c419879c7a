"""The figure of `vit-bench cpu`: ratios to ONNX Runtime, and where our time goes."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_opt.dialects.errors import VitError
from vit_opt.tools.command import replacing, require_folder

SUFFIXES = (".svg", ".png")

SHOWN = 8
"""Kinds of operations that get a colour of their own."""


def require_plotting(path: Path) -> None:
    """Raise VitError if a figure cannot be written there, or matplotlib is missing."""
    if path.suffix not in SUFFIXES:
        raise VitError(f"{path}: figures are written as {' or '.join(SUFFIXES)}")
    require_folder(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise VitError("--plot needs matplotlib: pip install 'vit-opt[bench]'")


def draw(facts: Mapping[str, Any], path: Path) -> None:
    """Write the figure: one panel for every batch and number of threads, and one of shares."""
    library: Any = importlib.import_module("matplotlib")
    library.use("Agg")
    library.rcParams["svg.hashsalt"] = "vit-bench"
    plots: Any = importlib.import_module("matplotlib.pyplot")
    models = facts["models"]
    settings = sorted(
        {(entry["batch"], entry["threads"]) for model in models for entry in model["results"]}
    )
    height = 2.6 * (len(settings) + 1)
    figure, axes = plots.subplots(len(settings) + 1, 1, figsize=(9, height), layout="constrained")
    for index, (batch, threads) in enumerate(settings):
        _ratios(axes[index], models, (batch, threads))
        axes[index].set_title(f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}")
    _shares(axes[-1], models)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])
    plots.close(figure)


def _ratios(axis: Any, models: Sequence[Mapping[str, Any]], setting: tuple[int, int]) -> None:
    """Bars of time relative to ONNX Runtime, grouped by model, for a batch and threads."""
    rows = [
        {
            row["name"]: row
            for entry in model["results"]
            if (entry["batch"], entry["threads"]) == setting
            for row in entry["rows"]
        }
        for model in models
    ]
    names = list(dict.fromkeys(name for each in rows for name in each))
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        left = [i - 0.4 + (place + 0.5) * width for i in range(len(models))]
        heights = [each[name]["ratio"] if name in each else 0.0 for each in rows]
        axis.bar(left, heights, width, label=name, color="black" if place == 0 else None)
    axis.axhline(1.0, color="gray", linewidth=0.8)
    axis.set_xticks(range(len(models)), [model["name"] for model in models])
    axis.set_ylabel("time / ORT f32")
    axis.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _shares(axis: Any, models: Sequence[Mapping[str, Any]]) -> None:
    """Stacked bars of the time by kind of operation."""
    totals: dict[str, float] = {}
    for model in models:
        for kind, share in model["shares"].items():
            totals[kind] = totals.get(kind, 0.0) + share
    kinds = sorted(totals, key=lambda kind: -totals[kind])[:SHOWN]
    left = [0.0] * len(models)
    for kind in (*kinds, "others"):
        values = [
            model["shares"].get(kind, 0.0) if kind != "others" else 1.0 - before
            for model, before in zip(models, left, strict=True)
        ]
        axis.barh(range(len(models)), values, left=left, label=kind)
        left = [before + value for before, value in zip(left, values, strict=True)]
    axis.set_yticks(range(len(models)), [model["name"] for model in models])
    axis.set_xlabel("share of our time")
    axis.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
