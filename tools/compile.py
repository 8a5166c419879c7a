"""`vit-compile MODEL.onnx -o DIR`: the whole road, from ONNX to C and accelerator.

MODEL may also be a compiled folder: then its integers stay, and only the machine is another one.

DIR then holds what `vit_opt.tools.artefact` lists. The output appears whole, in place of an earlier
one, or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.tools.artefact import EXPLANATION, new_artefact
from vit_opt.tools.build import build_accel, build_c
from vit_opt.tools.command import (
    UsageError,
    command_line,
    require_writable,
    run_command,
    write_text,
)
from vit_opt.tools.compile_options import TARGETS, CompileOptions
from vit_opt.tools.progress import progress
from vit_opt.tools.recipe import IMAGES, Recipe, read_recipe, write_recipe
from vit_opt.tools.recompile import read_compiled, require_no_model_options, with_machine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

DESCRIPTION = "Compile a Vision Transformer from ONNX to integer-only C and accelerator microcode."


@dataclass
class _Timer:
    """Seconds by step, in order; also tells what is being done."""

    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    _step: tuple[str, float] | None = None

    def step(self, name: str | None) -> None:
        """A step begins (None: nothing more); the one before it ends."""
        now = time.perf_counter()
        if self._step is not None:
            before, start = self._step
            self.seconds[before] = self.seconds.get(before, 0.0) + now - start
        self._step = None if name is None else (name, now)
        if name is not None:
            self.say(name)


def compile_model(
    model: Path,
    folder: Path,
    options: CompileOptions | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compile a model into a folder and return its report; `warn` is called with warnings.

    `model` is an ONNX file, or a compiled folder that is taken to another machine.
    """
    from vit_opt.tools.steps import new_context, run_pipeline

    options = options or CompileOptions()
    context = new_context()
    with new_artefact(folder) as artefact, progress("vit-compile") as say:
        timer = _Timer(say)
        start = _compiled if model.is_dir() else _quantised
        module, report, recipe = start(model, context, options, timer, warn)
        options = replace(options, scales=report["scales"])
        overrides = options.overrides()
        for target in options.targets():
            run_pipeline(module, context, options.tiling(target, overrides), timer.step)
            timer.step(f"emit {target}")
            report[target] = (
                build_c(module, context, artefact.c, options.cpu, options.threads)
                if target == "c"
                else build_accel(module, context, artefact.accel, options.arch)
            )
        timer.step("write module")
        artefact.write_module(module, context)
        timer.step(None)
        report["seconds"] = timer.seconds
        report["peak_memory_bytes"] = peak_memory()
        write_text(artefact.report, json.dumps(report, indent=2) + "\n")
        write_text(artefact.folder / "report.txt", report_text(report))
        write_recipe(artefact.recipe, recipe)
    if options.recipe is not None:
        write_recipe(options.recipe, recipe)
    return report


Start: TypeAlias = tuple[ModuleOp, dict[str, Any], Recipe]
"""A module before `tile`, what the report says of the model, and the settings."""


def _quantised(
    model: Path,
    context: VitContext,
    options: CompileOptions,
    timer: _Timer,
    warn: Callable[[str], None],
) -> Start:
    """From an ONNX file."""
    options.targets()
    overrides = options.overrides()
    module, quality, layers = _to_tile(model, context, options, overrides, timer, warn)
    report: dict[str, Any] = {
        "model": str(model),
        "scales": options.scales,
        "cpu": options.cpu,
        **_ports(module),
        "quality": quality,
        "layers": layers,
        "weights": context.assets.reports.get("pot-fold", []),
        "choices": {k: v for k, v in context.assets.reports.items() if k != "pot-fold"},
    }
    return module, report, options.settings(model)


def _compiled(
    model: Path,
    context: VitContext,
    options: CompileOptions,
    timer: _Timer,
    warn: Callable[[str], None],
) -> Start:
    """From a compiled folder, for another machine."""
    timer.step("read module")
    require_no_model_options(options)
    module, report, recipe = read_compiled(model, context)
    if report["scales"] != options.scales:
        warn(f"{model} has {report['scales']} scales, which stay")
    return module, report | {"cpu": options.cpu}, with_machine(recipe, options)


def _to_tile(
    model: Path,
    context: VitContext,
    options: CompileOptions,
    overrides: Mapping[str, ModulePass],
    timer: _Timer,
    warn: Callable[[str], None],
) -> tuple[ModuleOp, dict[str, Any], list[dict[str, Any]]]:
    """The module before `tile`, its closeness to the float model on calibration inputs, and layers."""
    from vit_opt.passes.layer_report import layer_rows
    from vit_opt.passes.pipelines import ROADS, passes_of, remaining
    from vit_opt.tools.check import compare
    from vit_opt.tools.steps import import_onnx, provide_batches, run_pipeline
    from vit_opt.tools.weights import release_weights, return_memory

    timer.step("import")
    module = import_onnx(model, shapes=options.shapes, context=context)
    note = provide_batches(
        module, context, options.calib, options.preprocess, options.images, options.seed
    )
    if note is not None:
        warn(note)
    road = ROADS[options.scales]
    split = road.index("calibrate") + 1

    def run(until: str) -> None:
        passes = passes_of(remaining(module, until, road), overrides)
        run_pipeline(module, context, passes, timer.step, release=True)

    run(road[split])
    timer.step("float outputs")
    floats = outputs_on_batches(module, context)
    run("verify-integer")
    if options.qdq is not None:
        from vit_opt.backends.onnx_qdq import export_qdq

        timer.step("export QDQ")
        export_qdq(module, context.assets, options.qdq)
    timer.step("layers")
    layers = layer_rows(module, context.assets)
    context.assets.statistics.clear()
    release_weights(module, context.assets)
    return_memory()
    run("tile")
    timer.step("compare")
    return module, compare(floats, outputs_on_batches(module, context)), layers


HEADLINES = 4
"""Lines of the accelerator's figures that the command prints; the report has all."""

QUALITY_BATCHES = 2
"""Inputs on which the report compares integers with floats."""


def outputs_on_batches(module: ModuleOp, context: VitContext) -> dict[str, Array]:
    """Outputs of a float or integer graph on some calibration inputs, as real numbers, by name."""
    import numpy as np

    from vit_opt.backends.reference import run_reference

    results = [
        run_reference(module, context.assets, batch).reals
        for batch in context.assets.batches[:QUALITY_BATCHES]
    ]
    return {name: np.concatenate([each[name] for each in results]) for name in results[0]}


def _ports(module: ModuleOp) -> dict[str, Any]:
    """Names, shapes and formats of inputs and outputs."""
    from vit_opt.dialects.evaluation import input_names, main_function, output_names
    from vit_opt.dialects.vit import ops
    from vit_opt.dialects.vit.ops.base import format_of, shape_of

    func = main_function(module)
    returned = func.body.block.last_op
    assert returned is not None
    inputs: dict[str, Any] = {}
    for name, value in zip(input_names(func), func.body.block.args, strict=True):
        inputs[name] = {"shape": list(shape_of(value))}
        for use in value.uses:
            if isinstance(use.operation, ops.QuantizeOp):
                format_ = format_of(use.operation.result)
                inputs[name] |= {
                    "format": str(format_),
                    "scale": float(format_.channel_scales()),
                    "zero_point": format_.zero_point,
                }
    outputs: dict[str, Any] = {}
    for name, value in zip(output_names(func), returned.operands, strict=True):
        outputs[name] = {"shape": list(shape_of(value))}
        if isinstance(value.owner, ops.DequantizeOp):
            outputs[name]["format"] = str(format_of(value.owner.x))
    return {"inputs": inputs, "outputs": outputs}


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report_text(report: Mapping[str, Any]) -> str:
    """The report to read."""
    from vit_opt.backends.accel.metrics import metrics_lines
    from vit_opt.passes.assign_bits import bits_lines
    from vit_opt.passes.layer_report import layer_lines

    lines = [f"{report['model']}, {report['scales']} scales", ""]
    for kind in ("inputs", "outputs"):
        for name, port in report[kind].items():
            lines.append(f"{kind[:-1]:<8}{name:<12}{port['shape']} {port.get('format', '')}")
    lines += ["", "integers against floats, on calibration inputs"]
    for name, quality in report["quality"].items():
        lines += [f"  {name} {key}: {value:.4g}" for key, value in quality.items()]
    if report["layers"]:
        lines += ["", "layers, on the first calibration input", *layer_lines(report["layers"])]
    if "assign-bits" in report["choices"]:
        lines += ["", "bits of weights, and the error that 4 would make"]
        lines += [f"  {line}" for line in bits_lines(report["choices"]["assign-bits"])]
    for target, title in (("c", "C project"), ("accel", "accelerator image")):
        if target in report:
            lines += ["", title]
            for key, value in report[target].items():
                if isinstance(value, int | str):
                    text = f"{value:,}" if isinstance(value, int) else value
                    lines.append(f"  {key.replace('_', ' '):<16}{text}")
                elif key == "metrics":
                    lines += [f"  {line}" for line in metrics_lines(value)]
    lines += ["", "seconds"]
    lines += [f"  {step:<20}{seconds:8.2f}" for step, seconds in report["seconds"].items()]
    lines.append(f"  {'all':<20}{sum(report['seconds'].values()):8.2f}")
    lines += ["", f"peak memory {report['peak_memory_bytes'] / 1e6:,.0f} MB", ""]
    return "\n".join(lines)


def _options(args: argparse.Namespace) -> CompileOptions:
    from vit_opt.tools.steps import parse_shapes
    from vit_opt.tools.weight_options import weight_passes

    return CompileOptions(
        calib=None if args.calib is None else Path(args.calib),
        preprocess=args.preprocess,
        shapes=parse_shapes(args.shape),
        target=args.target,
        arch=args.arch,
        cpu=args.cpu,
        threads=args.threads,
        scales=args.scales,
        passes=",".join(filter(None, (args.passes, weight_passes(args)))),
        images=args.calib_images or IMAGES,
        seed=args.seed or 0,
        recipe=None if args.save_recipe is None else Path(args.save_recipe),
        qdq=None if args.export_qdq is None else Path(args.export_qdq),
    )


def _compile(args: argparse.Namespace) -> None:
    def warn(note: str) -> None:
        print(f"vit-compile: warning: {note}", file=sys.stderr)

    from vit_opt.backends.accel.metrics import metrics_lines
    from vit_opt.backends.c.levels import check_threads
    from vit_opt.passes.assign_bits import bits_summary
    from vit_opt.tools.architectures import read_arch
    from vit_opt.tools.report.page import write_page
    from vit_opt.tools.report.plots import require_plotting

    model, folder, options = Path(args.model), Path(args.output), _options(args)
    read_arch(options.arch)  # a wrong name is an error before the work, not after it
    if "accel" not in options.targets() and args.explain:
        raise UsageError("--explain is about the accelerator: compile for it, with --target accel")
    options.overrides()
    check_threads(options.threads)
    page = None if args.html is None else Path(args.html)
    if page is not None:
        require_plotting()
    for path in (options.recipe, options.qdq, page):
        if path is not None:
            require_writable(path)
    for note in args.notes:
        warn(note)
    if not model.exists():
        raise VitError(f"{model}: no such file")
    report = compile_model(model, folder, options, warn)
    for name, quality in report["quality"].items():
        print(f"{name}: {quality['sqnr_db']:.1f} dB against float on calibration inputs")
    if "assign-bits" in report["choices"]:
        print(bits_summary(report["choices"]["assign-bits"]))
    for target in ("c", "accel"):
        if target in report:
            size = report[target].get("weight_bytes", report[target].get("data_bytes"))
            print(f"{folder / target}: {size:,} bytes of weights")
    if "accel" in report:
        print("\n".join(metrics_lines(report["accel"]["metrics"])[:HEADLINES]))
    if args.explain:
        print((folder / "accel" / EXPLANATION).read_text(encoding="utf-8"), end="")
    print(f"{folder / 'report.txt'}: written after {sum(report['seconds'].values()):.1f} s")
    if page is not None:
        write_page(report, page)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from vit_opt.backends.c.levels import LEVELS
    from vit_opt.tools.opt import add_model_arguments
    from vit_opt.tools.weight_options import add_weight_arguments

    result = command_line("vit-compile", DESCRIPTION)
    result.add_argument(
        "model", metavar="MODEL", help=".onnx file, or output of vit-compile for another machine"
    )
    result.add_argument("-o", dest="output", metavar="DIR", required=True, help="output folder")
    add_model_arguments(result)
    add_weight_arguments(result)
    result.add_argument(
        "--html", metavar="FILE", help="write a page on every layer, as vit-report does"
    )
    result.add_argument(
        "--explain", action="store_true", help="why the accelerator's products are cut as they are"
    )
    result.add_argument("--target", choices=TARGETS, help="default: all that the scales allow")
    result.add_argument(
        "--arch", default="p2vit", metavar="NAME|FILE", help="accelerator (default: p2vit)"
    )
    result.add_argument(
        "--cpu",
        choices=("host", *reversed(LEVELS)),
        default="host",
        help="instructions of the C project (default: host)",
    )
    result.add_argument(
        "--threads", type=int, default=1, metavar="N", help="of the C project (default: 1)"
    )
    result.add_argument(
        "--scales", choices=("pot", "dyadic"), default="pot", help="kind of scales (default: pot)"
    )
    result.add_argument(
        "--passes",
        default="",
        metavar="PIPELINE",
        help="passes of the road with other options, for example 'smooth{alpha=0.7}'",
    )
    result.set_defaults(notes=[])
    return result


def with_recipe(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line whose defaults are those of its recipe, if it names one.

    `--passes` of the command line come after those of the recipe, and win.
    """
    args = parser().parse_args(arguments)
    if args.recipe is None:
        return args
    recipe = read_recipe(Path(args.recipe))
    known = parser()
    known.set_defaults(**recipe.arguments(), notes=recipe.notes())
    args = known.parse_args(arguments)
    args.passes = ",".join(filter(None, (recipe.spec(), args.passes)))
    return args


def run(arguments: Sequence[str] | None = None) -> int:
    """`vit-compile` with these arguments; returns the exit code."""
    parser().parse_args(arguments)
    return run_command("vit-compile", lambda: _compile(with_recipe(arguments)))


def main() -> None:
    """Entry point of `vit-compile`."""
    sys.exit(run())


if __name__ == "__main__":
    main()
