"""Calibration data from .npz, .npy, images, and synthetic; and every way it can be wrong."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vit_opt.dialects.errors import VitError
from vit_opt.frontends.calibration_data import (
    ModelInput,
    read_calibration_data,
    synthetic_batches,
)
from vit_opt.frontends.images import IMAGENET, parse_preprocess
from vit_opt.tools.opt import VitOptMain
from vit_opt.tools.steps import constant_inputs

DIGITS = Path(__file__).parent.parent / "examples" / "digits"

Array = NDArray[Any]
F32 = np.dtype(np.float32)
IMAGE = (ModelInput("image", (1, 3, 8, 8), F32),)
PAIR = (ModelInput("image", (1, 3, 8, 8), F32), ModelInput("mask", (1, 5), F32))
RNG = np.random.default_rng(3)


def real(*shape: int) -> Array:
    """Normal random numbers."""
    return RNG.standard_normal(shape).astype(np.float32)


def read(path: Path, inputs: tuple[ModelInput, ...], preprocess: str | None = None) -> Any:
    """All batches of a path."""
    return list(read_calibration_data(path, inputs, preprocess))


def message(path: Path, inputs: tuple[ModelInput, ...], preprocess: str | None = None) -> str:
    """The error that reading gives."""
    with pytest.raises(VitError) as caught:
        read(path, inputs, preprocess)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_npz_is_split(tmp_path: Path) -> None:
    image, mask = real(3, 3, 8, 8), real(3, 5).astype(np.float64)
    np.savez(tmp_path / "d.npz", image=image, mask=mask)
    batches = read(tmp_path / "d.npz", PAIR)
    assert len(batches) == 3
    for index, batch in enumerate(batches):
        np.testing.assert_array_equal(batch["image"], image[index : index + 1])
        np.testing.assert_array_equal(batch["mask"], mask[index : index + 1].astype(np.float32))
        assert batch["mask"].dtype == np.float32


def test_folder_of_npy(tmp_path: Path) -> None:
    first, second = real(2, 3, 8, 8), real(1, 3, 8, 8)
    np.save(tmp_path / "b.npy", second)
    np.save(tmp_path / "a.npy", first)
    batches = read(tmp_path, IMAGE)
    np.testing.assert_array_equal(
        np.concatenate([batch["image"] for batch in batches]), np.concatenate([first, second])
    )
    assert len(read(tmp_path / "a.npy", IMAGE)) == 2


def test_npy_per_input(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", real(2, 3, 8, 8))
    np.save(tmp_path / "mask.npy", real(2, 5))
    assert [sorted(batch) for batch in read(tmp_path, PAIR)] == [["image", "mask"]] * 2


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (
            {"picture": real(1, 3, 8, 8)},
            "holds arrays picture, but the inputs of the model are image",
        ),
        ({"image": real(1, 3, 9, 8)}, "has shape [1, 3, 9, 8], the model takes [N, 3, 8, 8]"),
        ({"image": real(3, 8, 8)}, "has shape [3, 8, 8], the model takes [N, 3, 8, 8]"),
        ({"image": np.zeros((1, 3, 8, 8), np.uint8)}, "has dtype uint8, the model takes float32"),
        ({"image": np.full((1, 3, 8, 8), np.nan)}, "contains NaN, infinity"),
        ({"image": real(0, 3, 8, 8)}, "the calibration data is empty"),
        ({}, "holds arrays none"),
    ],
)
def test_wrong_npz(tmp_path: Path, arrays: dict[str, Array], reason: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    text = message(tmp_path / "d.npz", IMAGE)
    assert reason in text and "d.npz" in text


def test_batch_sizes_must_agree(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=real(2, 3, 8, 8), mask=real(3, 5))
    assert "batch sizes of the inputs differ: image 2, mask 3" in message(tmp_path / "d.npz", PAIR)


def test_unreadable_paths(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "x.npz", IMAGE)
    assert "no calibration data" in message(tmp_path, IMAGE)
    (tmp_path / "x.npz").write_bytes(b"PK\3\4 truncated")
    assert "cannot be read as .npz" in message(tmp_path / "x.npz", IMAGE)
    with (tmp_path / "x.npz").open("wb") as stream:
        np.save(stream, real(2, 3, 8, 8))
    assert "not a zip archive" in message(tmp_path / "x.npz", IMAGE)
    claim = BytesIO()
    np.lib.format.write_array_header_1_0(
        claim, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3, 8, 8)}
    )
    for content, reason in ((b"no array", "image is no array"), (claim.getvalue(), "too large")):
        with ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("image.npy", content)
        assert reason in message(tmp_path / "x.npz", IMAGE)
    (tmp_path / "x.npy").write_bytes(b"")
    assert "not an .npy file" in message(tmp_path / "x.npy", IMAGE)
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object))
    assert "cannot be read as .npy" in message(tmp_path / "x.npy", IMAGE)
    (tmp_path / "x.png").write_bytes(b"no image")
    assert "cannot be read as an image" in message(tmp_path / "x.png", IMAGE, "unit")


def save_image(path: Path, height: int, width: int) -> Array:
    """A random RGB image on disk, and its pixels [H, W, 3]."""
    pixels = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_images_without_resampling_are_exact(tmp_path: Path) -> None:
    pixels = save_image(tmp_path / "a.png", 8, 8)
    (batch,) = read(tmp_path, IMAGE, "imagenet,resize=8,crop=8")
    mean, std = (np.array(values, np.float32) for values in IMAGENET)
    expected = ((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(batch["image"], expected, atol=1e-6)


def test_crop_is_taken_from_the_middle(tmp_path: Path) -> None:
    pixels = save_image(tmp_path / "a.png", 12, 10)
    (batch,) = read(tmp_path, IMAGE, "crop=8,scale=1")
    expected = pixels[2:10, 1:9].transpose(2, 0, 1)[None]
    np.testing.assert_array_equal(batch["image"], expected.astype(np.float32))


def test_fit_pads_right_and_below_with_zero_pixels(tmp_path: Path) -> None:
    pixels = save_image(tmp_path / "a.png", 4, 8)
    (batch,) = read(tmp_path, IMAGE, "fit=8,scale=1,mean=10")
    np.testing.assert_array_equal(
        batch["image"][0, :, :4], pixels.transpose(2, 0, 1) - np.float32(10)
    )
    np.testing.assert_array_equal(batch["image"][0, :, 4:], np.float32(-10))


def test_presets_give_224(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", 40, 60)
    inputs = (ModelInput("image", (1, 3, 224, 224), F32),)
    for preset in ("imagenet", "imagenet-pad", "inception"):
        (batch,) = read(tmp_path, inputs, preset)
        assert batch["image"].shape == (1, 3, 224, 224)


def test_grey_model_takes_colour_images(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", 8, 8)
    (batch,) = read(tmp_path, (ModelInput("image", (1, 1, 8, 8), F32),), "unit")
    assert (
        batch["image"].shape == (1, 1, 8, 8)
        and 0 <= batch["image"].min() < batch["image"].max() <= 1
    )


@pytest.mark.parametrize(
    ("preprocess", "reason"),
    [
        (None, "images need --preprocess"),
        ("imagnet", "expected key=value, or a preset first"),
        ("resize=8,imagenet", "expected key=value, or a preset first"),
        ("size=8", "unknown key"),
        ("resize=0", "a size is a number of pixels"),
        ("scale=1/0", "division by zero"),
        ("mean=a", "'a' is not a number"),
        ("std=0", "std must not be 0"),
        ("filter=best", "filter is nearest"),
        ("crop=99", "are too few for crop=99x99"),
        ("resize=100000000", "would become"),
        ("fit=100000000", "would become"),
        ("resize=16x16", "gives [1, 3, 16, 16], the model takes [1, 3, 8, 8]"),
        ("resize=8x8,mean=1:2", "for 2 channels, the model takes 3"),
    ],
)
def test_wrong_preprocess(tmp_path: Path, preprocess: str | None, reason: str) -> None:
    save_image(tmp_path / "a.png", 10, 10)
    assert reason in message(tmp_path, IMAGE, preprocess)


def test_steps_do_not_depend_on_the_order_of_keys() -> None:
    assert parse_preprocess("crop=4,resize=8x6") == parse_preprocess("resize=8x6,crop=4x4")


def test_synthetic_images_are_reproducible() -> None:
    first, again = (synthetic_batches(PAIR, seed=5, count=2) for _ in range(2))
    other = synthetic_batches(PAIR, seed=6, count=2)
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        assert not np.array_equal(a["image"], c["image"])
        assert a["image"].shape == (1, 3, 8, 8) and a["mask"].shape == (1, 5)
        assert abs(float(a["image"].mean())) < 1e-5 and abs(float(a["image"].std()) - 1) < 1e-4


def test_constant_inputs_are_warned_of(tmp_path: Path) -> None:
    """Black images and those of one value a channel; not numbers, indices or single pixels."""
    sound = {"image": real(1, 3, 8, 8), "mask": np.ones((1, 1), np.float32)}
    black, grey = np.zeros((1, 3, 8, 8), np.float32), np.array([0.1, 0.2, 0.3], np.float32)
    tinted = np.broadcast_to(grey, (1, 8, 8, 3))
    for image in (black, tinted, tinted.transpose(0, 3, 1, 2)):
        note = constant_inputs([sound, {"image": image}, sound, {"image": image}])
        assert note is not None and "'image' in 2 of 4" in note and "\n" not in note
    pixel, indices = real(1, 5, 1, 1), np.ones((1, 9), np.int64)
    assert constant_inputs([sound, {"image": pixel, "indices": indices}]) is None


def test_black_calibration_files_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = np.load(DIGITS / "calib.npz")["image"].shape[1:]
    np.savez(tmp_path / "black.npz", image=np.zeros((3, *size), np.float32))
    options = ["-p", "calibrate", "--calib", str(tmp_path / "black.npz"), "-o"]
    VitOptMain([str(DIGITS / "model.onnx"), *options, str(tmp_path / "x.mlir")]).run()
    assert "warning: calibration data: nothing but one value" in capsys.readouterr().err
