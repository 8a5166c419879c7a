"""Instruction levels: a whole model on each, packing, and what a project does on a lesser processor."""

import shutil
import subprocess

import numpy as np
import pytest
from c_cases import Case, FixedType, ops
from c_kernels import HOST_LEVELS

from vit_opt.backends.c.emit import EmitOptions, emit_c
from vit_opt.backends.c.levels import LEVELS, find_level, host_level
from vit_opt.backends.c.run import CModel
from vit_opt.dialects.errors import VitError

LEVEL_NAMES = [level.name for level in HOST_LEVELS]
CROSS = "aarch64-linux-gnu-gcc"

pytestmark = pytest.mark.usefixtures("own_cache")


def needs(*tools: str) -> pytest.MarkDecorator:
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


@pytest.mark.parametrize("cpu", LEVEL_NAMES)
def test_vit_on_every_level(vit, tmp_path, cpu) -> None:
    case, output, module = vit
    project = emit_c(module, case.store, tmp_path / "c", EmitOptions(cpu=cpu))
    assert project.cpu == cpu
    model = CModel(project.folder)
    for _ in range(2):  # nothing of the first inference may leak into the second
        codes = model.run({"input0": case.inputs[0]})
        np.testing.assert_array_equal(codes["output0"], case.arrays[output])


def run_binary(vit, folder, cpu, make, emulator):
    """Build with make, run under an emulator; the process and the output file."""
    case, _, module = vit
    emit_c(module, case.store, folder, EmitOptions(cpu=cpu))
    subprocess.run(["make", "-s", "-C", folder, *make], check=True)
    (folder / "input.bin").write_bytes(case.inputs[0].tobytes())
    command = [*emulator, folder / "model", folder / "input.bin", folder / "output.bin"]
    return subprocess.run(
        command, capture_output=True, text=True, check=False
    ), folder / "output.bin"


@needs(CROSS, "qemu-aarch64")
@pytest.mark.parametrize("cpu", ["neon", "portable"])
def test_vit_on_arm(vit, tmp_path, cpu) -> None:
    make = [f"CC={CROSS}", "CFLAGS=-O2 -static"]
    process, output = run_binary(vit, tmp_path / "c", cpu, make, ["qemu-aarch64"])
    assert process.returncode == 0, process.stderr
    expected = vit[0].arrays[vit[1]]
    codes = np.frombuffer(output.read_bytes(), expected.dtype).reshape(expected.shape)
    np.testing.assert_array_equal(codes, expected)


@needs(CROSS, "qemu-aarch64")
@pytest.mark.parametrize("storage", ["i8", "ui8"])
def test_convolutions_on_arm(tmp_path, storage) -> None:
    """A depthwise and a grouped pointwise convolution, as EfficientViT has them."""
    rng = np.random.default_rng(5)
    case, format_ = Case(), FixedType(storage, 5, zp=7)
    x = case.input(format_, rng.integers(*format_.bounds, (1, 9, 8, 48)))
    w = case.constant(FixedType("i8", 6), rng.integers(-128, 128, (48, 5, 5, 1)))
    fields = {"strides": (2, 1), "pads": (2, 1, 2, 2), "dilations": (1, 1), "groups": 48}
    acc = case.op(ops.Conv2dOp, [x, w, []], **fields)
    y = case.op(ops.PotRequantOp, [acc], FixedType("ui8", 1, zp=120))
    w = case.constant(FixedType("i8", 6), rng.integers(-128, 128, (128, 1, 1, 12)))
    acc = case.op(
        ops.Conv2dOp, [y, w, []], strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=4
    )
    y = case.op(ops.PotRequantOp, [acc], FixedType("i16", 4))
    make = [f"CC={CROSS}", "CFLAGS=-O2 -static"]
    model = case, y, case.module(y)
    process, output = run_binary(model, tmp_path / "c", "neon", make, ["qemu-aarch64"])
    assert process.returncode == 0, process.stderr
    kernels = {path.stem for path in (tmp_path / "c" / "kernels").glob("*.c")}
    assert {"vit_dwconv2d_u8_neon", "vit_linear_u8_neon"} <= kernels
    expected = case.arrays[y]
    codes = np.frombuffer(output.read_bytes(), expected.dtype).reshape(expected.shape)
    np.testing.assert_array_equal(codes, expected)


@needs("qemu-x86_64")
@pytest.mark.skipif("avx512vnni" not in LEVEL_NAMES, reason="not an x86 compiler")
def test_a_lesser_processor_is_refused(vit, tmp_path) -> None:
    """The emulated one has no AVX-512; the model says so before the first such instruction."""
    process, output = run_binary(vit, tmp_path / "c", "avx512vnni", [], ["qemu-x86_64"])
    assert process.returncode == 1
    assert not output.exists()


def test_levels_are_ordered_and_named() -> None:
    assert [*LEVELS][-1] == "portable"
    assert find_level("host") is host_level() is HOST_LEVELS[0]
    with pytest.raises(VitError, match="unknown --cpu 'z80'"):
        EmitOptions(cpu="z80")


def finishes(case: Case, value: object) -> list[str]:
    """The finish of each packed product, by level."""
    from vit_opt.backends.c.lowering import lower

    function, names = case.function(value), []
    for level in LEVELS.values():
        if level.suffixes:
            (call,) = lower(function, case.store, level).calls
            names.append(call.arguments[0].fields["finish"].name)
    return names


@pytest.mark.parametrize(
    ("bias", "finish"), [(0, "VIT_TO_S8"), (2**31 - 1 - 8 * 127 * 127, "VIT_BY_STAGES")]
)
def test_rounding_is_folded_only_where_32_bits_hold_it(bias, finish) -> None:
    """Accumulators that just fit, as they do here, would not with the rounding constant added."""
    case, eight = Case(), FixedType("i8", 4)
    x = case.input(eight, np.full((7, 8), 127))
    w = case.constant(eight, np.full((3, 8), 127))
    b = case.constant(FixedType("i32", 8), np.full(3, bias))
    acc = case.op(ops.LinearOp, [x, w, [b]])
    y = case.op(ops.PotRequantOp, [acc], FixedType("i8", -16))
    assert set(finishes(case, y)) == {finish}


@pytest.mark.parametrize("storage", ["i8", "ui8"])
@pytest.mark.parametrize("rows", [1, 6, 197])
def test_table_and_dead_columns(storage, rows) -> None:
    """Shifts of more than 31 bits leave the zero point, whatever the weights."""
    rng = np.random.default_rng(0)
    case, eight = Case(), FixedType("i8", 4)
    x = case.input(eight, rng.choice([-128, 127], (rows, 70)))
    fracs = rng.choice([2, 9, 40], 67)
    w = case.constant(FixedType("i8", fracs, axis=0), rng.choice([-128, 127], (67, 70)))
    acc = case.op(ops.LinearOp, [x, w, []])
    code = case.op(ops.PotRequantOp, [acc], FixedType(storage, 3, zp=5))
    table = case.constant(FixedType("ui8", 4), rng.integers(0, 256, 256))
    case.check(case.op(ops.LutOp, [code, table], FixedType("ui8", 4)))


def test_projects_hold_the_kernels_of_their_level_only(vit, tmp_path) -> None:
    case, _, module = vit
    for level in LEVELS.values():
        project = emit_c(module, case.store, tmp_path / level.name, EmitOptions(cpu=level.name))
        kernels = [path.stem for path in (project.folder / "kernels").glob("*.c")]
        others = {s for other in LEVELS.values() for s in other.suffixes} - set(level.suffixes)
        assert not [name for name in kernels if name.rpartition("_")[2] in others]
        assert any(name.rpartition("_")[2] in level.suffixes for name in kernels) == bool(
            level.suffixes
        )
