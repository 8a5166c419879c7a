"""The figures of the accelerator's page: engines over time, roofline, layers, memories."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.events import BUS, Event
from vit_opt.backends.accel.profile import Layer, Profile
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.tools.report.plots import BLUE, GREEN, ORANGE, RED, short, svg_of

COLOURS: Mapping[Engine, str] = {
    Engine.LD: BLUE,
    Engine.ST: "#06b6d4",
    Engine.MAC: GREEN,
    Engine.DW: "#84cc16",
    Engine.SHIFT: ORANGE,
    Engine.SOFTMAX: RED,
    Engine.NORM: "#a855f7",
    Engine.TABLE: "#ec4899",
}

GREY = "#88909a"
BINS = 900
"""Steps of time in a raster."""
ROWS = 64
"""Steps of addresses in the raster of one memory."""
FARTHEST = 100
"""Where layers stand that hardly touch DRAM, in multiples of the roofline's knee."""
WINDOW = 0.012
"""Share of the run that the close-up shows."""
SHORTEST = 4000
"""Cycles that it shows at least, of a run that has as many."""

Raster = NDArray[np.float64]


def milliseconds(profile: Profile, cycles: float) -> float:
    """Cycles as time."""
    return cycles / (profile.arch.clock_mhz * 1e3)


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _spread(row: Raster, start: float, end: float) -> None:
    """Add the share of every bin that lies between two places, both in bins."""
    first, last = int(start), min(int(end), row.size - 1)
    if first >= row.size:
        return
    if first == last:
        row[first] += end - start
        return
    row[first] += first + 1 - start
    row[first + 1 : last] += 1
    row[last] += min(end, last + 1) - last


def busy_shares(profile: Profile, cycles: int, bins: int = BINS) -> tuple[Raster, Raster]:
    """How much of every bin of time each engine worked, and how much it stalled."""
    work, stalls = np.zeros((2, len(Engine), bins))
    for event in profile.events:
        raster = work if event.cause is None else stalls
        start = event.start * bins / cycles
        _spread(raster[event.engine], start, start + event.cycles * bins / cycles)
    return np.minimum(work, 1), np.minimum(stalls, 1)


def engines(plots: Any, profile: Profile, cycles: int) -> str:
    """All engines over the whole run: strong where they work, a line below where they wait."""
    work, stalls = busy_shares(profile, cycles)
    used = [engine for engine in Engine if work[engine].any()]
    figure, axes = plots.subplots(
        len(used), 1, figsize=(11, 0.52 * len(used) + 0.6), sharex=True, squeeze=False
    )
    figure.subplots_adjust(0.075, 0.55 / (0.52 * len(used) + 0.6), 0.925, 0.98, hspace=0.12)
    end = milliseconds(profile, cycles)
    for axis, engine in zip(axes.flat, used, strict=True):
        image = np.zeros((10, work.shape[1], 4))
        image[:8, :, :3] = _rgb(COLOURS[engine])
        image[:8, :, 3] = work[engine]
        image[8:, :, :3] = _rgb(GREY)
        image[8:, :, 3] = 0.75 * stalls[engine]
        axis.imshow(image, extent=(0, end, 0, 1), aspect="auto", interpolation="nearest")
        axis.set_yticks([])
        axis.set_ylabel(engine.name.lower(), rotation=0, ha="right", va="center")
        share = work[engine].mean()
        axis.text(1.008, 0.5, f"{share:.1%}", transform=axis.transAxes, va="center")
        axis.tick_params(bottom=axis is axes.flat[-1])
    axes.flat[-1].set_xlabel("ms")
    return svg_of(plots, figure)


def close_up_window(profile: Profile, cycles: int) -> tuple[int, int]:
    """A piece of the run in which most engines work: where the fewest engines dominate."""
    count = max(1, min(int(1 / WINDOW), cycles // SHORTEST))
    work, _ = busy_shares(profile, cycles, count)
    variety = (work > 0.02).sum(axis=0) + work.sum(axis=0) / len(Engine)
    middle = count // 2
    order = sorted(range(count), key=lambda i: (-round(float(variety[i]), 1), abs(i - middle)))
    return order[0] * cycles // count, (order[0] + 1) * cycles // count


def close_up(plots: Any, profile: Profile, window: tuple[int, int]) -> str:
    """Every instruction and every stall in a piece of the run, coloured by layer."""
    low, high = window
    shown = [e for e in profile.events if e.start < high and e.start + e.cycles > low]
    names = [profile.image.origins.of(e.place) for e in shown]
    time: dict[str, int] = {}
    for event, name in zip(shown, names, strict=True):
        if event.cause is None:
            time[name] = time.get(name, 0) + event.cycles
    palette = list(COLOURS.values())
    chosen = sorted(time, key=lambda name: -time[name])[: len(palette)]
    colour = dict(zip(chosen, palette, strict=False))
    used = sorted({event.engine for event in shown})
    figure, axis = plots.subplots(figsize=(11, 0.36 * len(used) + 1.5), layout="constrained")
    for event, name in zip(shown, names, strict=True):
        y = len(used) - 1 - used.index(event.engine)
        start = milliseconds(profile, event.start) * 1e3
        bar = [(start, milliseconds(profile, event.cycles) * 1e3)]
        if event.cause is None:
            axis.broken_barh(bar, (y - 0.36, 0.72), color=colour.get(name, GREY), linewidth=0)
        else:
            axis.broken_barh(bar, (y - 0.05, 0.1), color=GREY, alpha=0.6, linewidth=0)
    axis.set_xlim(*(milliseconds(profile, each) * 1e3 for each in window))
    axis.set_yticks(range(len(used)), [engine.name.lower() for engine in reversed(used)])
    axis.set_xlabel("µs")
    axis.tick_params(axis="y", length=0)
    patches = [plots.Rectangle((0, 0), 1, 1, color=colour[name]) for name in chosen]
    labels = [short(name, 34) for name in chosen]
    if len(time) > len(chosen):
        patches.append(plots.Rectangle((0, 0), 1, 1, color=GREY))
        labels.append("other layers")
    figure.legend(patches, labels, loc="outside upper center", ncols=4, fontsize=7.5)
    return svg_of(plots, figure)


def utilisation(plots: Any, profile: Profile, layers: Sequence[Layer]) -> str:
    """Use of the multipliers: layers as wide as these work on them, so that areas are work done."""
    figure, axis = plots.subplots(figsize=(11, 3.0), layout="constrained")
    peak = profile.arch.macs_per_cycle
    left = 0
    for layer in layers:
        cycles = _work_cycles(layer, 0)
        if not cycles:
            continue
        height = layer.counts.macs / (cycles * peak)
        place = milliseconds(profile, left)
        width = milliseconds(profile, cycles)
        colour = GREEN if height >= 0.85 else ORANGE if height >= 0.5 else RED
        axis.bar(place, height, width, align="edge", color=colour, linewidth=0)
        left += cycles
    axis.axhline(1.0, color=GREY, linewidth=0.8)
    axis.set_xlim(0, milliseconds(profile, left) or 1)
    axis.set_ylabel("MACs / int8 peak")
    axis.set_xlabel("ms that multipliers work, layer by layer")
    axis.grid(axis="y")
    return svg_of(plots, figure)


def roofline(plots: Any, profile: Profile, layers: Sequence[Layer]) -> str:
    """Layers with products under the two roofs: the multipliers and the bandwidth of DRAM."""
    arch = profile.arch
    giga = 2e-3 * arch.clock_mhz
    roof, slope = giga * arch.macs_per_cycle, giga * arch.dram_bytes_per_cycle
    knee = roof / slope
    points: list[tuple[float, float, Layer]] = []
    for layer in layers:
        macs, moved = layer.counts.macs, layer.counts.bytes.get(Space.DRAM, 0)
        if macs and (took := _work_cycles(layer, moved / arch.dram_bytes_per_cycle)):
            intensity = min(macs / max(1, moved), FARTHEST * knee)
            points.append((intensity, giga * macs / took, layer))
    points.sort(key=lambda point: -point[2].counts.macs)
    figure, axis = plots.subplots(figsize=(11, 4.0), layout="constrained")
    for x, y, layer in points:
        size = 14 + 220 * layer.counts.macs / points[0][2].counts.macs
        colour = GREEN if y >= 0.85 * min(roof, slope * x) else ORANGE
        axis.scatter(x, y, s=size, color=colour, alpha=0.55, linewidth=0, zorder=3)
    xs = [min([knee, *(x for x, _, _ in points)]) / 2, knee]
    xs.append(2 * max([knee, *(x for x, _, _ in points)]))
    axis.plot(xs, [min(roof, slope * x) for x in xs], color=BLUE, linewidth=1.6)
    top = roof
    if any(layer.counts.narrow_macs for _, _, layer in points) and arch.int4_rate > 1:
        top = arch.int4_rate * roof
        higher = [knee, knee * arch.int4_rate, max(xs[-1], knee * arch.int4_rate)]
        axis.plot(higher, [min(top, slope * x) for x in higher], color=BLUE, linestyle=":")
    bandwidth = arch.dram_bytes_per_cycle * arch.clock_mhz / 1e3
    roofs = f"{arch.macs_per_cycle} MACs: {roof:.0f} GOPS\nDRAM: {bandwidth:.1f} GB/s"
    if top > roof:
        roofs += f"\ndotted: weights of 4 bits, {top:.0f} GOPS"
    axis.text(0.012, 0.97, roofs, transform=axis.transAxes, va="top", color=BLUE)
    _name_points(axis, points)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(top=1.7 * top)
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_formatter("{x:g}")
        ticks.set_minor_formatter("")
    axis.set_xlabel("MACs per byte of DRAM traffic")
    axis.set_ylabel("GOPS while at work")
    axis.grid(which="major")
    return svg_of(plots, figure)


def _name_points(axis: Any, points: Sequence[tuple[float, float, Layer]]) -> None:
    """Name one layer of each kind, where there is room for its name."""
    kinds: set[str] = set()
    taken: list[tuple[float, float]] = []
    for x, y, layer in points:
        kind = re.sub(r"\d+", "", layer.name)
        place = 6 * log10(x), 14 * log10(y)
        near = any(abs(place[0] - a) < 4 and abs(place[1] - b) < 1 for a, b in taken)
        if kind in kinds or near or len(taken) > 10:
            continue
        kinds.add(kind)
        taken.append(place)
        text = short(layer.name, 26)
        axis.annotate(text, (x, y), (4, -13), textcoords="offset points", fontsize=7)


def _work_cycles(layer: Layer, bus: float) -> float:
    """Cycles of work on a layer: of the engine that worked longest, or of the DRAM bus."""
    return max(layer.busy.get("mac", 0), layer.busy.get("dw", 0), bus)


def waits(plots: Any, profile: Profile, cycles: int) -> str:
    """What every engine did with its time: work, stalls by cause, nothing left to do."""
    spent: dict[Engine, dict[str, int]] = {}
    for event in profile.events:
        into = spent.setdefault(event.engine, {})
        key = event.cause or "work"
        into[key] = into.get(key, 0) + event.cycles
    used = sorted(engine for engine in spent if "work" in spent[engine])
    memories = [memory.name for memory in profile.arch.memories]
    causes = ["work", *(e.name.lower() for e in Engine), BUS, *memories, "no instruction"]
    colours = {"work": BLUE, BUS: "#64748b", "no instruction": "#88909a55"}
    colours |= {engine.name.lower(): colour for engine, colour in COLOURS.items()}
    colours |= dict.fromkeys(memories, "#a16207")
    figure, axis = plots.subplots(figsize=(11, 0.36 * len(used) + 0.95), layout="constrained")
    left = np.zeros(len(used))
    for cause in causes:
        idle = cause == "no instruction"
        shares = [
            (cycles - sum(spent[e].values()) if idle else spent[e].get(cause, 0)) / cycles
            for e in used
        ]
        if not any(shares):
            continue
        own = {"color": GREY, "alpha": 0.25} if idle else {"color": colours[cause]}
        hatch = None if cause in ("work", "no instruction") else "////"
        label = cause if cause in ("work", "no instruction") else f"waits for {cause}"
        if hatch:
            own |= {"alpha": 0.55}
        axis.barh(range(len(used)), shares, left=left, height=0.72, label=label, linewidth=0, **own)
        left = left + np.array(shares)
    axis.set_yticks(range(len(used)), [engine.name.lower() for engine in used])
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter("{x:.0%}")
    axis.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=6, fontsize=7.5)
    return svg_of(plots, figure)


def energy(plots: Any, figures: Mapping[str, Any]) -> str:
    """Energy by engine and by memory, as parts of the whole."""
    parts = {f"{name} (operations)": value for name, value in figures["engine_uj"].items()}
    parts |= {f"{name} (accesses)": value for name, value in figures["memory_uj"].items()}
    shown = sorted(parts.items(), key=lambda part: part[1])
    figure, axis = plots.subplots(figsize=(11, 0.24 * len(shown) + 0.6), layout="constrained")
    total = figures["energy_uj"]
    for place, (name, value) in enumerate(shown):
        axis.barh(place, value, color=ORANGE if "accesses" in name else GREEN, linewidth=0)
        text = f"{value:,.2f} µJ, {value / total:.1%}" if total else ""
        axis.annotate(
            text, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=7.5
        )
    axis.set_yticks(range(len(shown)), [name for name, _ in shown])
    axis.set_xlim(0, max(parts.values(), default=0) * 1.18 or 1)
    axis.set_xlabel("µJ")
    axis.tick_params(axis="y", length=0)
    return svg_of(plots, figure)


# ---- memories ------------------------------------------------------------------------------------


def _touch(
    raster: NDArray[np.int8],
    event: Event,
    scale: tuple[float, float],
    first: int,
    place: int,
    size: int,
) -> None:
    """Paint an access: engine + 1 over its time and addresses; `scale` is bins a cycle and a byte."""
    across, up = scale
    left = int((event.start - first) * across)
    right = int((event.start + event.cycles - first) * across)
    low, high = int(place * up), int((place + size - 1) * up)
    raster[low : high + 1, max(left, 0) : max(right, left) + 1] = int(event.engine) + 1


def memory_rasters(profile: Profile, window: tuple[int, int]) -> dict[Space, NDArray[np.int8]]:
    """For every memory, who touched which addresses when: engine + 1, or 0."""
    low, high = window
    sizes = {Space[m.name.upper()]: m.size for m in profile.arch.memories}
    sizes[Space.DRAM] = max(profile.image.dram_size, 1)
    rasters = {space: np.zeros((ROWS, BINS), np.int8) for space in sizes}
    across = BINS / (high - low)
    for event in profile.events:
        if event.cause is None and event.start < high and event.start + event.cycles > low:
            for addr, size in event.places:
                scale = across, ROWS / sizes[addr.space]
                _touch(rasters[addr.space], event, scale, low, addr.offset, size)
    return rasters


def memories(plots: Any, profile: Profile, window: tuple[int, int], unit: float, name: str) -> str:
    """Addresses over time, coloured by the engine that reads or writes there."""
    rasters = memory_rasters(profile, window)
    table = np.zeros((len(Engine) + 1, 4))
    for engine, colour in COLOURS.items():
        table[engine + 1] = (*_rgb(colour), 0.95)
    sizes = {m.name: m.size for m in profile.arch.memories}
    order = [*(Space[n.upper()] for n in sizes), Space.DRAM]
    order = [space for space in order if rasters[space].any()]
    height = 0.95 * len(order) + 0.9
    figure, axes = plots.subplots(
        len(order), 1, figsize=(11, height), sharex=True, squeeze=False, layout="constrained"
    )
    low, high = (milliseconds(profile, each) * unit for each in window)
    for axis, space in zip(axes.flat, order, strict=True):
        size = profile.image.dram_size if space is Space.DRAM else sizes[space.name.lower()]
        shown = size / (1 << 20) if space is Space.DRAM else size / 1024
        axis.imshow(
            table[rasters[space]],
            extent=(low, high, 0, shown),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        axis.set_ylabel(f"{space.name.lower()}\n{'MB' if space is Space.DRAM else 'KB'}")
        axis.tick_params(bottom=axis is axes.flat[-1], labelsize=7)
    axes.flat[-1].set_xlabel(name)
    present = {int(v) - 1 for raster in rasters.values() for v in np.unique(raster) if v}
    shown_engines = [engine for engine in Engine if int(engine) in present]
    patches = [plots.Rectangle((0, 0), 1, 1, color=COLOURS[e]) for e in shown_engines]
    labels = [engine.name.lower() for engine in shown_engines]
    figure.legend(patches, labels, loc="outside upper right", ncols=len(labels), fontsize=7.5)
    return svg_of(plots, figure)


def dram_map(plots: Any, profile: Profile) -> str:
    """What lies where in DRAM: weights and tables, inputs, outputs, and activations between them."""
    image = profile.image
    size = max(image.dram_size, 1)
    figure, axis = plots.subplots(figsize=(11, 1.15), layout="constrained")
    scale = 1 / (1 << 20)
    axis.barh(0, size * scale, color=GREY, alpha=0.3, linewidth=0, label="activations")
    parts = [
        ("weights, tables", BLUE, [(s.address, len(s.data)) for s in image.segments]),
        ("inputs", GREEN, [(p.address, p.size) for p in image.inputs]),
        ("outputs", RED, [(p.address, p.size) for p in image.outputs]),
    ]
    for label, colour, places in parts:
        bars = [(start * scale, length * scale) for start, length in places]
        axis.broken_barh(bars, (-0.4, 0.8), color=colour, linewidth=0, label=label)
    axis.set_yticks([])
    axis.set_xlim(0, size * scale)
    axis.set_xlabel("MB of DRAM")
    axis.spines["left"].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, fontsize=7.5)
    return svg_of(plots, figure)
