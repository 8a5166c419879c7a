"""Recipes: saved, replayed to the same bits, and refused with a hint where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vit_opt.dialects.errors import VitError
from vit_opt.passes import pass_class
from vit_opt.tools import compile
from vit_opt.tools.command import run_command
from vit_opt.tools.opt import VitOptMain
from vit_opt.tools.recipe import Calibration, Recipe, read_recipe, write_recipe

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
MODEL = str(DIGITS / "model.onnx")


def some(path: Path, name: str) -> Path:
    """The first calibration images in a file of their own."""
    with np.load(DIGITS / "calib.npz") as data:
        np.savez(path / name, image=data["image"][:4])
    return path / name


def some_recipe(folder: Path) -> Recipe:
    return Recipe(
        model="model.onnx",
        target="c",
        shapes={"image": (1, 1, 28, 28)},
        calibration=Calibration(some(folder, "calib.npz"), images=3),
        seed=5,
        passes=(
            pass_class("calibrate")(),
            pass_class("smooth")(alpha=1.0),
            pass_class("pot-fold")(weights="nearest"),
        ),
    )


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.json"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    recipe = some_recipe(tmp_path)
    write_recipe(tmp_path / name, recipe)
    found = read_recipe(tmp_path / name)
    assert found.passes == recipe.passes
    assert found.arguments() == recipe.arguments()
    assert found.notes() == []
    if name.endswith(".json"):
        assert json.loads((tmp_path / name).read_text())["calibration"]["data"] == "calib.npz"


def test_other_data_and_other_version_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    write_recipe(path, some_recipe(tmp_path))
    (tmp_path / "calib.npz").write_bytes(b"other")
    assert "is not the calibration data" in read_recipe(path).notes()[0]
    path.write_text("vit-opt: 0.0.1\n")
    assert read_recipe(path).notes() == ["the recipe was written by version 0.0.1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("calibraton: {}", "unknown key 'calibraton'; did you mean 'calibration'"),
        ("calibration: {imges: 3}", "unknown key 'imges'; did you mean 'images'"),
        ("passes: [{smoth: {}}]", "no pass 'smoth'; did you mean 'smooth'"),
        ("passes: [{smooth: {alfa: 1}}]", "smooth: unknown option 'alfa'; did you mean 'alpha'"),
        ("passes: [{smooth: {alpha: many}}]", "passes: smooth: .*many"),
        ("passes: [{smooth: {alpha: .nan}}]", "passes: smooth: alpha is a number, not 'nan'"),
        ("passes: [{refine: {sweeps: 1.5}}]", "refine: sweeps is a whole number, not '1.5'"),
        ("passes: [{quantize: {wide: [gelu, {a: b}]}}]", "quantize: wide: {'a': 'b'} is no word"),
        ("passes: [{smooth: {alpha: 7}}]", "passes: smooth: alpha 7 is not between 0 and 1"),
        ("target: moon", "target: 'moon' is not one of c, accel, all"),
        ("scales: any", "scales: 'any' is not one of pot, dyadic"),
        ("cpu: z80", "cpu: 'z80' is not one of host, "),
        ("seed: -1", "seed: -1 is negative"),
        ("calibration: {images: 0}", "calibration: images: 0 is not 1 or more"),
        ("threads: two", "threads: 'two' is not int"),
        ("seed: true", "seed: True is not int"),
        ("shapes: {x: 3}", "shapes: x: expected a list"),
        ("[1]", "expected keys with values"),
        ("a: [", "not YAML: .* at line 1, column 5: a"),
        ("seed: !!bool x", "not YAML: a value is not of the type that its tag says"),
        ("seed: !!int x", "not YAML"),
        ("calibration: !!timestamp x", "not YAML: a value is not of the type that its tag says"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(VitError, match=message):
        read_recipe(path)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(VitError, match="No such file"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(VitError, match="not JSON"):
        read_recipe(tmp_path / "x.json")


def vit_opt(*arguments: str | Path) -> int:
    """Exit code of vit-opt, run in this process."""
    return run_command("vit-opt", lambda: VitOptMain([str(each) for each in arguments]).run())


def vit_compile(*arguments: str | Path) -> int:
    """Exit code of vit-compile, run in this process."""
    return compile.run([str(each) for each in arguments])


def weights(folder: Path) -> bytes:
    """The weights of a C project, packed."""
    return (folder / "c" / "weights.bin").read_bytes()


def test_replay_gives_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """vit-compile saves; vit-compile, and vit-opt from that, make the same model again."""
    calib, saved = some(tmp_path, "calib.npz"), tmp_path / "saved.yaml"
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    options = ["--target", "c", "--passes", "smooth{alpha=0.3}", "--calib-images", "3"]
    qdq = tmp_path / "model.onnx"
    files = ["--save-recipe", saved, "--export-qdq", qdq]
    assert vit_compile(MODEL, "-o", first, "--calib", calib, *options, *files) == 0
    assert read_recipe(first / "recipe.yaml").spec() == read_recipe(saved).spec()
    assert vit_compile(MODEL, "-o", second, "--recipe", first / "recipe.yaml") == 0
    assert weights(second) == weights(first)
    assert (second / "model.mlir").read_text() == (first / "model.mlir").read_text()
    changed = ["--recipe", saved, "--passes", "smooth{alpha=0.9 search=false}"]
    assert vit_compile(MODEL, "-o", other, *changed) == 0
    assert weights(other) != weights(first)
    again, replayed = tmp_path / "again.onnx", tmp_path / "replayed.yaml"
    files = ["--export-qdq", again, "--save-recipe", replayed]
    assert vit_opt(MODEL, "--recipe", saved, *files) == 0
    assert again.read_bytes() == qdq.read_bytes()
    assert read_recipe(replayed).calibration == read_recipe(saved).calibration
    capsys.readouterr()
    assert vit_opt(MODEL, "--recipe", saved, "-p", "smooth") == 2
    assert "leave -p out" in capsys.readouterr().err
