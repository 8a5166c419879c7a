"""The report as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

GOOD, FAIR = 35.0, 20.0
"""Decibels above which an error is small, and below which it is large."""

WIDTH = 150
"""Columns of text in a pipe."""

TITLES = {
    "inputs": "inputs",
    "sqnr_db": "SQNR, all inputs",
    "sqnr_mean_db": "SQNR, mean of inputs",
    "sqnr_worst_db": "SQNR, worst input",
    "cosine": "cosine",
    "max_abs_error": "largest error",
    "top1_agreement": "same top-1 as float",
    "top1": "top-1",
    "float_top1": "top-1 of the float model",
    "iou": "IoU of masks at 0.5",
}


def value_text(key: str, value: float | None) -> str:
    """A measure in its unit."""
    if value is None:
        return "exact"
    if key == "inputs":
        return f"{value:,.0f}"
    if key.endswith("_db"):
        return f"{value:.1f} dB"
    if key.startswith(("top1", "float_top1")):
        return f"{value:.1%}"
    return f"{value:.4g}"


def decibels(value: float | None) -> str:
    """A ratio of a table, with the colour of its size; `exact` where nothing differs."""
    if value is None:
        return "[dim]exact[/dim]"
    colour = "green" if value >= GOOD else "red" if value < FAIR else "yellow"
    return f"[{colour}]{value:.1f}[/{colour}]"


def frac_text(fracs: Sequence[int] | None) -> str:
    """Fractional bits, one or a range."""
    return "" if fracs is None else "..".join(str(frac) for frac in dict.fromkeys(fracs))


def bits_text(bits: float | None) -> str:
    """Bits of weights; a mean where groups of weights differ."""
    return "" if bits is None else f"{bits:.3g}"


def print_report(report: Mapping[str, Any], worst: int | None = None) -> None:
    """Print a report; `worst` limits the layers to those that lose most by themselves."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(f"[bold]{report['model']}[/bold], {report['scales']} scales", highlight=False)
    for title, outputs in summaries(report):
        console.print(f"\n[italic]{title}[/italic]", highlight=False)
        table = Table(show_header=False, box=None, padding=(0, 2))
        for name, facts in outputs.items():
            for key, value in facts.items():
                table.add_row(name, TITLES.get(key, key), value_text(key, value))
        console.print(table)
    layers = list(report["layers"])
    if worst is not None:
        known = [row for row in layers if row["alone_db"] is not None]
        layers = sorted(known, key=lambda row: row["alone_db"])[:worst]
    if layers:
        order = "in order of execution" if worst is None else "that lose most by themselves"
        console.print(f"\n[italic]Layers {order}[/italic]", highlight=False)
        console.print(_layer_table(layers))


def summaries(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Measures of the whole model with their titles."""
    found = [("Integers against floats, calibration inputs", report["quality"])]
    for each in report.get("evaluations", []):
        found.append(
            (f"Integers against floats, {each['data']} on {each['backend']}", each["outputs"])
        )
    return found


def _layer_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(header_style="bold", box=None)
    table.add_column("layer", overflow="ellipsis", no_wrap=True, max_width=44)
    names = ("bits", "frac", "low", "high", "clipped", "w bits", "w frac")
    for name in (*names, "weight dB", "format dB", "alone dB", "so far dB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["layer"],
            str(row["bits"]),
            frac_text(row["fracs"]),
            f"{row['low']:.4g}",
            f"{row['high']:.4g}",
            f"{row['clipped']:.2%}" if row["clipped"] else "",
            bits_text(row.get("weight_bits")),
            frac_text(row.get("weight_fracs")),
            decibels(row["weight_db"]) if "weight_db" in row else "",
            *(decibels(row[key]) for key in ("grid_db", "alone_db", "sqnr_db")),
        )
    return table


__all__ = ["TITLES", "bits_text", "frac_text", "print_report", "summaries", "value_text"]
