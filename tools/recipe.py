"""A recipe: everything that decides which numbers come out, in one YAML or JSON file.

    vit-opt: 0.1.0                  version that wrote it
    model: model.onnx               what it was made with, for the reader
    scales: pot
    target: all
    arch: p2vit
    cpu: host
    threads: 1
    shapes: {}
    calibration: {data: calib.npz, sha256: 5f0c..., preprocess: null, images: 32}
    seed: 0
    passes:                         in order, each with all of its options
    - calibrate: {observer: minmax, fraction: 0.9999}
    - smooth: {alpha: 0.5}

Every key may be left out, which means its default. Paths are relative to the file. The same recipe,
model and version give the same bits. A name ending in `.json` is JSON, every other one YAML.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from xdsl.passes import ModulePass, PassPipeline

from vit_opt.dialects.errors import VitError
from vit_opt.tools.command import UsageError, require_writable, write_text
from vit_opt.tools.pass_options import checked_pipeline
from vit_opt.tools.settings import load_settings

TARGETS = ("c", "accel", "all")
"""What `target` may be, besides none."""

IMAGES = 32
"""How many inputs are taken from calibration data; more change next to nothing."""


@dataclass(frozen=True)
class Calibration:
    """What a model is calibrated on."""

    data: Path | None = None
    """File or folder; None: synthetic images."""

    sha256: str | None = None
    """Hash of the file, to notice another one in its place."""

    preprocess: str | None = None
    """How image files become inputs."""

    images: int = IMAGES
    """Largest number of inputs taken."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a compilation; the fields are those of `CompileOptions` with the same names."""

    version: str = ""
    model: str = ""
    scales: str = "pot"
    target: str | None = None
    arch: str = "p2vit"
    cpu: str = "host"
    threads: int = 1
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict[str, "Sequence[int]"])
    calibration: Calibration = field(default_factory=Calibration)
    seed: int = 0
    passes: tuple[ModulePass, ...] = ()

    def spec(self) -> str:
        """The passes as `-p` takes them; empty lists, which have no text there, are the default."""
        specs = [each.pipeline_pass_spec(include_default=True) for each in self.passes]
        for spec in specs:
            for name in [name for name, values in spec.parameters.items() if not values]:
                del spec.parameters[name]
        return ",".join(map(str, specs))

    def arguments(self) -> dict[str, Any]:
        """The settings as options of the command line, by the names that argparse gives them."""
        data = self.calibration.data
        return {
            "scales": self.scales,
            "target": self.target,
            "arch": self.arch,
            "cpu": self.cpu,
            "threads": self.threads,
            "shape": [f"{name}={'x'.join(map(str, s))}" for name, s in self.shapes.items()],
            "calib": None if data is None else str(data),
            "preprocess": self.calibration.preprocess,
            "calib_images": self.calibration.images,
            "seed": self.seed,
        }

    def notes(self) -> list[str]:
        """What differs from when the recipe was written, and may change the bits."""
        notes: list[str] = []
        if self.version and self.version != version("vit-opt"):
            notes.append(f"the recipe was written by version {self.version}")
        wanted, data = self.calibration.sha256, self.calibration.data
        if wanted is not None and data is not None and hash_of(data) != wanted:
            notes.append(f"{data} is not the calibration data that the recipe was written with")
        return notes


def hash_of(path: Path) -> str | None:
    """SHA-256 of a file; None for a folder, or where nothing can be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


# ---- writing ------------------------------------------------------------------------------------


def pass_options(each: ModulePass) -> dict[str, Any]:
    """The options of a pass and their values, as plain data."""
    return {f.name: getattr(each, f.name) for f in fields(each) if f.name != "name" and f.init}


def recipe_data(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """A recipe as plain data, its paths relative to a folder."""
    calibration, data = recipe.calibration, recipe.calibration.data
    return {
        "vit-opt": recipe.version or version("vit-opt"),
        "model": recipe.model,
        "scales": recipe.scales,
        "target": recipe.target,
        "arch": _relative(Path(recipe.arch), folder) if Path(recipe.arch).exists() else recipe.arch,
        "cpu": recipe.cpu,
        "threads": recipe.threads,
        "shapes": {name: list(shape) for name, shape in recipe.shapes.items()},
        "calibration": {
            "data": None if data is None else _relative(data, folder),
            "sha256": None if data is None else hash_of(data),
            "preprocess": calibration.preprocess,
            "images": calibration.images,
        },
        "seed": recipe.seed,
        "passes": [{each.name: pass_options(each)} for each in recipe.passes],
    }


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe, whole or not at all."""
    require_writable(path)
    data = recipe_data(recipe, path.parent)
    if path.suffix == ".json":
        text = json.dumps(data, indent=2) + "\n"
    else:
        import yaml

        text = yaml.safe_dump(data, sort_keys=False, width=100, default_flow_style=None)
    write_text(path, text)


# ---- reading ------------------------------------------------------------------------------------

Kinds = tuple[type, ...]

NOTHING = type(None)

KEYS: Mapping[str, Kinds] = {
    "vit-opt": (str,),
    "model": (str,),
    "scales": (str,),
    "target": (str, NOTHING),
    "arch": (str,),
    "cpu": (str,),
    "threads": (int,),
    "shapes": (dict,),
    "calibration": (dict,),
    "seed": (int,),
    "passes": (list,),
}

CALIBRATION_KEYS: Mapping[str, Kinds] = {
    "data": (str, NOTHING),
    "sha256": (str, NOTHING),
    "preprocess": (str, NOTHING),
    "images": (int,),
}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; raises VitError for unknown keys (with the nearest known), passes and types."""
    data = _mapping(load_settings(path), f"{path}")
    _check(data, KEYS, f"{path}")
    calibration = _mapping(data.pop("calibration", {}), f"{path}: calibration")
    _check(calibration, CALIBRATION_KEYS, f"{path}: calibration")
    _check_values(data, calibration, path)
    source = calibration.pop("data", None)
    shapes = _shapes(_mapping(data.pop("shapes", {}), f"{path}: shapes"), path)
    passes = _passes(data.pop("passes", []), path)
    arch = data.pop("arch", "p2vit")
    return Recipe(
        version=data.pop("vit-opt", ""),
        arch=str(path.parent / arch) if (path.parent / arch).is_file() else arch,
        shapes=shapes,
        calibration=Calibration(
            data=None if source is None else path.parent / source, **calibration
        ),
        passes=passes,
        **data,
    )


def _mapping(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise VitError(f"{where}: expected keys with values, not {type(data).__name__}")
    return {str(key): value for key, value in cast("dict[Any, Any]", data).items()}


def _check(data: Mapping[str, Any], known: Mapping[str, Kinds], where: str) -> None:
    for key, value in data.items():
        if key not in known:
            raise VitError(f"{where}: unknown key '{key}'{_hint(key, known)}")
        kinds = known[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join("null" if kind is NOTHING else kind.__name__ for kind in kinds)
            raise VitError(f"{where}: {key}: {value!r} is not {names}")


def _check_values(data: Mapping[str, Any], calibration: Mapping[str, Any], path: Path) -> None:
    """Raise VitError for values that the command line would not take either."""
    from vit_opt.backends.c.levels import LEVELS
    from vit_opt.passes.pipelines import ROADS

    known = {"scales": tuple(ROADS), "target": TARGETS, "cpu": ("host", *LEVELS)}
    for key, values in known.items():
        if data.get(key) is not None and data[key] not in values:
            raise VitError(f"{path}: {key}: '{data[key]}' is not one of {', '.join(values)}")
    if data.get("seed", 0) < 0:
        raise VitError(f"{path}: seed: {data['seed']} is negative")
    if calibration.get("images", 1) < 1:
        raise VitError(f"{path}: calibration: images: {calibration['images']} is not 1 or more")


def _hint(key: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(key, names, 1)
    return f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(names)}"


def _shapes(data: Mapping[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, sizes in data.items():
        listed = cast("list[Any]", sizes) if isinstance(sizes, list) else []
        if not listed or not all(type(size) is int and size > 0 for size in listed):
            raise VitError(f"{path}: shapes: {name}: expected a list of sizes")
        shapes[name] = tuple(listed)
    return shapes


def _passes(data: Sequence[Any], path: Path) -> tuple[ModulePass, ...]:
    from vit_opt.passes import get_all_passes

    available = get_all_passes()
    passes: list[ModulePass] = []
    for entry in data:
        alone: dict[str, Any] = {}
        named = {entry: alone} if isinstance(entry, str) else _mapping(entry, f"{path}: passes")
        for name, options in named.items():
            if name not in available:
                raise VitError(f"{path}: passes: no pass '{name}'{_hint(name, available)}")
            where = f"{path}: passes"
            passes.append(_pass(name, _mapping(options or {}, f"{where}: {name}"), where))
    return tuple(passes)


def _pass(name: str, options: Mapping[str, Any], where: str) -> ModulePass:
    """A pass with options, by way of its text, so that types are checked where `-p` checks them."""
    from vit_opt.passes import get_all_passes, pass_class

    defaults = pass_options(pass_class(name)())
    parts: list[str] = []
    for key, value in options.items():
        if key not in defaults:
            raise VitError(f"{where}: {name}: unknown option '{key}'{_hint(key, defaults)}")
        if value is not None and value != []:
            try:
                parts.append(f"{key}={_text(value)}")
            except VitError as error:
                raise VitError(f"{where}: {name}: {key}: {error}") from error
    text = f"{name}{{{' '.join(parts)}}}" if parts else name
    try:
        text = checked_pipeline(where, text, get_all_passes())
        [built] = PassPipeline.parse_spec(get_all_passes(), text).passes
    except UsageError as error:
        raise VitError(str(error)) from error
    except VitError as error:
        raise VitError(f"{where}: {error}") from error
    except Exception as error:  # xDSL's parser and dataclasses raise many kinds
        raise VitError(f"{where}: {name}: {' '.join(str(error).split())}") from error
    return built


def _text(value: Any) -> str:
    """An option's value as `-p` spells it; raises VitError for one that cannot be."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(_text(each) for each in cast("list[Any]", value))
    if not isinstance(value, str | int | float):
        raise VitError(f"{value!r} is no word, number, true or false")
    return json.dumps(value) if isinstance(value, str) else str(value)


__all__ = ["IMAGES", "Calibration", "Recipe", "read_recipe", "write_recipe"]
