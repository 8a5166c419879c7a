"""`vit-bench models`: the whole road for many models, and whether all backends agree on each.

Every model is imported, brought to integers, compiled to C and to accelerator microcode, and run on
the reference, on C and on the emulator, in a process of its own, so that a large one leaves nothing
behind. A model that fails on one backend still shows what it does on the others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.tools.benchmarks.sources import BUILDERS, Source, feeds, find_source, require_builders
from vit_opt.tools.compile import CompileOptions, build_accel, build_c, peak_memory
from vit_opt.tools.progress import progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays: TypeAlias = dict[str, NDArray[Any]]


T = TypeVar("T")


@dataclass(frozen=True)
class ModelsOptions:
    """What is done with every model."""

    compile: CompileOptions = field(default_factory=CompileOptions)
    """Calibration data, shapes, targets, architecture and scales."""
    inferences: int = 1
    """Inputs that the backends are compared on."""


REPEATS = 5
"""Inferences in C of which the fastest is reported."""


class _Measurement:
    """One model: facts come in stage by stage."""

    def __init__(self, source: Source, options: ModelsOptions, folder: Path) -> None:
        self._source = source
        self._options = options
        self._folder = folder
        self._seconds: dict[str, float] = {}
        self._errors: dict[str, str] = {}
        self._facts: dict[str, Any] = {
            "name": source.name,
            "seconds": self._seconds,
            "errors": self._errors,
            "bits_equal": {},
        }

    def _stage(self, name: str, body: Callable[[], T]) -> T | None:
        """What `body` returns, its time taken; None if it fails, the reason kept."""
        start = time.perf_counter()
        try:
            return body()
        except VitError as error:
            self._errors[name] = str(error)
            return None
        finally:
            self._seconds[name] = time.perf_counter() - start

    def run(self) -> dict[str, Any]:
        """All stages."""
        from vit_opt.tools.steps import new_context

        context = new_context()
        shapes = self._options.compile.shapes
        exported = self._stage("export", lambda: self._source.export(self._folder, 1, shapes)[0])
        if exported is not None:
            module = self._to_integers(exported, context)
            if module is not None:
                self._facts["operations"] = _operations(module)
                self._compare(module, context, exported)
        return self._facts | {"peak_memory_bytes": peak_memory()}

    def _to_integers(self, exported: Path, context: VitContext) -> ModuleOp | None:
        """Import and all passes up to `tile`; None if the model cannot be taken."""
        from vit_opt.dialects.macs import count_macs
        from vit_opt.passes.pipelines import ROADS, passes_of, remaining
        from vit_opt.tools.steps import import_onnx, provide_batches, run_pipeline

        options = self._options.compile
        module = self._stage("import", lambda: import_onnx(exported, context=context))
        if module is None:
            return None
        self._facts["macs"] = count_macs(module)

        def road() -> ModuleOp:
            provide_batches(module, context, options.calib, options.preprocess)
            names = remaining(module, "tile", ROADS[options.scales])
            run_pipeline(module, context, passes_of(names, options.overrides()), release=True)
            return module

        return self._stage("road", road)

    def _compare(self, module: ModuleOp, context: VitContext, exported: Path) -> None:
        """Run everything, and compare it with the reference."""
        from vit_opt.backends.reference import run_reference

        options = self._options.compile
        batches = feeds(exported, options.calib, options.preprocess, self._options.inferences)
        expected = self._stage(
            "run reference",
            lambda: [run_reference(module, context.assets, each).codes for each in batches],
        )
        for target in options.targets():
            on_target = self._on_c if target == "c" else self._on_accel
            outputs = on_target(module.clone(), context, batches)
            if expected is not None and outputs is not None:
                self._facts["bits_equal"][target] = same_integers(expected, outputs)

    def _tile(self, module: ModuleOp, context: VitContext, target: str) -> None:
        from vit_opt.tools.steps import run_pipeline

        options = self._options.compile
        run_pipeline(module, context, options.tiling(target, options.overrides()))

    def _on_c(
        self, module: ModuleOp, context: VitContext, batches: Sequence[Arrays]
    ) -> list[Arrays] | None:
        """Outputs of the C project for each input; None if it fails."""
        from vit_opt.backends.c.run import CModel

        folder = self._folder / "c"

        def emit() -> dict[str, Any]:
            self._tile(module, context, "c")
            return build_c(module, context, folder)

        def run() -> list[Arrays]:
            assert model is not None
            outputs, times = [model.run(each) for each in batches], list[float]()
            for _ in range(REPEATS):
                model.run(batches[0])
                times.append(model.seconds)
            self._facts["c_ms"] = min(times) * 1e3
            return outputs

        facts = self._stage("emit c", emit)
        if facts is None:
            return None
        self._facts |= facts
        model = self._stage("build c", lambda: CModel(folder))
        return None if model is None else self._stage("run c", run)

    def _on_accel(
        self, module: ModuleOp, context: VitContext, batches: Sequence[Arrays]
    ) -> list[Arrays] | None:
        """Outputs of the emulator for each input; None if it fails."""
        from vit_opt.backends.accel.image import Image
        from vit_opt.backends.accel.run import run_accel
        from vit_opt.tools.architectures import read_arch
        from vit_opt.tools.artefact import IMAGE

        arch, folder = self._options.compile.arch, self._folder / "accel"

        def emit() -> dict[str, Any]:
            self._tile(module, context, "accel")
            return build_accel(module, context, folder, arch)

        def run() -> list[Arrays]:
            image, machine = Image.load(folder / IMAGE), read_arch(arch)
            results = [run_accel(image, each, machine) for each in batches]
            stats = results[0].stats
            self._facts |= {
                "cycles": stats.cycles,
                "utilisation": stats.utilisation,
                "energy_uj": stats.energy_uj,
            }
            return [result.codes for result in results]

        facts = self._stage("emit accel", emit)
        if facts is None:
            return None
        self._facts |= {key: facts[key] for key in ("instructions", "data_bytes")}
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


def measure_model(source: Source, options: ModelsOptions) -> dict[str, Any]:
    """The facts of one model; what it fails at is among them, under `errors`."""
    with TemporaryDirectory() as name:
        return _Measurement(source, options, Path(name)).run()


def measure(
    sources: Sequence[Source], options: ModelsOptions, say: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """The facts of models, each measured in a process of its own."""
    options.compile.targets()
    found: list[dict[str, Any]] = []
    for source in sources:
        say(source.name)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found.append(pool.submit(measure_model, source, options).result())
    return found


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
    "bits": lambda m: _bits(m),
    "C ms": lambda m: f"{m['c_ms']:.1f}",
    "cycles": lambda m: f"{m['cycles']:,}",
    "of peak": lambda m: f"{100 * m['utilisation']:.0f} %",
    "import s": lambda m: f"{m['seconds']['import']:.1f}",
    "road s": lambda m: f"{m['seconds']['road']:.1f}",
    "to C s": lambda m: f"{m['seconds']['emit c'] + m['seconds']['build c']:.1f}",
    "to accel s": lambda m: f"{m['seconds']['emit accel']:.1f}",
    "reference s": lambda m: f"{m['seconds']['run reference']:.1f}",
    "emulator s": lambda m: f"{m['seconds']['run accel']:.1f}",
}
"""The table; a cell whose facts are missing stays empty."""


def _bits(facts: Mapping[str, Any]) -> str:
    """How the backends compare with the reference."""
    equal = facts["bits_equal"]
    if not equal:
        return ""
    different = [name for name, same in equal.items() if not same]
    return f"{', '.join(different)} DIFFERENT" if different else f"equal on {', '.join(equal)}"


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
    command.add_argument("--inferences", type=int, default=1, metavar="N", help="default: 1")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output")
    command.add_argument("--markdown", action="store_true", help="the table in Markdown")
    command.set_defaults(run=_run)
