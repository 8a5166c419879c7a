"""`vit-bench cpu`: our C projects against ONNX Runtime and OpenVINO on this machine.

For every model, batch and number of threads, one process is kept on that many processors and runs
all contestants round robin (`contest.py`). Preparing (export, quantisers, vit-compile) happens in
processes before that, so that no memory or thread of theirs is left when time is taken.

Our time is that of the compiled model, integer codes in and codes out; a batch is run one inference
at a time. Peers take and give float arrays in memory. What it takes to get there is measured, too:
from the ONNX file to the first inference, compiling the generated code, loading the compiled model.

A long matrix can be measured in parts: `--out FILE` keeps what the file holds of other models, batches
and numbers of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from vit_opt.dialects.errors import VitError
from vit_opt.tools.benchmarks import machine, peers
from vit_opt.tools.benchmarks.contest import Contestant, Sample, Times, compete, ratio
from vit_opt.tools.benchmarks.cpu_report import merged, print_report, read_results, threads_text
from vit_opt.tools.benchmarks.sources import Source, feeds, find_source
from vit_opt.tools.command import require_folder, write_text
from vit_opt.tools.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Batch: TypeAlias = dict[str, NDArray[Any]]

T = TypeVar("T")

OURS = "vit-opt"


@dataclass(frozen=True)
class CpuOptions:
    """What is measured, and how long."""

    batches: tuple[int, ...] = (1, 8)
    threads: tuple[int, ...] = (1, 2)
    peers: tuple[str, ...] = peers.PEERS
    """ONNX Runtime in f32 takes part in any case."""
    rounds: int = 9
    """Rounds at least."""
    seconds: float = 20.0
    """Seconds at least for a model, batch and number of threads."""
    calib: Path | None = None
    """Calibration data for all quantisers; None: synthetic images."""
    preprocess: str | None = None
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """Shapes of inputs that files leave open."""
    cpu: str = "host"
    """Instruction level of the C projects."""
    passes: str = ""
    """Passes of our road with other options."""

    def names(self) -> tuple[str, ...]:
        """The peers, the one that all are compared with included, in their usual order."""
        return tuple(each for each in peers.PEERS if each in (*self.peers, peers.ORT_F32))


def measure(
    sources: Sequence[Source],
    options: CpuOptions,
    keep: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure models; see `vit-bench cpu --json` for what it returns.

    `keep` is a folder for prepared models, which a later call takes up; by default they are
    thrown away. Raises VitError if our compiler or ONNX Runtime cannot take a model.
    """
    peers.require_onnxruntime()
    if max(options.threads) > machine.processor_count():
        raise VitError(f"--threads {max(options.threads)}: more than this machine has processors")
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise VitError(f"models of the same name: {', '.join(names)}")
    facts = machine.describe_machine()
    peak = machine.peak_macs(facts["features"])
    with TemporaryDirectory() as name:
        found = [
            _measure_model(source, options, (keep or Path(name)) / source.name, peak, say)
            for source in sources
        ]
    return {"machine": facts, "peak_macs_per_second": peak, "models": found}


def _measure_model(
    source: Source,
    options: CpuOptions,
    folder: Path,
    peak: float | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    say(f"{source.name}: compiling")
    facts = _apart(_compile, source, options, folder)
    results: list[dict[str, Any]] = []
    for batch in options.batches:
        say(f"{source.name}: preparing the peers for batch {batch}")
        prepared = _apart(_prepare, source, options, folder, batch)
        for threads in options.threads:
            say(f"{source.name}: batch {batch}, {threads_text(threads)}")
            entry = _apart(_compete, prepared, threads, options, our_project(folder, threads))
            for row in entry["rows"]:
                rate = facts["macs"] / (row["least_ms"] * 1e-3)
                row["macs_per_second"] = rate
                row["peak_fraction"] = None if peak is None else rate / (peak * threads)
            results.append(entry)
    say(f"{source.name}: profile")
    shares = _apart(_profile, source, options, folder)
    return {"name": source.name, **facts, "results": results, "shares": shares}


def our_project(folder: Path, threads: int) -> Path:
    """Where the C project for a number of threads is, in a model's folder."""
    return folder / "ours" / ("c" if threads == 1 else f"c{threads}")


def _apart(body: Callable[..., T], *arguments: object) -> T:
    """The result of a function in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(body, *arguments).result()


# ---- in processes of their own -------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """The peers' models for a batch."""

    folder: Path
    batch: int
    taken: int
    """Batch of the models: smaller than `batch` if a file fixes it."""
    failed: dict[str, str]
    """Peers that have none, with the reason."""

    def feed(self, options: CpuOptions) -> Batch:
        """Inputs to measure with."""
        model = self.folder / peers.FILES[peers.ORT_F32]
        return feeds(model, options.calib, options.preprocess, self.taken)[0]


def _compile(source: Source, options: CpuOptions, folder: Path) -> dict[str, Any]:
    """Compile our C projects; returns their facts, with what a start from nothing takes."""
    from vit_opt.dialects.macs import count_macs
    from vit_opt.tools.steps import import_onnx, new_context

    folder.mkdir(parents=True, exist_ok=True)
    model, batch = source.export(folder, 1, options.shapes)
    if batch != 1:
        raise VitError(f"{model}: takes a batch of {batch}; export it with batch 1 or an open one")
    report, seconds = _first_inference(model, options, folder)
    for threads in options.threads:
        if threads > 1:
            _emit_for_threads(folder, options.cpu, threads)
    return {
        "macs": count_macs(import_onnx(model, context=new_context())),
        "quality": report["quality"],
        "compile_seconds": sum(report["seconds"].values()),
        "start": seconds,
        **{key: report["c"][key] for key in ("weight_bytes", "arena_bytes", "kernel_calls")},
    }


def _first_inference(
    model: Path, options: CpuOptions, folder: Path
) -> tuple[dict[str, Any], dict[str, float]]:
    """From an ONNX file to our first inference: report of vit-compile, and seconds by step.

    `first_inference`: all of it; `compile_c`: all kernels and model.c, from an empty cache; `load`:
    opening the compiled model, when it was opened before.
    """
    from vit_opt.backends.c.run import CModel
    from vit_opt.tools.compile import compile_model
    from vit_opt.tools.compile_options import CompileOptions

    compiling = CompileOptions(
        calib=options.calib,
        preprocess=options.preprocess,
        target="c",
        cpu=options.cpu,
        passes=options.passes,
    )
    project = our_project(folder, 1)
    with TemporaryDirectory() as empty:
        os.environ["XDG_CACHE_HOME"] = empty  # of this process alone
        start = time.perf_counter()
        report = compile_model(model, folder / "ours", compiling)
        compiled = time.perf_counter()
        opened = CModel(project)
        built = time.perf_counter()
        [feed] = feeds(model, options.calib, options.preprocess, 1)
        opened.run(feed)
        first = time.perf_counter()
        load = min(_seconds(lambda: CModel(project)) for _ in range(5))
    return report, {"first_inference": first - start, "compile_c": built - compiled, "load": load}


def _seconds(body: Callable[[], object]) -> float:
    start = time.perf_counter()
    body()
    return time.perf_counter() - start


def _emit_for_threads(folder: Path, cpu: str, threads: int) -> None:
    """Write the C project of a compiled model for several threads."""
    from vit_opt.tools.artefact import Artefact
    from vit_opt.tools.build import build_c
    from vit_opt.tools.steps import new_context

    context = new_context()
    module = Artefact(folder / "ours").read_module(context)
    build_c(module, context, our_project(folder, threads), cpu, threads)


def _prepare(source: Source, options: CpuOptions, folder: Path, batch: int) -> Prepared:
    """Prepare the peers' models, in a folder named after the model's and the data's contents."""
    model, taken = source.export(folder, batch, options.shapes)
    batches = feeds(model, options.calib, options.preprocess)
    digest = hashlib.sha256(model.read_bytes())
    for each in batches:
        for array in each.values():
            digest.update(array.tobytes())
    place = folder / f"batch{batch}-{digest.hexdigest()[:12]}"
    place.mkdir(exist_ok=True)
    target = place / peers.FILES[peers.ORT_F32]
    if not target.exists():
        target.symlink_to(model.resolve())
    return Prepared(place, batch, taken, peers.prepare(target, place, batches, options.names()))


def _compete(
    prepared: Prepared, threads: int, options: CpuOptions, project: Path
) -> dict[str, Any]:
    """Run all contestants on as many processors as there are threads."""
    pinned = machine.pin(threads)
    load = os.getloadavg()[0]
    feed = prepared.feed(options)
    contestants = [our_contestant(project, feed, prepared.batch, threads)]
    failed = dict(prepared.failed)
    for name in (each for each in options.names() if each not in failed):
        repeats = prepared.batch // prepared.taken
        try:
            contestants.append(peers.open_peer(name, prepared.folder, feed, threads, repeats))
        except Exception as error:  # a peer's own exceptions have no common class
            if name == peers.ORT_F32:
                raise VitError(f"ONNX Runtime cannot run the model: {error}") from error
            failed[name] = peers.first_line(error)
    times = compete(contestants, options.rounds, options.seconds)
    base = times[peers.ORT_F32]
    rows = [
        {"name": each.name, "note": each.note}
        | _row(times[each.name], base, prepared.batch, threads)
        for each in contestants
    ]
    return {
        "batch": prepared.batch,
        "threads": threads,
        "processors": pinned,
        "load": load,
        "rows": rows,
        "failed": failed,
    }


def _row(times: Times, base: Times, batch: int, threads: int) -> dict[str, float]:
    """Times of an inference in ms, and relative to ONNX Runtime in f32.

    `least_ms` is the best estimate of what an idle machine would need: the fastest inference, or
    with one thread the processor time if that is less.
    """
    best, cpu = (seconds * 1e3 / batch for seconds in (times.best, median(times.cpu_turns)))
    return {
        "ms": median(times.turns) * 1e3 / batch,
        "best_ms": best,
        "cpu_ms": cpu,
        "least_ms": min(best, cpu) if threads == 1 else best,
        "ratio": ratio(times.turns, base.turns),
        "best_ratio": times.best / base.best,
        "cpu_ratio": ratio(times.cpu_turns, base.cpu_turns),
        "rounds": len(times.turns),
    }


def our_contestant(project: Path, feed: Batch, batch: int, threads: int = 1) -> Contestant:
    """Our C project on the first `batch` inputs of a feed, which may hold fewer."""
    from vit_opt.backends.c.run import CModel

    model = CModel(project)
    held = next(iter(feed.values())).shape[0]
    codes = [
        _codes(model.inputs, {name: array[i % held][None] for name, array in feed.items()})
        for i in range(batch)
    ]

    def infer() -> Sample:
        total, cpu = 0.0, time.process_time()
        for each in codes:
            model.run(each)
            total += model.seconds
        return Sample(total, time.process_time() - cpu)

    return Contestant(OURS, infer, f"{threads_text(threads)}, integer codes in and out")


def _codes(ports: Sequence[Any], inputs: Batch) -> Batch:
    """Inputs as codes, so that no time is spent on quantising them again and again.

    An input that enters in two formats must stay real.
    """
    names = [port.name for port in ports]
    if len(set(names)) < len(names):
        return inputs
    return {port.name: port.codes(inputs[port.name]) for port in ports}


def _profile(source: Source, options: CpuOptions, folder: Path) -> dict[str, float]:
    """Share of our time by kind of operation, on one processor."""
    from vit_opt.backends.c.run import CModel
    from vit_opt.tools.benchmarks.profile import profile, shares

    machine.pin(1)
    project = our_project(folder, 1)
    model, _ = source.export(folder, 1, options.shapes)
    [inputs] = feeds(model, options.calib, options.preprocess, 1)
    return shares(profile(project, _codes(CModel(project).inputs, inputs)))


# ---- command line --------------------------------------------------------------------------------


def _numbers(text: str) -> tuple[int, ...]:
    """Positive numbers separated by commas."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}': expected numbers such as 1,8")
    return tuple(int(part) for part in parts)


def _measured(
    sources: Sequence[Source], options: CpuOptions, keep: Path | None, out: Path | None
) -> dict[str, Any]:
    """What is measured now, together with what `out` holds from before; written there."""
    before = None if out is None or not out.exists() else read_results(out)
    if not sources:
        if before is None:
            raise VitError("no models: give .onnx files or builders, or a file of results by --out")
        return before
    if out is not None:
        require_folder(out)
    with progress("vit-bench cpu") as say:
        facts = measure(sources, options, keep, say)
    if before is not None:
        facts = merged(before, facts)
    if out is not None:
        write_text(out, json.dumps(facts, indent=1) + "\n")
    return facts


def _run(args: argparse.Namespace) -> None:
    from vit_opt.tools.steps import parse_shapes

    plot = None if args.plot is None else Path(args.plot)
    if plot is not None:
        from vit_opt.tools.benchmarks.plot import require_plotting

        require_plotting(plot)
    options = CpuOptions(
        batches=args.batch,
        threads=args.threads,
        peers=tuple(args.peer or peers.PEERS),
        rounds=args.rounds,
        seconds=args.seconds,
        calib=None if args.calib is None else Path(args.calib),
        preprocess=args.preprocess,
        shapes=parse_shapes(args.shape),
        cpu=args.cpu,
        passes=args.passes,
    )
    keep = None if args.keep is None else Path(args.keep)
    sources = [find_source(text) for text in args.models]
    out = None if args.out is None else Path(args.out)
    facts = _measured(sources, options, keep, out)
    if args.json:
        print(json.dumps(facts))
    else:
        print_report(facts, args.markdown)
    if plot is not None:
        from vit_opt.tools.benchmarks.plot import draw

        draw(facts, plot)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add `cpu` to the commands of `vit-bench`."""
    command = commands.add_parser("cpu", help="C projects against ONNX Runtime and OpenVINO")
    command.add_argument("models", nargs="*", metavar="MODEL", help=".onnx file, or a builder")
    command.add_argument("--batch", type=_numbers, default=(1, 8), help="default: 1,8")
    command.add_argument("--threads", type=_numbers, default=(1, 2), help="default: 1,2")
    command.add_argument(
        "--peer", action="append", choices=peers.PEERS, help="only these (default: all)"
    )
    command.add_argument("--rounds", type=int, default=9, metavar="N", help="at least (default: 9)")
    command.add_argument(
        "--seconds", type=float, default=20.0, help="at least, a comparison (default: 20)"
    )
    command.add_argument("--calib", metavar="DATA", help="calibration data (default: synthetic)")
    command.add_argument("--preprocess", metavar="STEPS", help="how image files become inputs")
    command.add_argument(
        "--shape", action="append", default=[], metavar="NAME=1x3x224x224", help="of open inputs"
    )
    command.add_argument("--cpu", default="host", help="instruction level (default: host)")
    command.add_argument("--passes", default="", metavar="PIPELINE", help="as in vit-compile")
    command.add_argument("--keep", metavar="DIR", help="keep prepared models, and reuse them")
    command.add_argument(
        "--out", metavar="FILE.json", help="keep results there, with those it holds of other runs"
    )
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.add_argument("--markdown", action="store_true", help="tables in Markdown")
    command.add_argument("--plot", metavar="FILE.svg|png", help="draw ratios and shares")
    command.set_defaults(run=_run)
