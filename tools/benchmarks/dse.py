"""`vit-bench dse`: one model on many architectures, to see what each parameter buys.

    vit-bench dse MODEL --arch p2vit --sweep lanes=32,64,128 --sweep abuf,bbuf=27K,53K,106K

    vit-bench dse MODEL --arch p2vit,p2vit-large,mine.yaml

Each `--sweep` is an axis: fields of the architecture record that take the same value together, and
the values. Memories are named as in addresses, entries of the energy table as `energy.dram_byte`.
All combinations are tried on each architecture that `--arch` names, or with `--random N` that many of
them. For every one the model is tiled, lowered and timed without data, which gives the cycles and
energy of a whole run; the model itself is compiled up to that point once.

The area proxy counts transistors, in millions. A full adder has 28, an SRAM bit 6 (Weste and Harris,
CMOS VLSI Design, sections 11.2.1 and 12.2.1); an n x n array multiplier has n^2 full adders, an n-bit
adder n. So a multiplier of the array or of the reconfigurable engine with its accumulator has
8*8 + 32 full adders, an element a cycle of the shifters or the table unit 32, of the dividers, the
softmax and the LayerNorm unit (a wide multiplication) 32*32. Control, wiring and DRAM count for
nothing: the proxy ranks machines of one family, no more.

A point is on the Pareto front if no other one is at least as good in latency, energy and area, and
better in one.

By default one process a processor works on the points. `--scheduler dask` takes a Dask cluster on
this machine, `--scheduler dask://HOST:PORT` the one with that scheduler, whose workers need vit-opt.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.tools.architectures import arch_for, changed
from vit_opt.tools.benchmarks.dse_workers import (
    PROCESSES,
    Evaluated,
    PreparedModel,
    evaluate_all,
    require_scheduler,
)
from vit_opt.tools.progress import progress

Value = int | float | str

FULL_ADDER, SRAM_BIT = 28, 6
"""Transistors."""

MULTIPLIER = (8 * 8 + 32) * FULL_ADDER
ELEMENT = 32 * FULL_ADDER
WIDE = 32 * 32 * FULL_ADDER

OBJECTIVES = ("latency_ms", "energy_uj", "area_mtr")
"""What the Pareto front minimises."""

MAX_POINTS = 100_000


@dataclass(frozen=True)
class Axis:
    """Fields that take the same value together, and the values."""

    names: tuple[str, ...]
    values: tuple[Value, ...]


def area_mtr(arch: AccelTarget) -> float:
    """The area proxy: millions of transistors."""
    wide = arch.divider_width + arch.softmax_width + arch.norm_width
    logic = (
        (arch.lanes * arch.columns + arch.dw_width) * MULTIPLIER
        + (arch.shift_width + arch.table_width) * ELEMENT
        + wide * WIDE
    )
    bits = 8 * sum(memory.size for memory in arch.memories)
    return (logic + bits * SRAM_BIT) / 1e6


# ---- what to try ---------------------------------------------------------------------------------


def field_names(arch: AccelTarget) -> list[str]:
    """What can be swept: numbers of the record, its memories, entries of its energy table."""
    own = [f.name for f in fields(arch) if isinstance(getattr(arch, f.name), int | float)]
    return [
        *own,
        *(memory.name for memory in arch.memories),
        *(
            f"energy.{name}"
            for name, value in asdict(arch.energy).items()
            if not isinstance(value, str)
        ),
    ]


def parse_axis(text: str, arch: AccelTarget) -> Axis:
    """`NAME[,NAME]=VALUE,VALUE,..`; VitError for unknown names, with suggestions, or bad values.

    Every value is tried on the record, so that a wrong one is told before the work.
    """
    left, equals, right = text.partition("=")
    names = tuple(name.strip() for name in left.split(","))
    if not equals or not all(names) or len(set(names)) < len(names):
        raise VitError(f"--sweep {text}: expected NAME=VALUE,VALUE,..")
    values = tuple(_value(part.strip(), text) for part in right.split(","))
    known = field_names(arch)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise VitError(f"--sweep {text}: no field '{name}' in an architecture; {hint}")
    if len(set(values)) < len(values):
        raise VitError(f"--sweep {text}: a value is there twice")
    axis = Axis(names, values)
    for value in values:
        try:
            machine(arch, (axis,), (value,))
        except VitError as error:
            raise VitError(f"--sweep {text}: {error}") from error
    return axis


def _value(text: str, axis: str) -> Value:
    """A number, `K` for 1024."""
    scale = 1024 if text.endswith("K") else 1
    digits = text.removesuffix("K")
    for kind in (int, float):
        try:
            number = kind(digits)
            if math.isfinite(number):
                return number * scale
        except (ValueError, OverflowError):  # no number of this kind, or larger than all floats
            continue
    raise VitError(f"--sweep {axis}: '{text}' is not a number")


def machine(arch: AccelTarget, axes: Sequence[Axis], values: Sequence[Value]) -> AccelTarget:
    """The architecture with one value for every axis."""
    data: dict[str, Any] = {}
    memories = {memory.name for memory in arch.memories}
    for axis, value in zip(axes, values, strict=True):
        for name in axis.names:
            group, _, entry = name.rpartition(".")
            if name in memories:
                data.setdefault("memories", {})[name] = value
            elif group:
                data.setdefault(group, {})[entry] = value
            else:
                data[name] = value
    return changed(arch, data)


def choose(axes: Sequence[Axis], count: int | None, seed: int) -> list[tuple[Value, ...]]:
    """All combinations of the axes' values, or `count` of them drawn without repetition.

    Raises VitError for fields in two axes, and for more points than anyone can mean.
    """
    names = [name for axis in axes for name in axis.names]
    if len(set(names)) < len(names):
        raise VitError("--sweep: a field belongs to one axis only")
    total = math.prod(len(axis.values) for axis in axes)
    if count is not None and count < total:
        places = sorted(random.Random(seed).sample(range(total), count))
    elif total > MAX_POINTS:
        raise VitError(f"{total:,} combinations: draw some of them with --random N")
    else:
        places = list(range(total))
    if len(places) == total:
        return list(itertools.product(*(axis.values for axis in axes)))
    return [_combination(axes, place) for place in places]


def _combination(axes: Sequence[Axis], place: int) -> tuple[Value, ...]:
    """The combination at a place of the grid, the last axis fastest."""
    values: list[Value] = []
    for axis in reversed(axes):
        place, index = divmod(place, len(axis.values))
        values.append(axis.values[index])
    return tuple(reversed(values))


# ---- the exploration -----------------------------------------------------------------------------


def prepare(model: Path, calib: Path | None, say: Callable[[str], None]) -> PreparedModel:
    """A model before `tile`: of a compiled folder as it is, an ONNX file on the road up to there."""
    from vit_opt.passes.pipelines import passes_of, remaining
    from vit_opt.tools.artefact import Artefact
    from vit_opt.tools.steps import import_onnx, new_context, provide_batches, run_pipeline
    from vit_opt.tools.weights import sidecar_of

    if model.is_dir():
        if calib is not None:
            raise VitError(f"--calib: {model} is calibrated already; give the model instead")
        Artefact(model).read_report()
        folder = Artefact(model)
        return PreparedModel.of(folder.module, sidecar_of(folder.module))
    if not model.exists():
        raise VitError(f"{model}: no such file")
    context = new_context()
    say("compiling the model")
    module = import_onnx(model, context=context)
    provide_batches(module, context, calib)
    run_pipeline(module, context, passes_of(remaining(module, "tile")), say, release=True)
    with TemporaryDirectory() as name:
        folder = Artefact(Path(name))
        folder.write_module(module, context)
        return PreparedModel.of(folder.module, sidecar_of(folder.module))


def pareto(points: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Which points no other one beats; failed ones (without figures) never are."""
    figures = [tuple(p[k] for k in OBJECTIVES) if OBJECTIVES[0] in p else None for p in points]
    present = {each for each in figures if each is not None}
    front = {
        each
        for each in present
        if not any(
            other != each and all(a <= b for a, b in zip(other, each, strict=True))
            for other in present
        )
    }
    return [each in front for each in figures]


@dataclass(frozen=True)
class DseOptions:
    """How to explore."""

    archs: tuple[AccelTarget, ...]
    """Where it starts: every point of the grid is tried on each."""
    axes: tuple[Axis, ...] = ()
    count: int | None = None
    """Points drawn from the grid; None: all."""
    seed: int = 0
    jobs: int = 0
    """Processes; 0: one a processor."""
    scheduler: str = PROCESSES
    calib: Path | None = None


def explore(
    model: Path, options: DseOptions, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Try the points; see `vit-bench dse --json` for what it returns."""
    require_scheduler(options.scheduler)
    chosen = choose(options.axes, options.count, options.seed)
    prepared = prepare(model, options.calib, say)
    tries = [(arch, values) for arch in options.archs for values in chosen]
    machines = [machine(arch, options.axes, values) for arch, values in tries]
    jobs = options.jobs or os.cpu_count() or 1
    start = time.perf_counter()
    results = evaluate_all(prepared, machines, jobs, options.scheduler, say)
    seconds = time.perf_counter() - start
    points = [
        {"arch": arch.name, **_point(options.axes, values, made, result)}
        for (arch, values), made, result in zip(tries, machines, results, strict=True)
    ]
    for point, best in zip(points, pareto(points), strict=True):
        point["pareto"] = best
    return {
        "model": str(model),
        "arch": ", ".join(arch.name for arch in options.archs),
        "axes": [{"names": list(a.names), "values": list(a.values)} for a in options.axes],
        "points": points,
        "seconds": seconds,
        "jobs": jobs,
        "scheduler": options.scheduler,
    }


def _point(
    axes: Sequence[Axis], values: Sequence[Value], arch: AccelTarget, result: Evaluated
) -> dict[str, Any]:
    named = {n: v for axis, v in zip(axes, values, strict=True) for n in axis.names}
    point: dict[str, Any] = {"fields": named, "area_mtr": area_mtr(arch)}
    if result.error is not None:
        return point | {"error": result.error}
    return point | result.figures | {"host_seconds": result.seconds}


# ---- output --------------------------------------------------------------------------------------


def table(found: Mapping[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Header and rows, the fastest first; `*` marks the Pareto front."""
    axes = [axis["names"][0] for axis in found["axes"]]
    heads = [",".join(axis["names"]) for axis in found["axes"]]
    several = len({point["arch"] for point in found["points"]}) > 1 or not heads
    header = (
        *(["arch"] if several else []),
        *heads,
        "cycles",
        "ms",
        "used",
        "uJ",
        "GOPS/W",
        "Mtr",
        "Pareto",
    )
    rows: list[list[str]] = []
    for point in sorted(found["points"], key=lambda p: p.get("latency_ms", math.inf)):
        row = [point["arch"]] if several else []
        row += [f"{point['fields'][name]:,}" for name in axes]
        if "error" in point:
            row += [""] * 5
        else:
            row += [
                f"{point['cycles']:,}",
                f"{point['latency_ms']:.3f}",
                f"{point['utilisation']:.1%}",
                f"{point['energy_uj']:.0f}",
                f"{point['gops_per_w']:.0f}",
            ]
        mark = "failed" if "error" in point else "*" if point["pareto"] else ""
        rows.append([*row, f"{point['area_mtr']:.2f}", mark])
    return header, rows


def _run(args: argparse.Namespace) -> None:
    from vit_opt.tools.command import require_folder
    from vit_opt.tools.tables import print_table

    names = [None] if args.arch is None else args.arch.split(",")
    archs = tuple(arch_for(Path(args.model), name) for name in names)
    if len({arch.name for arch in archs}) < len(archs):
        raise VitError("--arch: two architectures have the same name")
    if len(archs) == 1 and not args.sweep:
        raise VitError("nothing to compare: give --sweep, or several architectures, --arch A,B")
    plot = None if args.plot is None else Path(args.plot)
    if plot is not None:
        from vit_opt.tools.benchmarks.plot import require_plotting

        require_plotting(plot)
    if args.random is not None and args.random < 1:
        raise VitError("--random: at least one point")
    if args.jobs < 0:
        raise VitError("--jobs: at least one, or 0 for all processors")
    if args.output is not None:
        require_folder(Path(args.output))
    axes, *_ = [tuple(parse_axis(text, arch) for text in args.sweep) for arch in archs]
    options = DseOptions(
        archs=archs,
        axes=axes,
        count=args.random,
        seed=args.seed,
        jobs=args.jobs,
        scheduler=args.scheduler,
        calib=None if args.calib is None else Path(args.calib),
    )
    with progress("vit-bench dse") as say:
        found = explore(Path(args.model), options, say)
    if plot is not None:
        from vit_opt.tools.benchmarks.dse_plot import draw

        draw(found, plot)
    if args.output is not None:
        from vit_opt.tools.command import write_text

        write_text(Path(args.output), json.dumps(found, indent=1) + "\n")
    if args.json:
        print(json.dumps(found))
        return
    print_table(*table(found))
    for point in found["points"]:
        if "error" in point:
            print(f"{point['arch']} {point['fields']}: {point['error']}")
    count, seconds = len(found["points"]), found["seconds"]
    local = found["scheduler"] == PROCESSES
    jobs = found["jobs"]
    where = f"{jobs} process{'es' * (jobs > 1)}" if local else found["scheduler"]
    print(
        f"{count} points around {found['arch']} in {seconds:.1f} s on {where}; used: "
        "MACs of the model / (cycles x MACs a cycle); Mtr: million transistors, a proxy of the area; "
        "*: on the Pareto front of latency, energy and these"
    )


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add `dse` to the commands of `vit-bench`."""
    command = commands.add_parser(
        "dse", help="a model on many architectures: latency, energy, area"
    )
    command.add_argument("model", metavar="MODEL", help=".onnx file, or output of vit-compile")
    command.add_argument(
        "--arch",
        metavar="NAME|FILE,..",
        help="to start from, one or several (default: that of a compiled folder, else p2vit)",
    )
    command.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="NAME=V,V",
        help="a field of the architecture and its values; repeat for a grid",
    )
    command.add_argument("--random", type=int, metavar="N", help="N points of the grid")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of --random")
    command.add_argument("--jobs", type=int, default=0, metavar="N", help="default: processors")
    command.add_argument(
        "--scheduler",
        default="processes",
        metavar="WHERE",
        help="processes (default), dask, or dask://HOST:PORT",
    )
    command.add_argument("--calib", metavar="DATA", help="calibration data (default: synthetic)")
    command.add_argument("--plot", metavar="FILE.svg", help="Pareto plot (.svg or .png)")
    command.add_argument("-o", dest="output", metavar="FILE.json", help="the points as JSON")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.set_defaults(run=_run)
