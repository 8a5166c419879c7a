"""`vit-compile`, `vit-run`, `vit-as` and `vit-bench` on the digits example, and the Python API."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vit_opt.tools import api, assemble, bench, check, compile, execution, run
from vit_opt.tools.architectures import arch_for
from vit_opt.tools.artefact import Artefact
from vit_opt.tools.recipe import read_recipe

DIGITS = Path(__file__).parent.parent / "examples" / "digits"
MODEL = DIGITS / "model.onnx"
IMAGES = 12


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model, compiled for all targets."""
    folder = tmp_path_factory.mktemp("compiled") / "out"
    arguments = [str(MODEL), "-o", str(folder), "--calib", str(DIGITS / "calib.npz")]
    assert compile.run(arguments) == 0
    assert {path.name for path in folder.parent.iterdir()} == {"out"}
    return folder


@pytest.fixture(scope="module")
def images() -> dict[str, Any]:
    """Some test images as the model takes them."""
    pixels = np.load(DIGITS / "test.npz")["image"][::83][:IMAGES]
    return {"image": (pixels.astype(np.float32) - 128) / 128}


@pytest.fixture(scope="module")
def results(out: Path, images: dict[str, Any]) -> dict[str, api.RunResult]:
    """The images on all backends."""
    return {name: api.run(out, name, images, jobs=1) for name in execution.BACKENDS}


def test_folder_is_complete(out: Path) -> None:
    for name in (
        "model.mlir",
        "model.weights.npz",
        "report.json",
        "report.txt",
        "c/model.c",
        "c/Makefile",
        "accel/model.img",
        "accel/model.asm",
    ):
        assert (out / name).exists(), name
    report = Artefact(out).read_report()
    assert report["inputs"]["image"]["shape"] == [1, 1, 28, 28]
    assert report["quality"]["logits"]["sqnr_db"] > 25
    assert {"vit.layernorm", "vit.lut", "vit.add"} <= {row["operation"] for row in report["layers"]}
    assert len(report["weights"]) == 26
    assert report["c"]["arena_bytes"] > 0
    assert 'vit.stage = "scheduled"' in (out / "model.mlir").read_text()


def test_backends_give_the_same_bits(results: dict[str, api.RunResult]) -> None:
    reference = results["reference"]
    assert reference.codes["logits"].shape == (IMAGES, 10)
    for result in results.values():
        assert result.codes["logits"].dtype == reference.codes["logits"].dtype
        np.testing.assert_array_equal(result.codes["logits"], reference.codes["logits"])
        np.testing.assert_array_equal(result.reals["logits"], reference.reals["logits"])


def test_integers_stand_for_the_same_input(
    out: Path, images: dict[str, Any], results: dict[str, api.RunResult]
) -> None:
    port = Artefact(out).read_report()["inputs"]["image"]
    codes = np.floor(images["image"] / port["scale"] + 0.5) + port["zero_point"]
    codes = np.clip(codes, -128, 127).astype(np.int64)
    for backend in execution.BACKENDS:
        result = api.run(out, backend, {"image": codes[:2]})
        np.testing.assert_array_equal(result.codes["logits"], results["c"].codes["logits"][:2])


def test_processes_and_order(
    out: Path, images: dict[str, Any], results: dict[str, api.RunResult]
) -> None:
    twice = {"image": np.concatenate([images["image"], images["image"][::-1]])}
    result = api.run(out, "reference", twice, jobs=2)
    codes = results["reference"].codes["logits"]
    np.testing.assert_array_equal(result.codes["logits"], np.concatenate([codes, codes[::-1]]))


def test_measures(out: Path, results: dict[str, api.RunResult]) -> None:
    assert results["c"].measures["latency_ms"] > 0
    accel = results["accel"].measures
    assert accel["cycles"] > 0
    assert 0 < accel["utilisation"] <= 1
    assert accel["energy_uj"] > 0
    ahead = json.loads((out / "report.json").read_text())["accel"]["metrics"]
    assert (ahead["cycles"], ahead["utilisation"]) == (accel["cycles"], accel["utilisation"])
    assert "GOPS/W" in (out / "report.txt").read_text()


def test_run_writes_json_and_arrays(
    out: Path, images: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", allow_pickle=False, **images)
    arguments = ["--input", str(tmp_path / "in.npz"), "--output", str(tmp_path / "out.npz")]
    assert run.run([str(out), "--on", "c", *arguments, "--check", str(MODEL), "--json"]) == 0
    text, error = capsys.readouterr()
    assert error == ""
    facts = json.loads(text)
    assert set(facts) == {"backend", "outputs", "latency_ms", "seconds", "check"}
    assert facts["check"]["logits"]["top1_agreement"] == 1
    with np.load(tmp_path / "out.npz") as archive:
        assert set(archive.files) == {"logits", "logits.int"}
        assert archive["logits"].dtype == np.float32
        assert run.sha256_of(archive["logits.int"]) == facts["outputs"]["logits"]["sha256"]


def test_float_model_by_interpreter_and_onnxruntime(images: dict[str, Any]) -> None:
    few = {"image": images["image"][:2]}
    ours = check._by_interpreter(MODEL, few)  # pyright: ignore[reportPrivateUsage]
    theirs = check._by_onnxruntime(MODEL, few)  # pyright: ignore[reportPrivateUsage]
    np.testing.assert_allclose(ours["logits"], theirs["logits"], atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"picture": np.zeros((1, 1, 28, 28), np.float32)}, "the model takes image"),
        ({"image": np.zeros((2, 1, 28, 27), np.float32)}, r"shape \[2, 1, 28, 27\]"),
        ({"image": np.zeros((0, 1, 28, 28), np.float32)}, "batch"),
        ({"image": np.full((1, 1, 28, 28), 128)}, "outside"),
    ],
)
@pytest.mark.parametrize("backend", execution.BACKENDS)
def test_wrong_inputs(out: Path, backend: str, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(api.VitError, match=message):
        api.run(out, backend, inputs)


def test_damaged_folders(
    out: Path, images: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "in.npz", allow_pickle=False, **images)
    broken = tmp_path / "broken"
    shutil.copytree(out, broken)
    (broken / "model.weights.npz").unlink()
    image = broken / "accel" / "model.img"
    image.write_bytes(image.read_bytes()[:-1])
    (broken / "c" / "weights.bin").write_bytes(b"")
    for backend in execution.BACKENDS:
        arguments = [str(broken), "--on", backend, "--input", str(tmp_path / "in.npz")]
        assert run.run(arguments) == 1
        output, error = capsys.readouterr()
        assert output == ""
        assert error.count("\n") == 1, error


def test_compile_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    assert compile.run([str(MODEL), "-o", str(foreign)]) == 1
    assert "not a compiled model" in capsys.readouterr().err
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(MODEL.read_bytes()[:9000])
    assert compile.run([str(damaged), "-o", str(tmp_path / "out")]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"foreign", "damaged.onnx"}
    assert {path.name for path in foreign.iterdir()} == {"thesis.tex"}


def test_dyadic_scales(images: dict[str, Any], tmp_path: Path) -> None:
    options = api.CompileOptions(calib=DIGITS / "calib.npz", scales="dyadic")
    report = api.compile_model(MODEL, tmp_path / "out", options)
    assert "accel" not in report
    few = {"image": images["image"][:3]}
    reference, c = (api.run(tmp_path / "out", name, few) for name in ("reference", "c"))
    np.testing.assert_array_equal(reference.codes["logits"], c.codes["logits"])
    with pytest.raises(api.VitError, match="without --target accel"):
        api.run(tmp_path / "out", "accel", few)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("choices", None, "no usable 'choices'; compile the model again"),
        ("choices", {"assign-bits": [3]}, "assign-bits[0]: expected names with values"),
        ("scales", "x", "not a report of vit-compile"),
        ("quality", {"logits": {}}, "not a report of vit-compile"),
        ("quality", {"logits": {"sqnr_db": None}}, "not a report of vit-compile"),
        ("quality", 5, "no usable 'quality'; compile the model again"),
        ("layers", [1], "layers[0]: expected names with values"),
    ],
)
def test_a_damaged_report_goes_nowhere(
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    value: Any,
    message: str,
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    report = Artefact(out).read_report() | {key: value}
    (damaged / "report.json").write_text(json.dumps(report))
    for name in ("model.mlir", "model.weights.npz", "recipe.yaml"):
        (damaged / name).symlink_to(out / name)
    assert compile.run([str(damaged), "-o", str(tmp_path / "other"), "--target", "accel"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_compiled_folder_goes_to_another_machine(
    out: Path,
    images: dict[str, Any],
    results: dict[str, api.RunResult],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(out), "-o", str(tmp_path / "edge"), "--target", "accel", "--arch", "edge"]
    assert compile.run([*arguments, "--seed", "1"]) == 2
    assert "--seed: the model is a compiled folder" in capsys.readouterr().err
    assert compile.run(arguments) == 0
    assert "cycles at 100 MHz" in capsys.readouterr().out
    before, after = (Artefact(path).read_report() for path in (out, tmp_path / "edge"))
    assert before["layers"] == after["layers"] and "c" not in after
    assert (before["accel"]["architecture"], after["accel"]["architecture"]) == ("p2vit", "edge")
    assert read_recipe(tmp_path / "edge" / "recipe.yaml").arch == "edge"
    assert arch_for(tmp_path / "edge", None).name == "edge"
    first = api.run(tmp_path / "edge", "accel", {"image": images["image"][:1]}, jobs=1)
    np.testing.assert_array_equal(first.codes["logits"], results["reference"].codes["logits"][:1])


def test_images_and_assembly_are_the_same(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, image = tmp_path / "model.asm", tmp_path / "model.img"
    original = out / "accel" / "model.img"
    assert assemble.run(["disassemble", str(original), "-o", str(text)]) == 0
    assert assemble.run(["assemble", str(text), "-o", str(image)]) == 0
    assert image.read_bytes() == original.read_bytes()
    assert text.read_text() == (out / "accel" / "model.asm").read_text()
    assert assemble.run(["inspect", str(image), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["outputs"] == {"logits": "i16[1, 10]"}
    assert 0 < facts["code_bytes"] < facts["data_bytes"]
    assert assemble.run(["disassemble", str(original), "--unroll"]) == 0
    unrolled = capsys.readouterr().out
    assert (
        ".loop" not in unrolled and unrolled.count("\nld.") > text.read_text().count("\n  ld.") > 0
    )
    text.write_text(text.read_text().replace("mac.matmul", "mac.fly", 1))
    assert assemble.run(["assemble", str(text), "-o", str(image)]) == 1
    assert "mac.fly" in capsys.readouterr().err


def test_assembly_without_its_data(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "model.asm"
    shutil.copy(out / "accel" / "model.asm", text)
    assert assemble.run(["assemble", str(text), "-o", str(tmp_path / "model.img")]) == 1
    assert not (tmp_path / "model.img").exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_bench_digits(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["digits", str(DIGITS), "--compiled", str(out), "--count", "10"]
    assert bench.run([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["bits_equal"] is True
    assert facts["images"] == 10
    assert bench.run(arguments) == 0
    assert "output bits of the three backends: equal" in capsys.readouterr().out


def test_api_step_by_step(images: dict[str, Any], tmp_path: Path) -> None:
    context = api.new_context()
    module = api.import_onnx(MODEL, context=context)
    batch = {"image": images["image"][:1]}
    assert api.calibrate(module, context, [batch]) is None
    api.run_pipeline(module, context, "smooth,quantize,pot-fold{weights=nearest}")
    facts = api.build_c(module, context, tmp_path)
    assert facts["weight_bytes"] > 100_000
    with pytest.raises(api.VitError, match="pot-flod"):
        api.run_pipeline(module, context, "pot-flod")
