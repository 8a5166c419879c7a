"""Emitted projects: they compile without a warning, hold no float, and equal the definition."""

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from c_cases import Case, FixedType, ops
from c_vit import VitBuilder, VitShape
from xdsl.dialects.builtin import TensorType, f32
from xdsl.ir import SSAValue

from vit_opt.backends.c.build import BuildOptions, build_c
from vit_opt.backends.c.code import Buffer, Call, Pointer
from vit_opt.backends.c.emit import EmitOptions, emit_c, needed_kernels
from vit_opt.backends.c.planner import peak, plan
from vit_opt.backends.c.run import CModel, run_c
from vit_opt.dialects.errors import VitError

COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
FLOAT = re.compile(
    r"\tv?(add|sub|mul|div|sqrt|min|max|rcp|rsqrt|fmadd\w*|fmsub\w*|cvt\w*|ucomi|comi|cmp\w*)(ss|sd|ps|pd)\b"
    r"|\tv?cvt\w+|\tf(add|sub|mul|div|ild|ist|ld|st)\w*\b"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled kernels of these tests stay out of the user's cache, and are shared among them."""
    base = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory):
    """A two-block ViT: its case, its output value and its emitted project."""
    builder = VitBuilder(VitShape())
    output = builder.build()
    module = builder.case.module(output)
    folder = tmp_path_factory.mktemp("vit") / "c"
    return builder.case, output, emit_c(module, builder.case.store, folder)


BUILDS = [("gcc", "portable"), ("gcc", "host"), ("clang", "host")]


@pytest.mark.parametrize(("compiler", "cpu"), [b for b in BUILDS if b[0] in COMPILERS])
def test_vit_equals_definition(vit, compiler, cpu) -> None:
    case, output, project = vit
    model = CModel(project.folder, BuildOptions(cpu, compiler))
    for _ in range(2):  # nothing of the first inference may leak into the second
        codes = model.run({"input0": case.inputs[0]})
        np.testing.assert_array_equal(codes["output0"], case.arrays[output])
    assert model.arena_bytes == project.arena_bytes
    assert (
        model.weight_bytes
        == project.weight_bytes
        == (project.folder / "weights.bin").stat().st_size
    )


def test_arena_is_near_its_lower_bound(vit) -> None:
    fresh = VitBuilder(VitShape())
    lowered = fresh.case.lower(fresh.build())
    assert lowered.arena == vit[2].arena_bytes
    assert lowered.arena <= 1.1 * peak(lowered.calls)


def test_attention_and_accumulators_are_fused(vit) -> None:
    """No accumulator is stored: one call per layer, and one for each attention."""
    source = (vit[2].folder / "model.c").read_text()
    assert source.count("vit_attention_u8(") == 2
    assert source.count("vit_linear_s16(") == 9
    assert "VIT_S32" not in source


def test_no_floating_point(vit) -> None:
    library = build_c(vit[2].folder)
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True
    ).stdout
    assert "vit_gemm_s16" in listing
    found = [line for line in listing.splitlines() if FLOAT.search(line)]
    assert not found, found[:5]
    for source in vit[2].folder.rglob("*.[ch]"):
        code = re.sub(r"/\*.*?\*/", "", source.read_text(), flags=re.S)
        words = set(re.findall(r"\w+", code))
        assert not words & {"float", "double", "malloc", "calloc", "free"}, source
        assert "math.h" not in code


def test_the_float_pattern_finds_float(tmp_path) -> None:
    """The test above can fail: the same search finds the instructions of float code."""
    source = tmp_path / "f.c"
    source.write_text("float f(float x, int n) { return x * (float)n + 1.0f; }\n")
    subprocess.run(["cc", "-O2", "-c", source, "-o", tmp_path / "f.o"], check=True)
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", tmp_path / "f.o"], capture_output=True, text=True
    ).stdout
    assert len(FLOAT.findall(listing)) >= 3


@pytest.mark.parametrize("compiler", COMPILERS)
def test_make_under_sanitizers(vit, compiler, tmp_path) -> None:
    """`make` builds a program that reads and writes raw codes; ASan and UBSan find nothing."""
    case, output, project = vit
    folder = tmp_path / "c"
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns("build"))
    flags = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
    command = ["make", "-s", "-j2", f"CC={compiler}", f"CFLAGS={flags}"]
    subprocess.run(command, cwd=folder, check=True)
    (folder / "in.bin").write_bytes(3 * case.inputs[0].tobytes())
    done = subprocess.run(
        ["./model", "in.bin", "out.bin"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[:2000]
    expected = case.arrays[output]
    actual = np.fromfile(folder / "out.bin", expected.dtype).reshape(3, *expected.shape)
    np.testing.assert_array_equal(actual, [expected] * 3)
    (folder / "in.bin").write_bytes(b"short")
    done = subprocess.run(
        ["./model", "in.bin", "out.bin"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 1 and "expected" in done.stderr


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_cmake(tmp_path) -> None:
    case = Case()
    x = case.input(FixedType("i8", 4), np.arange(-6, 6).reshape(3, 4))
    module = case.module(case.op(ops.TransposeOp, [x], permutation=(1, 0)))
    emit_c(module, case.store, tmp_path / "c", EmitOptions("tiny"))
    build = tmp_path / "b"
    subprocess.run(["cmake", "-S", tmp_path / "c", "-B", build], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    (tmp_path / "in").write_bytes(case.inputs[0].tobytes())
    subprocess.run([build / "tiny", tmp_path / "in", tmp_path / "out"], check=True)
    expected = case.inputs[0].T.tobytes()
    assert (tmp_path / "out").read_bytes() == expected


def test_only_needed_kernels_are_copied() -> None:
    names = {path.stem for path in needed_kernels({"vit_copy"})}
    assert names == {"vit_arith", "vit_kernels", "vit_copy", "vit_element"}
    assert "vit_gemm_s16" in {path.stem for path in needed_kernels({"vit_attention_u8"})}


def small_project(folder: Path, low: int = -8) -> tuple[Case, Path]:
    case = Case()
    x = case.input(FixedType("i8", 4, zp=2), np.arange(-6, 6).reshape(3, 4))
    y = case.op(ops.ClampOp, [x], min=low, max=5)
    return case, emit_c(case.module(y), case.store, folder / "c").folder


def test_real_inputs_are_quantised_at_the_border(tmp_path) -> None:
    _, folder = small_project(tmp_path, low=-3)
    model = CModel(folder)
    codes = model.run({"input0": np.full((3, 4), -10.0)})
    assert (codes["output0"] == -3).all()
    assert (model.reals(codes)["output0"] == (-3 - 2) / 16).all()
    assert (model.run({"input0": np.full((3, 4), 0.03)})["output0"] == 2).all()


def test_an_input_in_two_formats(tmp_path) -> None:
    """One real input quantised twice feeds two ports; codes would be ambiguous."""
    case = Case()
    real = case.block.insert_arg(TensorType(f32, [2, 3]), 0)
    ends: list[SSAValue] = []
    for frac in (2, 5):
        type_ = TensorType(FixedType("i8", frac), [2, 3])
        quantize = ops.QuantizeOp(operands=[real], result_types=[type_])
        case.block.add_op(quantize)
        ends.append(quantize.result)
    module = case.module(*ends)
    folder = emit_c(module, case.store, tmp_path / "c").folder
    codes = run_c(folder, {"input0": np.full((2, 3), 1.5, np.float32)})
    assert (codes["output0"] == 6).all() and (codes["output1"] == 48).all()
    with pytest.raises(VitError, match="enters in two formats"):
        run_c(folder, {"input0": np.full((2, 3), 1)})


def test_wrong_inputs_are_refused(tmp_path) -> None:
    _, folder = small_project(tmp_path)
    good = np.zeros((3, 4), np.int64)
    for inputs, message in (
        ({"image": good}, "the model takes input0"),
        ({"input0": good[:2]}, r"has shape \[2, 4\], the model expects \[3, 4\]"),
        ({"input0": good + 128}, "outside of -128 .. 127"),
        ({"input0": good.astype(complex)}, "has dtype complex128, expected float or integer"),
    ):
        with pytest.raises(VitError, match=message):
            run_c(folder, inputs)


def test_broken_projects_are_refused(tmp_path) -> None:
    _, folder = small_project(tmp_path)
    with pytest.raises(VitError, match=r"no model\.c here"):
        build_c(tmp_path)
    with pytest.raises(VitError, match="not found; install gcc"):
        build_c(folder, BuildOptions(compiler="no-such-compiler"))
    with pytest.raises(VitError, match="unknown --cpu 'z80'; known: host"):
        build_c(folder, BuildOptions("z80"))
    source = (folder / "model.c").read_text()
    (folder / "model.c").write_text("int nothing;\n")
    with pytest.raises(VitError, match="not a complete C project: undefined symbol"):
        CModel(folder)
    (folder / "model.c").write_text(source)
    (folder / "weights.bin").write_bytes(b"12345")
    with pytest.raises(VitError, match=r"weights\.bin has 5 bytes"):
        CModel(folder)
    (folder / "model.c").write_text("int f(void) { return x; }\n")
    with pytest.raises(VitError, match=r"failed: .*undeclared"):
        build_c(folder)
    (folder / "model.json").write_text("[]")
    with pytest.raises(VitError, match="not a complete C project"):
        CModel(folder)


def test_a_second_build_compiles_nothing(tmp_path, monkeypatch) -> None:
    _, folder = small_project(tmp_path)
    first = build_c(folder)
    monkeypatch.setattr("vit_opt.backends.c.build.compile_c", None)
    assert build_c(folder) == first


def test_misaligned_memory_is_refused(tmp_path) -> None:
    _, folder = small_project(tmp_path)
    model = CModel(folder)
    model.weights = np.zeros(256, np.uint8)[1:]
    model.weights = model.weights[1 if model.weights.ctypes.data % 64 == 0 else 0 :]
    with pytest.raises(VitError, match="status 1"):
        model.run({"input0": np.zeros((3, 4), np.int8)})


def test_operations_without_a_kernel_are_refused(tmp_path) -> None:
    case = Case()
    x = case.input(FixedType("i8", 4), np.zeros((3, 4)))
    w = case.input(FixedType("i4", 4), np.zeros((2, 4)))
    y = case.op(ops.LinearOp, [x, w, []])
    module = case.module(y)
    with pytest.raises(VitError, match=r"vit\.linear: int4 weights must be constants"):
        emit_c(module, case.store, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_names_of_the_model_cannot_break_the_source(tmp_path) -> None:
    """A node called like the end of a comment stays a comment; a bad prefix is refused."""
    case = Case()
    x = case.input(FixedType("i8", 4), np.arange(12).reshape(3, 4))
    y = case.op(ops.ClampOp, [x], min=0, max=5, node_name="a */ b /* c ??/\nd \\")
    module = case.module(y)
    folder = emit_c(module, case.store, tmp_path / "c").folder
    assert (CModel(folder).run({"input0": case.inputs[0]})["output0"] == case.arrays[y]).all()
    with pytest.raises(VitError, match="prefix of C names"):
        EmitOptions("my-model")


def test_interface_is_recorded(vit) -> None:
    record = json.loads((vit[2].folder / "model.json").read_text())
    assert [port["name"] for port in record["inputs"]] == ["input0"]
    assert record["inputs"][0]["shape"] == [1, 32, 32, 3]
    assert record["outputs"][0]["scale"] == 2.0**-8


def test_planner_never_overlaps_and_reuses() -> None:
    """Random lifetimes: live buffers are disjoint, and a chain needs the memory of two links."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        buffers = [Buffer(str(i), int(rng.integers(1, 500)), "arena") for i in range(20)]
        lives = [sorted(rng.integers(0, 30, 2).tolist()) for _ in buffers]
        calls = [Call("k", []) for _ in range(30)]
        for buffer, (first, last) in zip(buffers, lives, strict=True):
            calls[first].arguments.append(Pointer(buffer))
            calls[last].arguments.append(Pointer(buffer))
        top = plan(calls)
        assert peak(calls) <= top
        for i, (a, (first, last)) in enumerate(zip(buffers, lives, strict=True)):
            assert a.offset % 64 == 0 and a.offset + a.size <= top
            for b, (start, end) in list(zip(buffers, lives, strict=True))[:i]:
                apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
                assert apart or last < start or end < first
    chain = [Buffer(str(i), 100, "arena") for i in range(10)]
    calls = [Call("k", [Pointer(a), Pointer(b)]) for a, b in pairwise(chain)]
    assert plan(calls) == 2 * 128


@pytest.mark.parametrize("read_again", [False, True])
def test_a_residual_sum_is_computed_in_place(read_again) -> None:
    """Unless the residual is read later; the harness gives shared buffers one memory."""
    rng = np.random.default_rng(0)
    case = Case()
    wide = FixedType("i16", 8)
    x = case.input(wide, rng.integers(-(2**15), 2**15, (40, 33)))
    residual = case.op(ops.PotRequantOp, [x], FixedType("i16", 7))
    eight = case.op(ops.PotRequantOp, [residual], FixedType("i8", 1))
    weight = case.constant(FixedType("i8", 7), rng.integers(-128, 128, (33, 33)))
    acc = case.op(ops.LinearOp, [eight, weight, []])
    total = case.op(ops.AddOp, [acc, residual], FixedType("i16", 7))
    ends = [case.op(ops.TransposeOp, [total], permutation=(1, 0))]
    if read_again:
        ends.append(case.op(ops.TransposeOp, [residual], permutation=(1, 0)))
    lowered = case.check(*ends)
    call = next(c for c in lowered.calls if c.kernel == "vit_linear_s16")
    assert call.in_place is not None
    assert (call.in_place[0].root() is call.in_place[1].root()) != read_again
