"""`vit-compile DIR -o OTHER`: a model that is compiled already, for another machine.

What a model's integers are does not depend on the machine. So a compiled folder can be taken to
another architecture, CPU or number of threads without its ONNX file and its calibration data, and
without the time that quantising takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_opt.dialects.errors import VitError
from vit_opt.passes.pipelines import ROADS
from vit_opt.tools.artefact import Artefact
from vit_opt.tools.command import UsageError
from vit_opt.tools.compile_options import CompileOptions
from vit_opt.tools.recipe import IMAGES, Recipe, read_recipe
from vit_opt.tools.report.validity import check_report

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from vit_opt.dialects.assets import VitContext

KEPT = ("model", "scales", "inputs", "outputs", "quality", "layers", "weights", "choices")
"""What a report says of the model, whatever machine it is compiled for."""


def read_compiled(folder: Path, context: VitContext) -> tuple[ModuleOp, dict[str, Any], Recipe]:
    """The module of a compiled folder, what its report says of the model, and its settings.

    Raises VitError if this is not a compiled folder, or one of another version.
    """
    artefact = Artefact(folder)
    report = artefact.read_report()
    missing = [key for key in KEPT if key not in report]
    if missing:
        raise VitError(f"{artefact.report}: no entry '{missing[0]}'; compile the model anew")
    check_report(report, artefact.report)
    if not _usable(report):
        raise VitError(f"{artefact.report}: not a report of vit-compile")
    kept = {key: report[key] for key in KEPT}
    return artefact.read_module(context), kept, read_recipe(artefact.recipe)


def _usable(report: Mapping[str, Any]) -> bool:
    """Whether what the next report says again has the form that it is said in."""
    return report["scales"] in ROADS and all(
        None not in measures.values() and "sqnr_db" in measures
        for measures in report["quality"].values()
    )


def with_machine(recipe: Recipe, options: CompileOptions) -> Recipe:
    """The settings of a compiled folder with another machine."""
    return replace(
        recipe,
        target=options.target,
        arch=options.arch,
        cpu=options.cpu,
        threads=options.threads,
    )


def require_no_model_options(options: CompileOptions) -> None:
    """Raise UsageError for options that would change the integers of a compiled model."""
    given = {
        "--calib": options.calib is not None,
        "--preprocess": options.preprocess is not None,
        "--shape": bool(options.shapes),
        "--passes or an option of weights": bool(options.passes),
        "--calib-images": options.images != IMAGES,
        "--seed": options.seed != 0,
        "--export-qdq": options.qdq is not None,
    }
    for name, there in given.items():
        if there:
            raise UsageError(
                f"{name}: the model is a compiled folder, whose integers stay as they are; "
                "give the ONNX file instead"
            )
