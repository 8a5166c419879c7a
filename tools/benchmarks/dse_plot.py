"""The figure of `vit-bench dse`: energy and area over latency, with the Pareto front."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_opt.tools.command import replacing

LABELS: Mapping[str, str] = {
    "latency_ms": "latency, ms",
    "energy_uj": "energy of an inference, µJ",
    "area_mtr": "area proxy, million transistors",
}
NAMED = 12
"""Points of the front that are labelled, at most."""


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the figure: two panels, coloured by the third objective."""
    library: Any = importlib.import_module("matplotlib")
    library.use("Agg")
    library.rcParams["svg.hashsalt"] = "vit-bench"
    plots: Any = importlib.import_module("matplotlib.pyplot")
    points = [point for point in found["points"] if "error" not in point]
    front = sorted((p for p in points if p["pareto"]), key=lambda p: p["latency_ms"])
    key = [_key(number, point, found["axes"]) for number, point in enumerate(front[:NAMED], 1)]
    height = 5.6 + 0.17 * len(key)
    figure, axes = plots.subplots(1, 2, figsize=(12, height))
    bottom = (0.75 + 0.17 * len(key)) / height
    figure.subplots_adjust(0.06, bottom, 0.98, 1 - 0.5 / height, wspace=0.16)
    for axis, (up, colour) in zip(
        axes, (("energy_uj", "area_mtr"), ("area_mtr", "energy_uj")), strict=True
    ):
        _panel(figure, axis, points, front, (up, colour))
    name = f"{Path(found['model']).name} around {found['arch']}"
    figure.suptitle(f"{name} (ringed: Pareto front of latency, energy and area)", fontsize="large")
    figure.text(0.06, 0.1 / height, "\n".join(key), fontsize=8, family="monospace")
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150)
    plots.close(figure)


def _key(number: int, point: Mapping[str, Any], axes: list[dict[str, Any]]) -> str:
    """A line that says which architecture a number stands for, and what it does."""
    parts = [point["arch"]]
    parts += [f"{','.join(a['names'])}={point['fields'][a['names'][0]]:,}" for a in axes]
    return (
        f"{number:2}  {'  '.join(parts)}: {point['latency_ms']:.3g} ms, {point['utilisation']:.0%} "
        f"used, {point['energy_uj']:,.0f} µJ, {point['area_mtr']:.1f} Mtr"
    )


def _panel(
    figure: Any,
    axis: Any,
    points: list[dict[str, Any]],
    front: list[dict[str, Any]],
    keys: tuple[str, str],
) -> None:
    """One objective over latency, coloured by the other; numbers name the points of the front."""
    up, colour = keys
    x, y = ([p[key] for p in points] for key in ("latency_ms", up))
    dots = axis.scatter(x, y, c=[p[colour] for p in points], cmap="viridis", s=48, zorder=2)
    axis.scatter(
        [p["latency_ms"] for p in front],
        [p[up] for p in front],
        s=120,
        facecolors="none",
        edgecolors="crimson",
        linewidths=1.4,
        zorder=3,
    )
    for number, point in enumerate(front[:NAMED], 1):
        axis.annotate(
            str(number),
            (point["latency_ms"], point[up]),
            xytext=(8, 5 if number % 2 else -12),
            textcoords="offset points",
            fontsize=8,
        )
    axis.set_xlabel(LABELS["latency_ms"])
    axis.set_ylabel(LABELS[up])
    axis.margins(0.12)
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.set_title(f"{LABELS[up].split(',')[0]} over latency", fontsize="medium")
    figure.colorbar(dots, ax=axis, label=LABELS[colour], pad=0.02)
