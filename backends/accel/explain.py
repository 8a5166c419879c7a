"""Why each product was cut as it was: the candidates of the mapper, their cost, and what was taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import MacMap
from vit_opt.dialects.vit_accel.isa_products import array_cycles
from vit_opt.passes.mapping import ProductChoice, on_chip

_AXES = {"M": "rows", "N": "columns", "K": "reduction"}

LEGEND = (
    "m, n, k: rows, columns and part of the reduction of a block. axes: what lies on the lanes and",
    "on the multipliers of a lane. Cycles of the whole product: array; DRAM, at its bandwidth; room,",
    "to store and load what the blocks in work displace. cost = max(array, DRAM) + room decides.",
)


def explain_lines(choices: Iterable[ProductChoice], arch: AccelTarget) -> Iterator[str]:
    """A table for every kind of product, those of equal size together."""
    groups: dict[object, list[ProductChoice]] = {}
    for choice in choices:
        key = (choice.kind, choice.batch, choice.ways[0].problem)
        groups.setdefault(key, []).append(choice)
    yield f"products on {arch.name}: {arch.lanes} lanes of {arch.columns} multipliers"
    yield from LEGEND
    for group in groups.values():
        yield ""
        yield from _choice_lines(group, arch)


def _choice_lines(group: list[ProductChoice], arch: AccelTarget) -> Iterator[str]:
    names = list(dict.fromkeys(choice.name for choice in group))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    first = group[0]
    best = first.ways[0]
    rows, cols, depth = best.problem.size
    types = " x ".join(dtype.name.lower() for dtype in best.problem.types)
    times = f"{first.batch} times " if first.batch > 1 else ""
    yield f"{names[0]}{more}: {first.kind}, {times}{rows} x {cols} x {depth}, {types}"
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
    cycles = {axes: array_cycles(arch, block, axes, problem.types) for axes in MacMap}
    ranked = sorted(cycles, key=lambda axes: cycles[axes])
    lanes, columns = (_AXES[axis] for axis in way.axes.name)
    yield (
        f"    axes: {lanes} on the lanes, {columns} on the multipliers; cycles of a block: "
        + ", ".join(f"{axes.name.lower()} {cycles[axes]:,}" for axes in ranked)
    )
    down, along = way.walks
    order = "down the rows of a panel" if choice.down else "along the columns"
    yield f"    order: {order} (down the rows {down:,} B of loads, along {along:,} B)"
    rows, cols, depth = problem.size
    left, right = (dtype.size for dtype in problem.types)
    room = on_chip(arch)
    stays = [
        f"{name} {size:,} B {'stays' if size <= limit else 'is loaded again'} ({limit:,} B free)"
        for name, size, limit in (
            ("left operand", rows * depth * left, room),
            ("right operand", cols * depth * right, room // 4),
        )
    ]
    yield "    on chip: " + "; ".join(stays)
    m, n, k = block
    parts = (
        ("4 blocks of accumulators", 16 * m * n, "obuf"),
        ("2 of the left operand", 2 * m * k * left, "abuf"),
        ("2 of the right operand", 2 * n * k * right, "bbuf"),
    )
    yield "    double buffering: " + ", ".join(
        f"{what} {size:,} of {arch.memory_size(memory):,} B {memory}"
        for what, size, memory in parts
    )
