"""The digits examples: their files fit together, the float models are as good as READMEs say."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from vit_opt.tools.compile import compile_model
from vit_opt.tools.compile_options import CompileOptions
from vit_opt.tools.run import run_folder

EXAMPLES = Path(__file__).parents[1] / "examples"
DIGITS = EXAMPLES / "digits"


HITS = pytest.mark.parametrize(
    ("name", "hits"), [("digits", 983), ("digits_swin", 974), ("digits_efficientvit", 981)]
)


@HITS
def test_float_accuracy_on_the_test_split(name: str, hits: int) -> None:
    model = EXAMPLES / name / "model.onnx"
    assert model.stat().st_size < 1_000_000
    assert f"{hits / 10} %" in (EXAMPLES / name / "README.md").read_text()
    with np.load(DIGITS / "test.npz") as data:
        image, label = data["image"], data["label"]
    assert image.shape == (1000, 1, 28, 28) and image.dtype == np.uint8
    assert np.bincount(label).tolist() == [100] * 10
    session = onnxruntime.InferenceSession(model)
    [logits] = session.run(None, {"image": (image.astype(np.float32) - 128) / 128})
    assert (logits.argmax(1) == label).sum() == hits


def test_calibration_images_are_on_the_input_grid_and_not_in_the_test_split() -> None:
    with np.load(DIGITS / "calib.npz") as data, np.load(DIGITS / "test.npz") as test:
        image, held_out = data["image"], test["image"]
    assert image.shape == (32, 1, 28, 28) and image.dtype == np.float32
    pixels = image * 128 + 128
    assert np.array_equal(pixels, pixels.round())
    seen = {each.tobytes() for each in pixels.astype(np.uint8)}
    assert not seen & {each.tobytes() for each in held_out}


@HITS
def test_integers_are_within_half_a_point_of_the_float_model(
    tmp_path: Path, name: str, hits: int
) -> None:
    options = CompileOptions(calib=DIGITS / "calib.npz", target="c")
    compile_model(EXAMPLES / name / "model.onnx", tmp_path, options)
    with np.load(DIGITS / "test.npz") as data:
        image, label = (data["image"].astype(np.float32) - 128) / 128, data["label"]
    logits = run_folder(tmp_path, "c", {"image": image}).reals["logits"]
    assert abs(int((logits.argmax(1) == label).sum()) - hits) <= 5


@pytest.mark.parametrize(("name", "hits"), [("digits", 983), ("digits_swin", 974)])
def test_dyadic_scales_give_the_same_integers_in_c(tmp_path: Path, name: str, hits: int) -> None:
    options = CompileOptions(calib=DIGITS / "calib.npz", scales="dyadic")
    compile_model(EXAMPLES / name / "model.onnx", tmp_path, options)
    with np.load(DIGITS / "test.npz") as data:
        image, label = (data["image"].astype(np.float32) - 128) / 128, data["label"]
    result = run_folder(tmp_path, "c", {"image": image})
    assert abs(int((result.reals["logits"].argmax(1) == label).sum()) - hits) <= 5
    reference = run_folder(tmp_path, "reference", {"image": image[:20]})
    assert np.array_equal(result.codes["logits"][:20], reference.codes["logits"])
