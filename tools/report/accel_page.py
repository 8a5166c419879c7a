"""One inference on the accelerator as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_opt.tools.accel_report import array_waits, bounds, energy_uj
from vit_opt.tools.command import write_text
from vit_opt.tools.report import plots
from vit_opt.tools.report.page import SCRIPT, STYLE

if TYPE_CHECKING:
    from vit_opt.tools.accel_report import Record

COLUMNS = (
    ("layer", "Node of the imported model"),
    ("order", "Place in the program"),
    ("cycles", "Of the critical path: the run is as long as these together"),
    ("share", "Of all cycles"),
    ("bound by", "The engines whose instructions these cycles are"),
    ("used", "MACs of the model / multipliers, while the engine works"),
    ("array", "Cycles that the array works"),
    ("array waits", "Cycles that the array waits, by what for"),
    ("DRAM kB", "Bytes on the DRAM bus, whole bursts"),
    ("SRAM kB", "Bytes of the memories on chip"),
    ("µJ", "Energy of operations and accesses; each layer tells by engine and by memory"),
    ("DRAM µJ", "Of it, accesses to DRAM"),
)


def write_page(record: Record, name: str, path: Path) -> None:
    """Write the page; raises VitError without matplotlib."""
    plots.require_plotting()
    write_text(path, page(record, name))


def page(record: Record, name: str) -> str:
    """The page of a record; `name` says which model it is."""
    figures, arch = record.figures, record.profile.arch
    sizes = ", ".join(f"{m.name} {m.size / 1024:g} KiB" for m in arch.memories)
    title = f"{escape(name)} on {escape(arch.name)}"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{title} · vit-opt</title><style>{STYLE}</style>",
        f"<h1>{title}</h1>",
        f"<p>{arch.lanes} lanes of {arch.columns} multipliers, {arch.dw_width} in the reconfigurable "
        f"engine, {arch.clock_mhz} MHz, "
        f"{arch.dram_bytes_per_cycle * arch.clock_mhz / 1e3:.1f} GB/s of DRAM; {sizes}. "
        f"{len(record.profile.image.code):,} instructions. One inference, batch 1, from the input "
        "in DRAM to the output in DRAM.</p>",
        _cards(figures),
        _work(record.work),
        *_sections(record),
        _table(record),
        f"<script>{SCRIPT}</script></html>\n",
    ]
    return "\n".join(parts)


def _cards(figures: Mapping[str, Any]) -> str:
    cards = [
        (f"{figures['latency_ms']:.2f} ms", "latency"),
        (f"{figures['fps']:.0f}", "frames a second"),
        (f"{figures['utilisation']:.1%}", "of the multipliers used"),
        (f"{figures['gops']:.0f}", "GOPS"),
        (f"{figures['gops_per_mac']:.3f}", "GOPS per MAC unit"),
        (_energy(figures["energy_uj"]), "energy"),
        (f"{figures['gops_per_w']:.0f}", "GOPS per watt"),
        (f"{figures['dram_bytes'] / 1e6:.1f} MB", "DRAM traffic"),
    ]
    if "gpu" in figures:
        gpu = figures["gpu"]
        stated = f"a GPU of {gpu['latency_ms']:g} ms, {gpu['watts']:g} W"
        cards += [
            (f"{gpu['speed_up']:.2f}&times;", f"as fast as {stated}"),
            (f"{gpu['energy_ratio']:.1f}&times;", f"less energy than {stated}"),
        ]
    return (
        "<div class='cards'>"
        + "".join(
            f"<div class='card'><b>{value}</b><span>{what}</span></div>" for value, what in cards
        )
        + "</div>"
    )


def _energy(microjoules: float) -> str:
    return f"{microjoules / 1e3:.2f} mJ" if microjoules >= 1e3 else f"{microjoules:.1f} µJ"


SECTIONS = (
    (
        "Engines over time",
        "How much of the time every engine works; the grey line below is how much it waits. At the "
        "right, the share of the whole run.",
    ),
    (
        "A close look",
        "Single instructions in a piece of the run where many engines work, coloured by layer; thin "
        "lines are stalls.",
    ),
    (
        "Use of the multipliers",
        "Layers side by side in the order of the program, each as wide as multipliers work on it and "
        "as high as its share of the peak meanwhile: the coloured area is work, what is empty below "
        "the line is lost. On weights of 4 bits the array does more than its peak.",
    ),
    (
        "Roofline",
        "Layers with products, by their work per byte of DRAM traffic. Dots are as large as their "
        "work, green where within 15 % of the roof; those that hardly touch DRAM stand at the right "
        "end.",
    ),
    (
        "What engines wait for",
        "Work, stalls by the engine waited for (or the DRAM bus), and time without an instruction.",
    ),
    ("Energy", "Of the operations, by engine, and of the accesses, by memory. Figures: {source}."),
    ("DRAM", "What lies where; activations come and go in the rest. {traffic}."),
    (
        "Memories over the run",
        "Addresses that are read or written, in the colour of the engine.",
    ),
    (
        "Memories in the close look",
        "The same in the piece of the run above: blocks that change places while the array works "
        "are double buffering.",
    ),
)
"""The figures of the page, each with a sentence that says how to read it."""


def _sections(record: Record) -> list[str]:
    """The figures with their texts."""
    from vit_opt.backends.accel.dram import parts_line
    from vit_opt.tools.report import accel_plots as draw

    profile, figures = record.profile, record.figures
    layers, cycles = profile.layers(), figures["cycles"]
    library = plots.start()
    window = draw.close_up_window(profile, cycles)
    drawn = (
        draw.engines(library, profile, cycles),
        draw.close_up(library, profile, window),
        draw.utilisation(library, profile, layers),
        draw.roofline(library, profile, layers),
        draw.waits(library, profile, cycles),
        draw.energy(library, figures),
        draw.dram_map(library, profile),
        draw.memories(library, profile, (0, cycles), 1.0, "ms"),
        draw.memories(library, profile, window, 1e3, "µs"),
    )
    said = {
        "source": escape(profile.arch.energy.source),
        "traffic": escape(parts_line(figures["dram_parts"])),
    }
    return [
        f"<h2>{title}</h2><p>{text.format(**said)}</p><figure class='wide'>{figure}</figure>"
        for (title, text), figure in zip(SECTIONS, drawn, strict=True)
    ]


def _work(work: Sequence[Mapping[str, Any]]) -> str:
    """What the multipliers did by kind of work."""
    from vit_opt.backends.accel.metrics import work_lines

    lines = "".join(f"<li>{escape(line)}</li>" for line in work_lines(work))
    return (
        "<h2>Kinds of work of the multipliers</h2><p>Products are matrix products and convolutions "
        "of single pixels; windows are other convolutions; the rest is pooling and divisions. Cycles "
        f"overlap where two engines are at work.</p><ul>{lines}</ul>"
    )


def _table(record: Record) -> str:
    head = "".join(f"<th title='{escape(tip)}'>{name}</th>" for name, tip in COLUMNS)
    total = max(1, record.figures["cycles"])
    body = "".join(_line(place, facts, total) for place, facts in enumerate(record.layers, 1))
    return (
        "<h2>Layers</h2><p>A click on a column sorts by it.</p>"
        "<input type='search' placeholder='Find a layer' aria-label='Find a layer'>"
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _line(place: int, facts: Mapping[str, Any], total: int) -> str:
    name, used = escape(facts["name"]), facts["utilisation"]
    stalls, engines = array_waits(facts), bounds(facts)
    kind = "" if used is None else "good" if used >= 0.85 else "fair" if used >= 0.5 else "bad"
    dram = facts["bytes"].get("dram", 0)
    sram = sum(facts["bytes"].values()) - dram
    energies = energy_uj(facts)
    parts = facts["engine_pj"] | facts["memory_pj"]
    told = ", ".join(f"{each} {value * 1e-6:,.2f}" for each, value in parts.items() if value)
    cells = [
        (place, str(place), "dim"),
        (facts["cycles"], f"{facts['cycles']:,}", ""),
        (facts["cycles"], f"{facts['cycles'] / total:.1%}", "dim"),
        (engines[0][1] if engines else 0, ", ".join(f"{e} {n:,}" for e, n in engines), ""),
        (used, "" if used is None else f"{used:.1%}", kind),
        (facts["busy"].get("mac", 0), f"{facts['busy'].get('mac', 0):,}", ""),
        (sum(n for _, n in stalls), ", ".join(f"{c} {n:,}" for c, n in stalls), ""),
        (dram, f"{dram / 1e3:,.1f}", ""),
        (sram, f"{sram / 1e3:,.1f}", ""),
        (sum(energies), f"<span title='{told}'>{sum(energies):,.2f}</span>", ""),
        (energies[2], f"{energies[2]:,.2f}", ""),
    ]
    tail = "".join(
        f"<td data-v='{'' if v is None else v}' class='{kind}'>{text}</td>"
        for v, text, kind in cells
    )
    return f"<tr><td title='{name}'><bdi>{name}</bdi></td>{tail}</tr>"


__all__ = ["page", "write_page"]
