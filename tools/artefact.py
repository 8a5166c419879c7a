"""The folder that `vit-compile` writes and `vit-run` reads.

DIR/model.mlir            the scheduled graph
DIR/model.weights.npz     its weights
DIR/c/                    a C11 project
DIR/accel/model.img       the binary image
DIR/accel/model.asm       its assembly, with model.data.npz beside it
DIR/accel/arch.json       the architecture it is made for
DIR/accel/origins.json    which operation of the model each instruction is a part of
DIR/accel/explain.txt     why the mapper cut every product and convolution as it did
DIR/report.json           what was done and what came out, for programs
DIR/report.txt            the same to read
DIR/recipe.yaml           all settings, for `--recipe`
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from xdsl.dialects.builtin import ModuleOp
from xdsl.parser import Parser
from xdsl.targets.mlir import MLIRTarget

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.tools.command import parsing, require_folder, write_text
from vit_opt.tools.settings import load_settings
from vit_opt.tools.weights import referenced_digests, sidecar_of

if TYPE_CHECKING:
    from vit_opt.backends.accel.image import Origins

IMAGE, ASSEMBLY, ARCH, ORIGINS = "model.img", "model.asm", "arch.json", "origins.json"
EXPLANATION = "explain.txt"
"""Names in the accelerator's folder."""


@dataclass(frozen=True)
class Artefact:
    """Places in a compiled folder."""

    folder: Path

    @property
    def module(self) -> Path:
        """The graph as text."""
        return self.folder / "model.mlir"

    @property
    def c(self) -> Path:
        """The C project."""
        return self.folder / "c"

    @property
    def accel(self) -> Path:
        """What the accelerator needs."""
        return self.folder / "accel"

    @property
    def report(self) -> Path:
        """The report for programs."""
        return self.folder / "report.json"

    @property
    def recipe(self) -> Path:
        """The settings it was made with."""
        return self.folder / "recipe.yaml"

    def read_report(self) -> dict[str, Any]:
        """The report; raises VitError if this is not a compiled folder."""
        try:
            report = json.loads(self.report.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise VitError(
                f"{self.folder}: no readable report.json here; is it the output of vit-compile?"
            ) from error
        wanted = {"model": str, "scales": str, "inputs": dict, "outputs": dict}
        if not _has(report, wanted) or not all(
            map(_is_port, (*report["inputs"].values(), *report["outputs"].values()))
        ):
            raise VitError(f"{self.report}: not a report of vit-compile")
        return report

    def read_module(self, context: VitContext) -> ModuleOp:
        """The graph, its weights loaded into the context."""
        try:
            with parsing(str(self.module)):
                text = self.module.read_text(encoding="utf-8")
        except OSError as error:
            raise VitError(f"{self.module}: cannot be read: {error.strerror}") from error
        if sidecar_of(self.module).exists():
            context.assets.load(sidecar_of(self.module))
        elif "asset<" in text:
            raise VitError(f"{sidecar_of(self.module)}: no such file, but the model needs it")
        with parsing(str(self.module)):
            return Parser(context, text, str(self.module)).parse_module()

    def write_module(self, module: ModuleOp, context: VitContext) -> None:
        """Write the graph and its weights."""
        context.assets.save(sidecar_of(self.module), referenced_digests(module, context.assets))
        text = StringIO()
        MLIRTarget().emit(context, module, text)
        write_text(self.module, text.getvalue())


def read_origins(path: Path, instructions: int) -> Origins:
    """What `origins.json` beside an image of so many instructions says; VitError if it is damaged."""
    from vit_opt.backends.accel.image import Origins

    runs = load_settings(path)
    try:
        return Origins.from_plain(runs, instructions)
    except VitError as error:
        raise VitError(f"{path}: {error}") from error


def _has(data: Any, wanted: Mapping[str, type]) -> bool:
    """Whether this is an object with entries of these types."""
    return isinstance(data, dict) and all(
        isinstance(cast("dict[str, Any]", data).get(key), kind) for key, kind in wanted.items()
    )


def _is_port(data: Any) -> bool:
    """Whether this describes an input or output: a shape, and a number format if it has one."""
    return (
        _has(data, {"shape": list})
        and all(type(size) is int for size in data["shape"])
        and isinstance(data.get("scale", 1.0), float)
        and type(data.get("zero_point", 0)) is int
    )


@contextmanager
def new_artefact(folder: Path) -> Generator[Artefact]:
    """A compiled folder that appears whole, in place of an earlier one, or not at all.

    Raises VitError if something else is in its place.
    """
    folder = Path(folder)
    require_folder(folder)
    if folder.exists() and not (folder / "report.json").exists() and not _is_empty(folder):
        raise VitError(f"{folder}: exists and is not a compiled model; choose another folder")
    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield Artefact(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
