"""The figures of the HTML page: SVG that takes its text colour from the page."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from vit_opt.dialects.errors import VitError

INK = "#123456"
"""Colour of text and axes in matplotlib; the page's text colour takes its place."""

BLUE, ORANGE, GREEN, RED, GREY = "#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#9ca3af"
"""Colours that read well on light and on dark."""

WIDTHS = (
    (0.0, 4.5, "4 bits", ORANGE),
    (4.5, 7.5, "4 and 8 bits in groups", RED),
    (7.5, 8.5, "8 bits", BLUE),
    (8.5, 99.0, "16 bits", GREEN),
)
"""Bits of weights on average from ... to, their name and colour."""

SHOWN = 12
"""Distributions that are drawn large: those of the layers that lose most."""

Row = Mapping[str, Any]


def require_plotting() -> None:
    """Raise VitError if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise VitError("--html needs matplotlib: pip install 'vit-opt[report]'")


def start() -> Any:
    """matplotlib.pyplot, set up for the page."""
    library: Any = importlib.import_module("matplotlib")
    library.use("Agg")
    colours = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    library.rcParams.update(dict.fromkeys(colours, INK))
    library.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "vit-report",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 9,
            "axes.linewidth": 0.6,
            "legend.frameon": False,
            "grid.color": "#888888",
            "grid.alpha": 0.25,
            "grid.linewidth": 0.5,
        }
    )
    return importlib.import_module("matplotlib.pyplot")


def svg_of(plots: Any, figure: Any) -> str:
    """A figure as an SVG element without size of its own; the figure is closed."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    plots.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'font: ([\d.]+px) [^;"]*', r"font: \1 system-ui, sans-serif", svg)
    head, _, rest = svg.partition(">")
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + rest


def depth(plots: Any, rows: Sequence[Row]) -> str:
    """Errors along the depth of the model."""
    figure, axis = plots.subplots(figsize=(11, 3.6), layout="constrained")
    places = range(len(rows))
    for key, label, colour, style in (
        ("grid_db", "format alone", GREEN, {"linewidth": 0, "marker": ".", "markersize": 4}),
        ("alone_db", "layer alone", ORANGE, {"linewidth": 0.9, "marker": ".", "markersize": 4}),
        ("sqnr_db", "everything so far", BLUE, {"linewidth": 2.0}),
    ):
        values = [float("nan") if row[key] is None else row[key] for row in rows]
        axis.plot(places, values, label=label, color=colour, **style)
    axis.set_xlabel("layer, in order of execution")
    axis.set_ylabel("SQNR (dB)")
    axis.set_xlim(-1, len(rows))
    axis.grid(axis="y")
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)
    return svg_of(plots, figure)


def distributions(plots: Any, rows: Sequence[Row]) -> list[str]:
    """Histograms of the layers that lose most, each with the ends of its grid."""
    found: list[str] = []
    for row in losing(rows):
        figure, axis = plots.subplots(figsize=(3.1, 2.0), layout="constrained")
        _distribution(axis, row)
        found.append(svg_of(plots, figure))
    return found


def losing(rows: Sequence[Row]) -> list[Row]:
    """The layers with the largest error of their own, worst first."""
    known = [row for row in rows if row["alone_db"] is not None and row["bits"] <= 8]
    known = known or [row for row in rows if row["alone_db"] is not None]
    return sorted(known, key=lambda row: row["alone_db"])[:SHOWN]


def _distribution(axis: Any, row: Row) -> None:
    """One histogram, logarithmic, above a bar as long as the grid.

    What lies outside of the grid is red, or grey where the function that reads it is flat.
    """
    counts, low, high = row["histogram"], row["low"], row["high"]
    width = (high - low) / len(counts) or 1.0
    first, last, step = row["grid"]
    centres = [low + (i + 0.5) * width for i in range(len(counts))]
    beyond = GREY if row.get("through") and not row["clipped"] else RED
    colours = [beyond if centre < first or centre > last else BLUE for centre in centres]
    axis.bar(centres, counts, width, color=colours, linewidth=0)
    axis.set_yscale("symlog", linthresh=1)
    axis.set_yticks([])
    axis.set_yticks([], minor=True)
    axis.spines["left"].set_visible(False)
    margin = 0.3 * (high - low)
    ends = max(first, low - margin), min(last, high + margin)
    axis.plot(
        ends,
        (-0.06, -0.06),
        color=ORANGE,
        linewidth=2.5,
        solid_capstyle="butt",
        clip_on=False,
        transform=axis.get_xaxis_transform(),
    )
    for end in (first, last):
        if low - margin <= end <= high + margin:
            axis.axvline(end, color=ORANGE, linewidth=1.2)
    axis.spines["bottom"].set_position(("outward", 7))
    used = (min(high, last) - max(low, first)) / step
    axis.set_title(short(row["layer"], 38), loc="left", fontsize=8)
    frac = "" if row["fracs"] is None else f", frac {row['fracs'][-1]}"
    through = f" through {row['through']}" if row.get("through") else ""
    axis.set_xlabel(
        f"{row['bits']} bits{frac}, {used:.0f} steps, {row['alone_db']:.1f} dB{through}",
        fontsize=7.5,
    )
    axis.tick_params(labelsize=7)


def short(name: str, length: int) -> str:
    """The end of a long name."""
    return name if len(name) <= length else "…" + name[1 - length :]


def sensitivity(plots: Any, rows: Sequence[Row], choices: Sequence[Row]) -> str | None:
    """Bits of the weights against how much their rounding hurts; None without weights.

    Over the measured error of 4 bits where `assign-bits` looked at it, dots as large as the layers;
    else the noise of the rounding along the depth.
    """
    measured = [row for row in choices if row.get("error")]
    figure, axis = plots.subplots(figsize=(11, 3.2), layout="constrained")
    sizes: dict[tuple[float, float], float] = {}
    if measured:
        points = [(row["error"], row["bits"], row["bits"]) for row in measured]
        most = max(row["weights"] for row in measured)
        for row in measured:
            sizes[row["error"], row["bits"]] = 12 + 150 * row["weights"] / most
        axis.set_xlabel("sensitivity: relative error of what reads the layer, with 4-bit weights")
        axis.set_ylabel("bits chosen")
        axis.set_xscale("log")
        for row in extremes(measured):
            axis.annotate(
                short(row["layer"], 28),
                (row["error"], row["bits"]),
                xytext=(6, 7),
                textcoords="offset points",
                fontsize=7,
            )
        axis.margins(x=0.08, y=0.15)
    else:
        weighty = [row for row in rows if row.get("weight_db") is not None]
        if not weighty:
            plots.close(figure)
            return None
        points = [
            (place, row["weight_db"], row["weight_bits"])
            for place, row in enumerate(rows)
            if row.get("weight_db") is not None
        ]
        axis.set_xlabel("layer, in order of execution")
        axis.set_ylabel("SQNR of weights (dB)")
    for low, high, name, colour in WIDTHS:
        chosen = [(x, y) for x, y, bits in points if low <= bits < high]
        if chosen:
            areas = [sizes.get(each, 18) for each in chosen]
            axis.scatter(*zip(*chosen, strict=True), s=areas, color=colour, label=name, alpha=0.7)
    axis.grid()
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(WIDTHS))
    return svg_of(plots, figure)


def extremes(measured: Sequence[Row]) -> list[Row]:
    """The layers that 4 bits hurt least and most, and the widest of those that got 4 bits."""
    ordered = sorted(measured, key=lambda row: row["error"])
    narrow = [row for row in ordered if row["bits"] < 8]
    named = [ordered[0], ordered[-1], *narrow[-1:]]
    return [row for i, row in enumerate(named) if row not in named[:i]]


def spark(row: Row) -> str:
    """A small histogram for a row of the table."""
    counts = row["histogram"]
    top = max(max(counts), 1)
    heights = [0 if not count else 2 + 14 * (count / top) ** 0.4 for count in counts]
    path = "".join(f"M{i + 0.5} 16v-{height:.1f}" for i, height in enumerate(heights) if height)
    return f'<svg class="spark" viewBox="0 0 {len(counts)} 16"><path d="{path}"/></svg>'


__all__ = [
    "depth",
    "distributions",
    "losing",
    "require_plotting",
    "sensitivity",
    "short",
    "spark",
    "start",
]
