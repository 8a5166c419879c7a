"""`vit-bench models`: the whole road for many models, and whether all backends agree on each.

Every model is imported, brought to integers, compiled to C and to accelerator microcode, and run on
the reference, on C and on the emulator, in a process of its own, so that a large one leaves nothing
behind. A model that is refused is a row that says why; one that fails on one backend still shows
what it does on the others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.tools.benchmarks.sources import BUILDERS, Source, feeds, find_source, require_builders
from vit_opt.tools.build import build_accel, build_c
from vit_opt.tools.compile import peak_memory
from vit_opt.tools.compile_options import CompileOptions
from vit_opt.tools.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vit_opt.backends.accel.emulator import Stats

    Arrays: TypeAlias = dict[str, NDArray[Any]]


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class ModelsOptions:
    """What is done with every model."""

    compile: CompileOptions = field(default_factory=CompileOptions)
    """Calibration data, shapes, targets, architecture and scales."""
    inferences: int = 1
    """Inputs that the backends are compared on; 0: only compile."""


REPEATS = 5
"""Inferences in C of which the fastest is reported."""


TOLD = (VitError, VerifyException, MemoryError)
"""What makes a model a row with a reason, instead of ending everything."""


class _Measurement:
    """One model in one ONNX file: facts come in stage by stage."""

    def __init__(self, name: str, model: Path, options: ModelsOptions, folder: Path) -> None:
        self._model = model
        self._options = options
        self._folder = folder
        self._seconds: dict[str, float] = {}
        self._errors: dict[str, str] = {}
        self._facts: dict[str, Any] = {
            "name": name,
            "seconds": self._seconds,
            "errors": self._errors,
            "bits_equal": {},
        }

    def _stage(self, name: str, body: Callable[[], T]) -> T | None:
        """What `body` returns, its time taken; None if it fails, the reason kept."""
        start = time.perf_counter()
        try:
            return body()
        except TOLD as error:
            self._errors[name] = " ".join(str(error).split()) or type(error).__name__
            return None
        finally:
            self._seconds[name] = time.perf_counter() - start

    def run(self) -> dict[str, Any]:
        """All stages."""
        from vit_opt.tools.steps import new_context

        context = new_context()
        module = self._to_integers(context)
        if module is not None:
            self._facts["operations"] = _operations(module)
            targets = self._options.compile.targets()
            ready = [target for target in targets if self._emit(module.clone(), context, target)]
            self._facts["peak_memory_bytes"] = peak_memory()
            if self._options.inferences:
                self._compare(module, context, ready)
            elif "accel" in ready:
                self._stage("time accel", self._time)
        return self._facts

    def _to_integers(self, context: VitContext) -> ModuleOp | None:
        """Import and all passes up to `tile`; None if the model cannot be taken."""
        from vit_opt.dialects.macs import count_macs
        from vit_opt.passes.pipelines import ROADS, passes_of, remaining
        from vit_opt.tools.steps import import_onnx, provide_batches, run_pipeline
        from vit_opt.tools.weights import release_weights, return_memory

        options = self._options.compile
        module = self._stage("import", lambda: import_onnx(self._model, context=context))
        if module is None:
            return None
        self._facts |= {"macs": count_macs(module), "float_bytes": context.assets.nbytes}

        def road() -> ModuleOp:
            provide_batches(module, context, options.calib, options.preprocess)
            names = remaining(module, "tile", ROADS[options.scales])
            run_pipeline(module, context, passes_of(names, options.overrides()), release=True)
            context.assets.statistics.clear()
            release_weights(module, context.assets)
            return_memory()
            return module

        return self._stage("road", road)

    def _emit(self, module: ModuleOp, context: VitContext, target: str) -> bool:
        """Schedule a module for a backend and write what runs there; False if that fails."""
        from vit_opt.tools.steps import run_pipeline

        options = self._options.compile

        def emit() -> dict[str, Any]:
            run_pipeline(module, context, options.tiling(target, options.overrides()))
            if target == "c":
                return build_c(module, context, self._folder / "c")
            facts = build_accel(module, context, self._folder / "accel", options.arch)
            found = {key: facts[key] for key in ("instructions", "data_bytes", "code_bytes")}
            return found | {"compulsory_bytes": facts["metrics"]["compulsory_bytes"]}

        facts = self._stage(f"emit {target}", emit)
        self._facts |= facts or {}
        return facts is not None

    def _compare(self, module: ModuleOp, context: VitContext, targets: Sequence[str]) -> None:
        """Run everything, and compare it with the reference."""
        from vit_opt.backends.reference import run_reference

        options = self._options.compile
        batches = feeds(self._model, options.calib, options.preprocess, self._options.inferences)
        expected = self._stage(
            "run reference",
            lambda: [run_reference(module, context.assets, each).codes for each in batches],
        )
        for target in targets:
            outputs = (self._on_c if target == "c" else self._on_accel)(batches)
            if expected is not None and outputs is not None:
                self._facts["bits_equal"][target] = same_integers(expected, outputs)

    def _on_c(self, batches: Sequence[Arrays]) -> list[Arrays] | None:
        """Outputs of the C project for each input; None if it fails."""
        from vit_opt.backends.c.run import CModel

        def run() -> list[Arrays]:
            assert model is not None
            outputs, times = [model.run(each) for each in batches], list[float]()
            for _ in range(REPEATS):
                model.run(batches[0])
                times.append(model.seconds)
            self._facts["c_ms"] = min(times) * 1e3
            return outputs

        model = self._stage("build c", lambda: CModel(self._folder / "c"))
        return None if model is None else self._stage("run c", run)

    def _time(self) -> None:
        """Cycles and energy of an image, without data."""
        from vit_opt.backends.accel.image import Image
        from vit_opt.backends.accel.run import time_accel
        from vit_opt.tools.architectures import read_arch
        from vit_opt.tools.artefact import IMAGE

        image = Image.load(self._folder / "accel" / IMAGE)
        self._note(time_accel(image, read_arch(self._options.compile.arch)))

    def _note(self, stats: Stats) -> None:
        self._facts |= {
            "cycles": stats.cycles,
            "utilisation": stats.utilisation,
            "energy_uj": stats.energy_uj,
            "dram_bytes": stats.dram_bytes,
        }

    def _on_accel(self, batches: Sequence[Arrays]) -> list[Arrays] | None:
        """Outputs of the emulator for each input; None if it fails."""
        from vit_opt.backends.accel.image import Image
        from vit_opt.backends.accel.run import run_accel
        from vit_opt.tools.architectures import read_arch
        from vit_opt.tools.artefact import IMAGE

        def run() -> list[Arrays]:
            image = Image.load(self._folder / "accel" / IMAGE)
            machine = read_arch(self._options.compile.arch)
            results = [run_accel(image, each, machine) for each in batches]
            self._note(results[0].stats)
            return [result.codes for result in results]

        return self._stage("run accel", run)


def _operations(module: ModuleOp) -> int:
    """Integer operations, constants and the border left out."""
    from vit_opt.dialects.vit import ops

    silent = (ops.ConstantOp, ops.QuantizeOp, ops.DequantizeOp, ops.PipelineOp, ops.YieldOp)
    operations = (op for op in module.walk() if op.name.startswith("vit."))
    return sum(not isinstance(op, silent) for op in operations)


def same_integers(expected: Sequence[Arrays], given: Sequence[Arrays]) -> bool:
    """Whether all outputs of all inferences have the same integers."""
    import numpy as np

    return len(expected) == len(given) and all(
        want.keys() == have.keys() and all(np.array_equal(want[name], have[name]) for name in want)
        for want, have in zip(expected, given, strict=True)
    )


def measure_model(name: str, model: Path, options: ModelsOptions, folder: Path) -> dict[str, Any]:
    """The facts of one model; what it fails at is among them, under `errors`."""
    return _Measurement(name, model, options, folder).run()


def measure(
    sources: Sequence[Source], options: ModelsOptions, say: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """The facts of models, each exported in one process of its own and measured in another.

    An export holds the weights several times over, which would count as memory of the compiler.
    """
    options.compile.targets()
    found: list[dict[str, Any]] = []
    for source in sources:
        say(source.name)
        with TemporaryDirectory() as name:
            folder = Path(name)
            facts: dict[str, Any] = {"name": source.name, "seconds": {}, "bits_equal": {}}
            try:
                model, _ = _elsewhere(source.export, folder, 1, options.compile.shapes)
                facts = _elsewhere(measure_model, source.name, model, options, folder)
            except (*TOLD, BrokenProcessPool) as error:
                facts["errors"] = {"export": " ".join(str(error).split())}
            found.append(facts)
    return found


def _elsewhere(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args, **kwargs).result()


def succeeded(facts: Mapping[str, Any]) -> bool:
    """Whether a model went all the way and all backends gave the same integers."""
    return not facts["errors"] and all(facts["bits_equal"].values())


# ---- output --------------------------------------------------------------------------------------

COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "model": lambda m: m["name"],
    "ops": lambda m: f"{m['operations']}",
    "GMAC": lambda m: f"{m['macs'] / 1e9:.3f}",
    "weights MB": lambda m: f"{m['weight_bytes'] / 1e6:.2f}",
    "arena KB": lambda m: f"{m['arena_bytes'] / 1e3:.0f}",
    "bits": lambda m: _outcome(m),
    "C ms": lambda m: f"{m['c_ms']:.1f}",
    "peak MB": lambda m: f"{m['peak_memory_bytes'] / 1e6:.0f}",
    "of fp32": lambda m: f"{m['peak_memory_bytes'] / m['float_bytes']:.1f}",
    "cycles": lambda m: f"{m['cycles']:,}",
    "of peak": lambda m: f"{100 * m['utilisation']:.0f} %",
    "DRAM MB": lambda m: f"{m['dram_bytes'] / 1e6:.1f}",
    "of needed": lambda m: f"{m['dram_bytes'] / m['compulsory_bytes']:.2f}",
    "import s": lambda m: f"{m['seconds']['import']:.1f}",
    "road s": lambda m: f"{m['seconds']['road']:.1f}",
    "to C s": lambda m: f"{m['seconds']['emit c'] + m['seconds'].get('build c', 0):.1f}",
    "to accel s": lambda m: f"{m['seconds']['emit accel']:.1f}",
    "reference s": lambda m: f"{m['seconds']['run reference']:.1f}",
    "emulator s": lambda m: f"{m['seconds']['run accel']:.1f}",
}
"""The table; a cell whose facts are missing stays empty."""


def _outcome(facts: Mapping[str, Any]) -> str:
    """How the backends compare with the reference, or why they could not."""
    equal = facts["bits_equal"]
    different = [name for name, same in equal.items() if not same]
    if different:
        return f"{', '.join(different)} DIFFERENT"
    for stage, reason in facts["errors"].items():
        return f"{stage}: {reason if len(reason) <= 120 else reason[:119] + '…'}"
    return f"equal on {', '.join(equal)}" if equal else "compiled"


def table_rows(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Models as rows below `COLUMNS`."""
    rows: list[list[str]] = []
    for facts in found:
        cells: list[str] = []
        for text in COLUMNS.values():
            try:
                cells.append(text(facts))
            except KeyError:
                cells.append("")
        rows.append(cells)
    return rows


def _run(args: argparse.Namespace) -> None:
    from vit_opt.tools.steps import parse_shapes
    from vit_opt.tools.tables import markdown_table, print_table

    if args.builders:
        require_builders()
    sources = [find_source(text) for text in _names(args.models)]
    sources += [find_source(name) for name in BUILDERS] if args.builders else []
    if not sources:
        raise VitError("no models: give .onnx files, folders of them, or --builders")
    options = ModelsOptions(
        CompileOptions(
            calib=None if args.calib is None else Path(args.calib),
            preprocess=args.preprocess,
            shapes=parse_shapes(args.shape),
            target=args.target,
            arch=args.arch,
            scales=args.scales,
            passes=args.passes,
        ),
        args.inferences,
    )
    with progress("vit-bench models") as say:
        found = measure(sources, options, say)
    if args.json:
        print(json.dumps(found))
    elif args.markdown:
        print(markdown_table(tuple(COLUMNS), table_rows(found)), end="")
    else:
        print_table(tuple(COLUMNS), table_rows(found))
    failed = [facts["name"] for facts in found if not succeeded(facts)]
    if not args.json:
        for facts in found:
            for stage, reason in facts["errors"].items():
                print(f"{facts['name']}, {stage}: {reason}")
    if failed:
        raise VitError(f"{len(failed)} of {len(found)} models failed: {', '.join(failed)}")


def _names(models: Sequence[str]) -> list[str]:
    """Models from the command line, folders replaced by the .onnx files in them."""
    names: list[str] = []
    for text in models:
        path = Path(text)
        names += sorted(map(str, path.glob("*.onnx"))) if path.is_dir() else [text]
    return names


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """Add `models` to the commands of `vit-bench`."""
    command = commands.add_parser("models", help="the whole road for many models, bits compared")
    command.add_argument(
        "models", nargs="*", metavar="MODEL", help=".onnx file, folder of them, or a builder"
    )
    command.add_argument(
        "--builders", action="store_true", help="all architectures of a checkout; needs torch"
    )
    command.add_argument("--calib", metavar="DATA", help="calibration data (default: synthetic)")
    command.add_argument("--preprocess", metavar="STEPS", help="how image files become inputs")
    command.add_argument(
        "--shape", action="append", default=[], metavar="NAME=1x3x224x224", help="of open inputs"
    )
    command.add_argument("--target", choices=("c", "accel", "all"), help="as in vit-compile")
    command.add_argument("--arch", default="p2vit", metavar="NAME|FILE", help="default: p2vit")
    command.add_argument("--scales", choices=("pot", "dyadic"), default="pot", help="default: pot")
    command.add_argument("--passes", default="", metavar="PIPELINE", help="as in vit-compile")
    command.add_argument("--inferences", type=int, default=1, metavar="N", help="0: only compile")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.add_argument("--markdown", action="store_true", help="the table in Markdown")
    command.set_defaults(run=_run)
