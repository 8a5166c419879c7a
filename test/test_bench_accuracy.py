"""`vit-bench ablation` and `accuracy`: variants are what they say, tables show the changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_opt.dialects.errors import VitError
from vit_opt.tools import bench
from vit_opt.tools.benchmarks import ablation, accuracy
from vit_opt.tools.benchmarks.ablation import FEATURES, Feature
from vit_opt.tools.benchmarks.variants import Variants, merged, passes_for

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
MODEL = DIGITS / "model.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A few test images with labels."""
    path = tmp_path / "test.npz"
    with np.load(DIGITS / "test.npz") as arrays:
        np.savez(path, image=arrays["image"][::250], label=arrays["label"][::250])
    return path


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    """Two calibration images."""
    with np.load(DIGITS / "calib.npz") as arrays:
        np.savez(tmp_path / "calib.npz", image=arrays["image"][:2])
    return tmp_path / "calib.npz"


@pytest.mark.parametrize("feature", FEATURES, ids=lambda each: each.name)
def test_every_feature_changes_the_passes_of_the_road(feature: Feature) -> None:
    assert bool(feature.on) != bool(feature.off)
    usual = passes_for({})
    switched = passes_for(feature.on or feature.off)
    assert switched != usual
    assert len({str(each) for each in switched} ^ {str(each) for each in usual}) in (1, 2)


def test_merged_options() -> None:
    first = {"smooth": {"alpha": 0.1}, "quantize": {"gelu": "shift"}}
    second = {"smooth": None, "quantize": {"softmax": "int8"}}
    expected = {"smooth": None, "quantize": {"gelu": "shift", "softmax": "int8"}}
    assert merged(first, second) == expected == merged(second, first)


def test_passes_for_what_does_not_exist() -> None:
    with pytest.raises(VitError, match="no pass polish on the pot road"):
        passes_for({"polish": {}})
    with pytest.raises(VitError, match=r"smooth: .*sandpaper"):
        passes_for({"smooth": {"sandpaper": 80}})


def test_variants_switch_one_feature() -> None:
    names = [FEATURES[0], next(each for each in FEATURES if not each.default)]
    found = {(each.base, each.feature): each.options for each in ablation.variants(names)}
    assert len(found) == 6
    default, optional = names
    assert found["default", None] == {} and found["default", default] == default.off
    assert found["default", optional] == optional.on
    plain = found["plain", None]
    for each in FEATURES:
        assert merged(plain, each.off) == plain
    assert merged(found["plain", default], default.off) == plain
    assert found["plain", optional] == merged(plain, optional.on)


def test_features_by_words() -> None:
    assert [each.name for each in ablation.chosen("error-compensated, PERCENTILE")] == [
        "error-compensated weights",
        "ranges by percentile",
    ]
    assert ablation.chosen(None) == list(FEATURES)
    with pytest.raises(VitError, match="nothing with 'x-ray'; there are: "):
        ablation.chosen("x-ray")


def test_table_of_changes() -> None:
    rows: list[dict[str, Any]] = [
        {
            "base": "default",
            "feature": None,
            "sqnr_mean_db": 30.0,
            "each_db": [29.0, 31.0],
            "top1": 0.9,
            "seconds": 1.0,
        },
        {
            "base": "default",
            "feature": FEATURES[0].name,
            "sqnr_mean_db": 28.5,
            "each_db": [28.5, 28.5],
            "top1": 0.85,
            "seconds": 1.0,
        },
        {"base": "default", "feature": FEATURES[1].name, "error": "no"},
    ]
    rows.append({**rows[0], "feature": FEATURES[2].name, "seconds": 2.0})
    header, lines = ablation.table(rows, FEATURES[:3], "default")
    assert header[1:] == ["mean dB", "top-1", "s"]
    assert lines[0] == ["default", "30.0", "90.0%", "1.0"]
    assert lines[1] == [f"without {FEATURES[0].name}", "28.5 (-1.5 ± 1.0)", "85.0%", "1.0"]
    assert lines[2][1:] == ["fails", "fails", "fails"]
    assert lines[3][1:] == ["same", "same", "2.0"]


def test_ablation_command(data: Path, calib: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--calib", str(calib), "--eval", str(data), "--on", "reference"]
    chosen = ["--features", "compensated", "--base", "default", "--markdown"]
    chosen += ["--passes", "assign-bits{bits=4}"]
    assert bench.run(["ablation", str(MODEL), *options, *chosen]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 4 and "| without error-compensated weights |" in lines[3]
    assert lines[2].split("|")[4].strip() == "100.0%"
    options[1] = "nothere.npz"
    assert bench.run(["ablation", str(MODEL), *options, *chosen]) == 1
    assert capsys.readouterr().err == "vit-bench: error: nothere.npz: no such file or folder\n"


def test_a_variant_leaves_the_next_one_as_it_was(data: Path, calib: Path) -> None:
    with np.load(data) as arrays:
        inputs = {"image": (arrays["image"].astype(np.float32) - 128) / 128}
    model = Variants(MODEL, calib, inputs, backend="reference")
    first, other, again = (model.measure(each) for each in ({}, {"smooth": None}, {}))
    assert first["sqnr_db"] == again["sqnr_db"] != other["sqnr_db"]


def test_accuracy_command(data: Path, calib: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--calib", str(calib), "--eval", str(data), "--on", "reference"]
    assert bench.run(["accuracy", str(MODEL), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["digits", "digits"]
    assert "powers of two" in lines[2] and "arbitrary" in lines[3]
    failing = {"pot": {"top1": 1.0}, "dyadic": {"error": "no"}}
    assert accuracy.table([("m", failing)])[1][1] == ["m", "arbitrary", "fails"]
