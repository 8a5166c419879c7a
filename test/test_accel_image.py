"""Binary images: round trip, and every way in which one can be bad."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accel_programs import images, instructions
from hypothesis import given, settings
from hypothesis import strategies as st

from vit_opt.backends.accel.assembler import assemble, disassemble
from vit_opt.backends.accel.image import Image, ImageError, Port, Segment
from vit_opt.backends.accel.run import run_accel
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import P2VIT
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.encoding import encode_stream
from vit_opt.dialects.vit_accel.enums import DType, Engine

IMAGE = Image(
    "p2vit",
    (isa.Wait(Engine.MAC, 1), isa.Signal(Engine.MAC, 1)),
    (Segment(8, b"abc"),),
    (Port("x", 0, DType.I8, (4,), (3,)),),
    (Port("y", 0, DType.I8, (4,), (3,)),),
    64,
    24,
)


def resealed(raw: bytes) -> bytes:
    """The image with a right checksum."""
    return raw[:-32] + hashlib.sha256(raw[:-32]).digest()


@settings(max_examples=60, deadline=None)
@given(images(instructions))
def test_round_trip(image: Image) -> None:
    raw = image.to_bytes()
    assert Image.from_bytes(raw) == image and Image.from_bytes(raw).to_bytes() == raw


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "model.img"
    IMAGE.save(path)
    assert Image.load(path) == IMAGE and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ImageError, match=r"gone\.img: cannot read"):
        Image.load(tmp_path / "gone.img")


@pytest.mark.parametrize("size", [0, 7, 100, 179, 200, -1])
def test_truncated(size: int) -> None:
    with pytest.raises(ImageError, match="truncated"):
        Image.from_bytes(IMAGE.to_bytes()[:size])


def test_wrong_magic_version_and_checksum() -> None:
    raw = IMAGE.to_bytes()
    with pytest.raises(ImageError, match="magic"):
        Image.from_bytes(b"X" + raw[1:])
    with pytest.raises(ImageError, match="format version 9 and ISA version 6, this tool reads 1"):
        Image.from_bytes(resealed(raw[:8] + struct.pack("<H", 9) + raw[10:]))
    with pytest.raises(ImageError, match="checksum"):
        Image.from_bytes(raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:])


def test_illegal_instructions_are_named() -> None:
    raw = IMAGE.to_bytes()
    code = raw.index(encode_stream(IMAGE.code)) + len(IMAGE.code[0].encode())
    bad = raw[:code] + b"\xfe" + raw[code + 1 :]
    with pytest.raises(ImageError, match="instruction 1 at code offset 0x3: illegal opcode 0xfe"):
        Image.from_bytes(resealed(bad))
    bad = raw[:code] + bytes([isa.Matmul.opcode]) + raw[code + 1 :]
    with pytest.raises(ImageError, match=r"instruction 1 .* mac.matmul: field 'acc' is missing"):
        Image.from_bytes(resealed(bad))


def test_data_outside_dram() -> None:
    with pytest.raises(ImageError, match="data segment 0 lies outside the 64 B"):
        Image.from_bytes(replace(IMAGE, segments=(Segment(62, b"abc"),)).to_bytes())
    with pytest.raises(ImageError, match="'x' lies outside the 64 bytes"):
        Image.from_bytes(replace(IMAGE, inputs=(Port("x", 61, DType.I8, (4,)),)).to_bytes())


@pytest.mark.parametrize("name", ["p2vit\0 ", "a\nb", "\u2028"])
def test_names_of_architectures_are_text(name: str) -> None:
    raw = IMAGE.to_bytes()
    field = name.encode().ljust(32, b"\0")
    with pytest.raises(ImageError, match=r"architecture name .* is not text on one line"):
        Image.from_bytes(resealed(raw[:12] + field + raw[44:]))


@pytest.mark.parametrize("name", ["my own chip", "it's # 1", 'a "b"', "back\\", "zwölf"])
def test_names_of_architectures_survive_assembly(name: str) -> None:
    arch = replace(P2VIT, name=name)
    image = replace(IMAGE, arch=name, arch_digest=arch.digest())
    assert assemble(disassemble(image)) == Image.from_bytes(image.to_bytes()) == image


def test_number_formats_of_ports_have_bounds() -> None:
    for wrong in (
        {"zp": 1 << 40},
        {"zp": -(1 << 200)},
        {"fracs": (1001,)},
        {"fracs": (-(1 << 62),)},
    ):
        with pytest.raises(ImageError, match="'x' has a zero point or frac that no number format"):
            replace(IMAGE.inputs[0], **wrong)


def test_other_architectures_are_refused() -> None:
    other = replace(P2VIT, lanes=32)
    with pytest.raises(
        ImageError, match=r"made for architecture 'p2vit' .* compile the model again"
    ):
        run_accel(IMAGE, {"x": np.zeros(4)}, other)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_images_end_in_one_error(edits: list[tuple[int, int]]) -> None:
    raw = bytearray(IMAGE.to_bytes())
    for place, value in edits:
        raw[place % (len(raw) - 32)] = value
    try:
        Image.from_bytes(resealed(bytes(raw)))
    except VitError as error:
        assert "\n" not in str(error)


def test_inputs_are_checked() -> None:
    image = replace(IMAGE, code=())
    assert run_accel(image, {"x": np.array([1, -2, 3, 4])}).reals["y"].tolist() == [
        0.125,
        -0.25,
        0.375,
        0.5,
    ]
    real = run_accel(image, {"x": np.array([0.125, -0.25, 99.0, 0.06])})
    assert real.codes["y"].tolist() == [1, -2, 127, 0]
    for value, message in (
        (np.zeros(3), r"input 'x' has shape \[3\], the model expects \[4\]"),
        (np.full(4, 200), "codes 200 .. 200 outside of -128 .. 127"),
        (np.full(4, True), "dtype bool"),
    ):
        with pytest.raises(VitError, match=message):
            run_accel(image, {"x": value})
    with pytest.raises(VitError, match="input 'x' is missing"):
        run_accel(image, {})
    with pytest.raises(VitError, match="unknown input 'z'; the model has x"):
        run_accel(image, {"x": np.zeros(4), "z": np.zeros(4)})
