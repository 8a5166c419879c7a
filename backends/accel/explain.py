"""Why each product and convolution was cut as it was: the mapper's candidates, their cost, and what
was taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import MacMap
from vit_opt.dialects.vit_accel.isa_transfer import GROUP
from vit_opt.passes.mapping import AXES, STAGES, Kind, Problem, ProductChoice, block_rows
from vit_opt.passes.rooms import LOADED, MADE, elements, on_chip, on_chip_beside
from vit_opt.passes.windows import Choice, WindowChoice
from vit_opt.passes.windows import Problem as WindowProblem

LEGEND = (
    "m, n, k: rows, columns and part of the reduction of a block. axes: what lies on the lanes and",
    "on the multipliers of a lane. Cycles of the whole product: array, or two engines that share it;",
    "DRAM, at its bandwidth; room, to store and load what the blocks in work displace.",
    "cost = max(array, DRAM) + room decides.",
)

WINDOW_LEGEND = (
    "",
    "convolutions: rows, cols, channels and depth: pixels of a block, output channels of a panel and",
    "input channels of a pass. engine: cycles of the array, of the reconfigurable engine if depthwise;",
    "loads: at DRAM's bandwidth; room: DRAM cycles of what is loaded again or displaced by the blocks",
    "in work. cost = max(engine, loads) + room decides.",
)


def explain_lines(choices: Iterable[Choice], arch: AccelTarget) -> Iterator[str]:
    """A table for every kind of product and of convolution, those of equal size together."""
    groups: dict[object, list[ProductChoice]] = {}
    windows: dict[object, list[WindowChoice]] = {}
    for choice in choices:
        if isinstance(choice, WindowChoice):
            windows.setdefault((choice.kind, choice.ways[0].problem), []).append(choice)
        else:
            key = (choice.kind, choice.batch, choice.ways[0].problem)
            groups.setdefault(key, []).append(choice)
    yield f"products on {arch.name}: {arch.lanes} lanes of {arch.columns} multipliers"
    yield from LEGEND
    for group in groups.values():
        yield ""
        yield from _choice_lines(group, arch)
    if windows:
        yield from WINDOW_LEGEND
    for each in windows.values():
        yield ""
        yield from _window_lines(each, arch)


def _names(group: Sequence[Choice]) -> str:
    names = list(dict.fromkeys(choice.name for choice in group))
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _types(problem: Problem | WindowProblem, depth: int, kind: Kind) -> str:
    """The operands, and how the array takes weights that are narrow in groups; `depth` is the
    length of their rows."""
    text = " x ".join(dtype.name.lower() for dtype in problem.types)
    if problem.wide is None:
        return text
    if kind.wide is None:
        return f"{text}, weights in groups made bytes by ld.expand"
    groups = -(-depth // GROUP)
    return (
        f"{text}, weights in groups at the rate of 4 bits but {problem.wide} of {groups} of bytes"
    )


def _window_lines(group: list[WindowChoice], arch: AccelTarget) -> Iterator[str]:
    first = group[0]
    best = first.ways[0]
    problem = best.problem
    kernel = " x ".join(map(str, problem.geometry.kernel))
    shape = " x ".join(map(str, problem.shape))
    types = _types(problem, problem.taps * problem.ins, best.kind)
    parts = f", {problem.groups} groups" if problem.groups > 1 else ""
    yield f"{_names(group)}: {first.kind} {kernel}, {problem.ins} to {shape}{parts}, {types}"
    head = "".join(f"{name:>9}" for name in ("rows", "cols", "channels", "depth"))
    yield f"   {head}  axes{'engine':>12}{'loads':>10}{'room':>10}{'cost':>12}"
    for way in first.ways:
        rows, cols = way.pixels
        axes = "" if problem.depthwise else way.axes.name.lower()
        yield (
            f" {'->' if way is best else '  '}{rows:>9}{cols:>9}{way.block[1]:>9}{way.depth:>9}"
            f"  {axes:<4}{way.array:>12,}{way.loads:>10,}{way.displaced:>10,}{way.cycles:>12,}"
        )
    panels, blocks = best.walks
    order = "panel by panel" if best.down else "block by block"
    why = ", as its reader asks" if problem.by_panels else ""
    yield f"    order: {order}{why} (panel by panel {panels:,} B of loads, block by block {blocks:,} B)"
    stay = "loaded once" if best.down or best.weights_stay else "loaded for every block"
    yield f"    on chip: weights {best.weights:,} B {stay} ({on_chip_beside(arch):,} B free)"
    yield (
        f"    double buffering: {MADE} blocks of results, {LOADED} of weights, {LOADED} of windows: "
        f"{best.held:,} B"
    )


def _choice_lines(group: list[ProductChoice], arch: AccelTarget) -> Iterator[str]:
    first = group[0]
    best = first.ways[0]
    rows, cols, depth = best.problem.size
    types = _types(best.problem, depth, best.kind)
    times = f"{first.batch} times " if first.batch > 1 else ""
    yield f"{_names(group)}: {first.kind}, {times}{rows} x {cols} x {depth}, {types}"
    yield f"    {'m':>5}{'n':>6}{'k':>6}  axes{'array':>12}{'DRAM':>10}{'room':>10}{'cost':>12}"
    for way in first.ways:
        m, n, k = way.block
        mark = "->" if way is best else "  "
        yield (
            f" {mark} {m:>5}{n:>6}{k:>6}  {way.axes.name.lower():<4}{way.work:>12,}{way.loads:>10,}"
            f"{way.displaced:>10,}{way.cycles:>12,}{'' if way.fits else '  does not fit'}"
        )
    yield from _reasons(first, arch)


def _reasons(choice: ProductChoice, arch: AccelTarget) -> Iterator[str]:
    """Axes, order, residency and double buffering of what was chosen."""
    way = choice.ways[0]
    problem, block = way.problem, way.block
    cycles = {axes: way.kind.cycles(arch, block, axes) for axes in MacMap}
    ranked = sorted(cycles, key=lambda axes: cycles[axes])
    lanes, columns = (AXES[axis] for axis in way.axes.name)
    yield (
        f"    axes: {lanes} on the lanes, {columns} on the multipliers; cycles of a block: "
        + ", ".join(f"{axes.name.lower()} {cycles[axes]:,}" for axes in ranked)
    )
    down, along = way.walks
    order = "down the rows of a panel" if choice.down else "along the columns"
    yield f"    order: {order} (down the rows {down:,} B of loads, along {along:,} B)"
    rows, cols, depth = problem.size
    left, right = (dtype.size for dtype in problem.types)
    stays = [
        f"{name} {size:,} B {'stays' if size <= limit else 'is loaded again'} ({limit:,} B free)"
        for name, size, limit in (
            ("left operand", rows * depth * left, on_chip(arch)),
            ("right operand", cols * depth * right, on_chip_beside(arch)),
        )
    ]
    yield "    on chip: " + "; ".join(stays)
    m, n, k = block
    parts = (
        (f"{MADE} blocks of accumulators", MADE * 4 * m * n, "obuf"),
        (f"{LOADED} of the left operand", LOADED * m * k * left, "abuf"),
        (f"{LOADED} of the right operand", LOADED * n * k * right, "bbuf"),
    )
    staged = problem.height == block_rows(arch, rows) < block_rows(arch, rows, 1)
    yield (
        f"    rows: {m} of {n} columns, as {elements(arch):,} results have room {MADE} times in obuf"
        + (f", and {STAGES} blocks of rows are in work at a time" if staged else "")
    )
    yield "    double buffering: " + ", ".join(
        f"{what} {size:,} of {arch.memory_size(memory):,} B {memory}"
        for what, size, memory in parts
    )
