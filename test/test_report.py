"""`vit-report`: measures on data, the table, and a page that needs nothing but itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_opt.dialects.errors import VitError
from vit_opt.tools import compile
from vit_opt.tools.report import command, evaluation, page, plots

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
COUNT = 40


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model, compiled without any backend's help but the reference's."""
    out = tmp_path_factory.mktemp("report") / "out"
    options = ["--calib", str(DIGITS / "calib.npz"), "--target", "c", "--calib-images", "4"]
    page = ["--html", str(out.with_suffix(".html"))]
    assert compile.run([str(DIGITS / "model.onnx"), "-o", str(out), *options, *page]) == 0
    return out


@pytest.fixture
def folder(compiled: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(compiled, tmp_path / "out"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Some test images with labels, as bytes."""
    path = tmp_path / "test.npz"
    with np.load(DIGITS / "test.npz") as arrays:
        np.savez(path, image=arrays["image"][::25], label=arrays["label"][::25])
    return path


def test_quality_of_known_arrays() -> None:
    floats = np.array([[3.0, 4.0], [0.0, 10.0]])
    reals = floats + np.array([[0.0, 0.5], [0.0, -0.1]])
    found = evaluation.quality(floats, reals, np.array([1, 0]))
    assert found["sqnr_worst_db"] == pytest.approx(20.0)
    assert found["sqnr_mean_db"] == pytest.approx(30.0)
    assert found["sqnr_db"] == pytest.approx(10 * np.log10(125 / 0.26))
    assert found["top1"] == found["float_top1"] == 0.5
    assert found["top1_agreement"] == 1.0 and found["cosine"] > 0.99
    masks = np.zeros((1, 2, 2))
    masks[0, 0] = 0.9
    other = masks.copy()
    other[0, 0, 0] = 0.4
    assert evaluation.quality(masks, other)["iou"] == 0.5


def test_bytes_are_pixels_where_the_model_takes_no_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([[0, 128, 255]], np.uint8))
    real = {"shape": [1, 3], "scale": 2**-7, "zero_point": 0}
    inputs, _ = evaluation.read_data(tmp_path / "d.npz", {"x": real})
    np.testing.assert_array_equal(inputs["x"], np.float32([[-1, 0, 127 / 128]]))
    inputs, _ = evaluation.read_data(tmp_path / "d.npz", {"x": real | {"scale": 1.0}})
    np.testing.assert_array_equal(inputs["x"], np.float32([[0, 128, 255]]))


def test_evaluation_is_kept_and_shown(
    folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--eval", str(data), "--on", "reference", "--worst", "3"]
    assert command.run([str(folder), *options]) == 0
    text = capsys.readouterr().out
    assert "top-1 of the float model" in text and "test.npz on reference" in text
    assert text.count("/blocks/") == 3
    assert command.run([str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    [found] = report["evaluations"]
    facts = found["outputs"]["logits"]
    assert facts["inputs"] == COUNT and facts["top1"] >= 0.95 and facts["sqnr_db"] > 25
    assert command.run([str(folder), *options]) == 0
    assert len(json.loads((folder / "report.json").read_text())["evaluations"]) == 1
    capsys.readouterr()


def test_mistakes(folder: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    assert command.run([str(tmp_path)]) == 1
    assert "is it the output of vit-compile" in capsys.readouterr().err
    assert command.run([str(folder), "--labels", str(data)]) == 2
    np.savez(tmp_path / "labels.npz", label=np.zeros(3))
    few = ["--eval", str(data), "--labels", str(tmp_path / "labels.npz")]
    assert command.run([str(folder), *few]) == 1
    assert "labels have shape [3], expected [40]" in capsys.readouterr().err
    np.savez(tmp_path / "other.npz", picture=np.zeros((1, 1, 28, 28)))
    assert command.run([str(folder), "--eval", str(tmp_path / "other.npz")]) == 1
    assert "no array for input 'image'; it has picture" in capsys.readouterr().err


IMAGES = np.zeros((4, 1, 28, 28), np.float32)
ANSWERS = np.arange(4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": IMAGES[:, :, 4:]}, "'image' is [4, 1, 24, 28], expected [N, 1, 28, 28]"),
        ({"image": IMAGES[0, 0]}, "'image' is [28, 28], expected [N, 1, 28, 28]"),
        ({"image": IMAGES[:0], "label": ANSWERS[:0]}, "with N at least 1"),
        ({"image": np.float32(3)}, "'image' is [], expected"),
        ({"image": IMAGES * np.nan}, "has values that are not finite"),
        ({"image": IMAGES.astype(complex)}, "'image' holds complex128, no real numbers"),
        ({"image": np.array(list("abcd"))}, "'image' holds <U1, no real numbers"),
        ({"image": IMAGES, "label": ANSWERS + 0.5}, "labels are float64, expected integers"),
        ({"image": IMAGES, "label": ANSWERS[:, None]}, "labels have shape [4, 1], expected [4]"),
        ({"image": IMAGES, "label": ANSWERS + 7}, "labels from 7 to 10 for 10 classes"),
        ({"image": IMAGES, "label": ANSWERS - 1}, "labels from -1 to 2 for 10 classes"),
    ],
)
def test_data_that_does_not_fit(
    compiled: Path, tmp_path: Path, capsys: Any, arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    before = (compiled / "report.json").read_bytes()
    assert command.run([str(compiled), "--eval", str(tmp_path / "data.npz")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert (compiled / "report.json").read_bytes() == before


LAYER: dict[str, Any] = {
    **{"layer": "a", "operation": "vit.linear", "bits": 8, "fracs": [5], "clipped": 0.0},
    **dict.fromkeys(("low", "high", "grid_db", "alone_db", "sqnr_db"), 1.0),
    **{"histogram": [1], "grid": [0.0, 1.0, 0.1]},
}
WEIGHT: dict[str, Any] = {"layer": "a", "weights": 64, "bytes": 64, "bits": 8.0, "error": 0.1}

GOOD: dict[str, Any] = {
    "model": "m.onnx",
    "scales": "pot",
    "inputs": {},
    "outputs": {},
    "quality": {},
    "layers": [],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "not a report of vit-compile"),
        ({"model": 3}, "not a report of vit-compile"),
        ({"inputs": {"x": [3]}}, "not a report of vit-compile"),
        ({"outputs": {"y": {"shape": [1, "a"]}}}, "not a report of vit-compile"),
        ({"inputs": {"x": {"shape": [1], "scale": "a"}}}, "not a report of vit-compile"),
        ({"layers": 4}, "no usable 'layers'; compile the model again"),
        ({"layers": [3]}, "layers[0]: expected names with values"),
        ({"layers": [{"layer": "a"}]}, "layers[0]: no usable 'operation'"),
        ({"layers": [{**LAYER, "fracs": [[5]]}]}, "layers[0]: no usable 'fracs'"),
        ({"layers": [{**LAYER, "weight_db": "x"}]}, "layers[0]: no usable 'weight_db'"),
        ({"choices": None}, "no usable 'choices'"),
        ({"choices": {"assign-bits": []}}, "no usable 'assign-bits'"),
        ({"choices": {"assign-bits": None}}, "no usable 'assign-bits'"),
        ({"choices": {"assign-bits": [3, 3]}}, "assign-bits[0]: expected names"),
        ({"choices": {"assign-bits": [{**WEIGHT, "bits": "a"}, {}]}}, "[0]: no usable 'bits'"),
        ({"choices": {"assign-bits": [{**WEIGHT, "error": "a"}, {}]}}, "[0]: no usable 'error'"),
        ({"choices": {"assign-bits": [WEIGHT, {"bytes": 64}]}}, "[1]: no usable 'share'"),
        ({"quality": {"y": {"sqnr_db": "high"}}}, "y: no usable 'sqnr_db'"),
        ({"evaluations": [{"data": "x"}]}, "evaluations[0]: no usable 'backend'"),
        ({"evaluations": None}, "no usable 'evaluations'"),
    ],
)
def test_reports_that_are_none(tmp_path: Path, capsys: Any, change: Any, message: str) -> None:
    report = {**GOOD, **change} if isinstance(change, dict) else change
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert command.run([str(tmp_path), "--html", str(tmp_path / "out.html")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_an_empty_report_and_a_folder_in_the_place_of_the_page(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "report.json").write_text(json.dumps(GOOD))
    assert command.run([str(tmp_path)]) == 0
    assert command.run([str(tmp_path), "--html", str(tmp_path)]) == 1
    assert "is a folder; expected the name of a file" in capsys.readouterr().err


class Reader(HTMLParser):
    """Tags of a page, by name; what refers to other files."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not (value or "").startswith("#"):
                self.links.append(str(value))


def test_page_is_complete_and_alone(folder: Path, tmp_path: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    report["choices"] = {
        "assign-bits": [
            {"layer": "a", "weights": 64, "error": 0.1, "bits": 4},
            {"layer": "b", "weights": 32, "error": 0.4, "bits": 8},
        ]
    }
    report["model"] = "<b>.onnx"
    path = tmp_path / "report.html"
    page.write_page(report, path)
    text = path.read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.links == [] and "url(http" not in text
    assert [text.count(f"<figure class='{kind}'>") for kind in ("wide", "many")] == [2, 1]
    assert "&lt;b&gt;.onnx" in text
    assert reader.tags.count("tr") == 1 + len(report["layers"])
    assert plots.INK not in text and "currentColor" in text
    assert "bits chosen" in text
    assert len(text) < 1_000_000


def test_vit_compile_writes_the_page_too(compiled: Path, tmp_path: Path, capsys: Any) -> None:
    again = tmp_path / "again.html"
    assert command.run([str(compiled), "--html", str(again)]) == 0
    assert compiled.with_suffix(".html").read_text() == again.read_text()
    options = ["-o", str(tmp_path / "out"), "--html", str(tmp_path / "none" / "x.html")]
    capsys.readouterr()
    assert compile.run([str(DIGITS / "model.onnx"), *options]) == 1
    assert "does not exist" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_page_without_layers_weights_or_noise(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    row = next(row for row in report["layers"] if row["operation"] == "vit.lut")
    exact = row | {"alone_db": None, "sqnr_db": None, "grid_db": None, "low": 1.0, "high": 1.0}
    report["layers"] = [exact]
    assert page.page(report).count("<figure ") == 1
    report["layers"] = []
    assert "<figure " not in page.page(report)


def test_matplotlib_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(VitError, match=r"pip install 'vit-opt\[report\]'"):
        plots.require_plotting()
