"""The QDQ export: ONNX Runtime computes what the integer definitions compute, to a rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from c_cases import Case, FixedType, codes, ops
from c_vit import VitBuilder, VitShape
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import SSAValue

from vit_opt.backends.onnx_qdq import export_qdq, qdq_model
from vit_opt.backends.reference import run_reference
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.attributes import QuantizedType
from vit_opt.dialects.vit.evaluate import scales_of
from vit_opt.dialects.vit.ops.base import VitOp, format_of
from vit_opt.dialects.vit.semantics.activation import FUNCTIONS, make_table
from vit_opt.passes.pipelines import passes_of, remaining
from vit_opt.tools.command import run_command
from vit_opt.tools.opt import VitOptMain
from vit_opt.tools.steps import import_onnx, new_context, run_pipeline

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
I8, U8, I16 = FixedType("i8", 5), FixedType("ui8", 6, zp=9), FixedType("i16", 9)
IMAGE = (1, 6, 5, 4)

Built = tuple[Case, SSAValue]


def reals(value: SSAValue, array: np.ndarray) -> np.ndarray:
    """Real values of codes, float32."""
    format_ = format_of(value)
    return ((array.astype(np.float64) - format_.zero_point) * scales_of(value)).astype(np.float32)


def run(model: onnx.ModelProto | Path, inputs: dict[str, Any]) -> list[np.ndarray]:
    """ONNX Runtime with all its optimisations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options).run(None, inputs)


def compare(case: Case, output: SSAValue) -> tuple[np.ndarray, np.ndarray]:
    """Real results of ONNX Runtime and of the definition."""
    module = case.module(output)
    model = qdq_model(module, case.store)
    onnx.checker.check_model(model, full_check=True)
    arguments = list(case.block.args)
    inputs = {
        f"input{i}": reals(value, array)
        for i, (value, array) in enumerate(zip(arguments, case.inputs, strict=True))
    }
    return run(model, inputs)[0], reals(output, case.arrays[output])


def some(case: Case, format_: QuantizedType, *shape: int, seed: int = 0) -> SSAValue:
    """An argument with random codes, extremes among them."""
    return case.input(format_, codes(np.random.default_rng(seed), format_, shape))


def weight(case: Case, format_: QuantizedType, *shape: int) -> SSAValue:
    """A constant with random codes."""
    low, high = format_.bounds
    rng = np.random.default_rng(7)
    return case.constant(format_, rng.integers(max(low, -99), min(high, 99) + 1, shape))


def linear(storage: str) -> Callable[[], Built]:
    def build() -> Built:
        case = Case()
        w = weight(case, FixedType(storage, [7, 6, 8], axis=0), 3, 10)
        b = weight(case, FixedType("i32", [12, 11, 13], axis=0), 3)
        acc = case.op(ops.LinearOp, [some(case, I8, 2, 10), w, [b]])
        return case, case.op(ops.PotRequantOp, [acc], I16)

    return build


def conv(groups: int, transposed: bool) -> Callable[[], Built]:
    def build() -> Built:
        case = Case()
        x = some(case, U8, *IMAGE)
        fracs = [7, 6, 8, 6] if not transposed or groups == 1 else [7, 6, 7, 6]
        w = weight(case, FixedType("i8", fracs, axis=0), 4, 3, 2, 4 // groups)
        b = weight(case, FixedType("i32", [f + 6 for f in fracs], axis=0), 4)
        kind = ops.ConvTranspose2dOp if transposed else ops.Conv2dOp
        more = {"output_padding": (1, 0)} if transposed else {"dilations": (1, 2)}
        fields = {"strides": (2, 1), "pads": (1, 0, 0, 1), "groups": groups, **more}
        acc = case.op(kind, [x, w, [b]], **fields)
        return case, case.op(ops.PotRequantOp, [acc], FixedType("i8", [4, 3, 4, 5], axis=3))

    return build


def depthwise_by_channel() -> Built:
    """A depthwise convolution whose input has an exponent for every channel."""
    case = Case()
    x = some(case, FixedType("i16", 12), *IMAGE)
    own = case.op(ops.PotRequantOp, [x], FixedType("i8", [5, 7, 6, 4], axis=3))
    w = weight(case, FixedType("i8", [7, 6, 8, 6], axis=0), 4, 3, 2, 1)
    fields = {"strides": (1, 1), "pads": (1, 0, 1, 0), "groups": 4}
    acc = case.op(ops.Conv2dOp, [own, w, []], **fields)
    return case, case.op(ops.PotRequantOp, [acc], FixedType("i8", 4))


def on(
    operation: type[VitOp],
    format_: QuantizedType,
    result: Any,
    size: tuple[int, ...],
    **fields: Any,
) -> Callable[[], Built]:
    def build() -> Built:
        case = Case()
        return case, case.op(operation, [some(case, format_, *size)], result, **fields)

    return build


def two(operation: type[VitOp], result: Any = None) -> Callable[[], Built]:
    def build() -> Built:
        case = Case()
        a, b = some(case, I8, 2, 3, 4), some(case, U8 if result else I8, 2, 3, 4, seed=1)
        operands = [[a, b]] if operation is ops.ConcatOp else [a, b]
        fields = {"axis": 1} if operation is ops.ConcatOp else {}
        return case, case.op(operation, operands, result, **fields)

    return build


def clamped_sum() -> Built:
    case = Case()
    total = case.op(ops.AddOp, [some(case, I8, 2, 9), some(case, U8, 2, 9, seed=3)], I8)
    return case, case.op(ops.ClampOp, [total], min=0, max=127)


def layer_norm() -> Built:
    case = Case()
    x = case.input(I16, np.random.default_rng(3).integers(-9000, 9000, (3, 40)))
    gamma = weight(case, FixedType("i16", 6), 40)
    beta = weight(case, FixedType("i32", 12), 40)
    return case, case.op(ops.LayerNormOp, [x, gamma, beta], I8, eps_q=40 * 40)


def attention() -> Built:
    case = Case()
    rng = np.random.default_rng(5)
    q, k = (case.input(I8, rng.integers(0, 90, (1, 2, 12, 8))) for _ in range(2))
    v = some(case, I8, 1, 2, 12, 8, seed=6)
    result = FixedType("i8", 5)
    return case, case.op(ops.LinearAttnOp, [q, k, v], result, kv_shift=6, ksum_shift=3)


CASES: dict[str, tuple[Callable[[], Built], float]] = {
    "linear": (linear("i8"), 1),
    "linear of 4 bits": (linear("i4"), 1),
    "convolution": (conv(1, False), 1),
    "depthwise": (conv(4, False), 1),
    "depthwise by channel": (depthwise_by_channel, 1),
    "transposed": (conv(1, True), 1),
    "transposed in groups": (conv(2, True), 1),
    "sum": (two(ops.AddOp, I16), 1),
    "product": (two(ops.MulOp, I16), 1),
    "concat": (two(ops.ConcatOp), 0),
    "limited sum": (clamped_sum, 1),
    "limits": (on(ops.ClampOp, U8, None, (2, 5), min=20, max=200), 0),
    "reinterpret": (on(ops.ReinterpretOp, I8, None, (2, 5), exponent=-3), 0),
    "mean": (on(ops.MeanOp, I16, I8, IMAGE, axes=(1, 2)), 1),
    "average pool": (
        on(ops.AvgPool2dOp, I8, I8, IMAGE, kernel=(2, 3), strides=(2, 1), pads=(0, 1, 1, 1)),
        1,
    ),
    "maximum pool": (
        on(ops.MaxPool2dOp, I8, None, IMAGE, kernel=(2, 3), strides=(2, 1), pads=(0, 1, 1, 1)),
        0,
    ),
    "nearest": (on(ops.ResizeOp, I8, None, IMAGE, shape=(1, 11, 4, 4), mode="nearest"), 0),
    "bilinear": (on(ops.ResizeOp, I8, I8, IMAGE, shape=(1, 12, 10, 4), mode="linear"), 1),
    "slice": (
        on(
            ops.SliceOp,
            I8,
            None,
            IMAGE,
            offsets=(0, 1, 0, 2),
            sizes=(1, 3, 5, 1),
            strides=(1, 2, 1, 1),
        ),
        0,
    ),
    "gather": (on(ops.GatherOp, I8, None, IMAGE, axis=1, indices=(3, 0, 3)), 0),
    "pad": (on(ops.PadOp, U8, None, (2, 3), low=(1, 0), high=(0, 2)), 0),
    "turned to NCHW": (on(ops.TransposeOp, I8, None, IMAGE, permutation=(0, 3, 1, 2)), 0),
    "shift GELU": (on(ops.ShiftGeluOp, I8, None, (2, 30)), 130),
    "LayerNorm": (layer_norm, 1),
    "linear attention": (attention, 4),
}


@pytest.mark.parametrize("name", CASES)
def test_operations(name: str) -> None:
    build, steps = CASES[name]
    case, output = build()
    actual, expected = compare(case, output)
    assert expected.std() > 0
    scale = float(format_of(output).channel_scales().max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=steps * scale * 1.0001)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("exp", "softplus")])
def test_tables_are_their_functions(name: str) -> None:
    case = Case()
    y = FixedType("i8", 4)
    table = make_table(FUNCTIONS[name], 2.0**-5, 2.0**-4, -128, -128, 127)
    x = case.input(I8, np.arange(-128, 128).reshape(2, 128))
    actual, expected = compare(
        case, case.op(ops.LutOp, [x, case.constant(y, table)], function=name)
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1.001 * 2.0**-4)


@pytest.mark.parametrize("name", ["gelu", "silu", "identity"])
def test_a_table_of_a_function_with_factors(name: str) -> None:
    case = Case()
    y = FixedType("i8", 5)
    table = make_table(lambda x: 0.3 * FUNCTIONS[name](0.6 * x), 2.0**-5, 2.0**-5, -128, -128, 127)
    x = case.input(I8, np.arange(-128, 128).reshape(2, 128))
    lut = case.op(ops.LutOp, [x, case.constant(y, table)], function=f"{name}(x*0.6)*0.3")
    actual, expected = compare(case, lut)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1.001 * 2.0**-5)


def test_a_vision_transformer_with_a_deferred_softmax() -> None:
    builder = VitBuilder(VitShape())
    logits = builder.build()
    for op in builder.case.block.ops:
        if isinstance(op, ops.LutOp):
            op.function = StringAttr("gelu")
    actual, expected = compare(builder.case, logits)
    noise = np.square(actual - expected).sum() / np.square(expected).sum()
    assert 10 * np.log10(noise) < -25


def test_what_onnx_cannot_say(tmp_path: Path) -> None:
    case = Case()
    log2 = case.op(ops.Log2SoftmaxOp, [some(case, I8, 2, 5)])
    v = some(case, I8, 5, 3)
    acc = case.op(ops.Log2MatmulOp, [log2, v])
    with pytest.raises(VitError, match=r"vit\.log2_softmax has no form in ONNX"):
        export_qdq(case.module(acc), case.store, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())
    case = Case()
    x = some(case, U8, *IMAGE)
    w = weight(case, FixedType("i8", [7, 6, 8, 5], axis=0), 4, 3, 2, 2)
    acc = case.op(ops.ConvTranspose2dOp, [x, w, []], strides=(1, 1), pads=(0, 0, 0, 0), groups=2)
    with pytest.raises(VitError, match="scales vary along groups"):
        qdq_model(case.module(acc), case.store)
    case = Case()
    table = case.constant(I8, np.zeros(256, int))
    y = case.op(ops.LutOp, [some(case, I8, 4), table])
    with pytest.raises(VitError, match="a table of no function that ONNX has"):
        qdq_model(case.module(y), case.store)


def vit_opt(*arguments: str | Path) -> int:
    """Exit code of vit-opt, run in this process."""
    return run_command("vit-opt", lambda: VitOptMain([str(each) for each in arguments]).run())


def test_digits_top1_on_onnxruntime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way: right answers, powers of two, and nothing on stdout without -o."""
    path = tmp_path / "digits.onnx"
    model, calib = DIGITS / "model.onnx", DIGITS / "calib.npz"
    assert vit_opt(model, "--calib", calib, "--export-qdq", path) == 0
    assert capsys.readouterr().out == ""
    assert {each.name for each in tmp_path.iterdir()} == {"digits.onnx"}
    with np.load(DIGITS / "test.npz") as data:
        image, label = data["image"][::5], data["label"][::5]
    session = onnxruntime.InferenceSession(path)
    inputs = (image.astype(np.float32) - 128) / 128
    logits = np.concatenate([session.run(None, {"image": x[None]})[0] for x in inputs])
    assert (logits.argmax(1) == label).mean() > 0.975
    exported = onnx.load(path)
    kinds = {node.op_type for node in exported.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Softmax", "Gelu"} <= kinds
    scales = {node.input[1] for node in exported.graph.node if node.op_type == "DequantizeLinear"}
    for tensor in exported.graph.initializer:
        if tensor.name in scales:
            assert (np.frexp(onnx.numpy_helper.to_array(tensor))[0] == 0.5).all()


CLOSE = 0.4
"""Logits nearer to each other than this are not told apart by integers of 8 bits."""


@pytest.mark.parametrize("example", ["digits", "digits_swin", "digits_efficientvit"])
def test_examples_have_the_top1_of_the_reference(example: str) -> None:
    """ONNX Runtime answers as the reference does, and both know how sure the answer is."""
    context = new_context()
    module = import_onnx(DIGITS.with_name(example) / "model.onnx", context=context)
    with np.load(DIGITS / "calib.npz") as data:
        context.assets.batches = [{"image": image[None]} for image in data["image"][:4]]
    run_pipeline(module, context, passes_of(remaining(module, "verify-integer")))
    session = onnxruntime.InferenceSession(qdq_model(module, context.assets).SerializeToString())
    with np.load(DIGITS / "test.npz") as data:
        images = (data["image"][::50, None].astype(np.float32) - 128) / 128
    runs = [run_reference(module, context.assets, {"image": image}) for image in images]
    ours = np.concatenate([each.reals["logits"] for each in runs])
    theirs = np.concatenate([session.run(None, {"image": image})[0] for image in images])
    best = np.sort(ours, axis=1)
    sure = best[:, -1] - best[:, -2] > CLOSE
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(ours.argmax(1)[sure], theirs.argmax(1)[sure])
    assert 10 * np.log10(np.square(ours).sum() / np.square(ours - theirs).sum()) > 20


def formats(module: ModuleOp) -> Counter[tuple[str, str]]:
    """Operations with the formats of their results, constants and accumulators left out."""
    found: Counter[tuple[str, str]] = Counter()
    for op in module.walk():
        if isinstance(op, VitOp) and not isinstance(op, ops.ConstantOp):
            element = op.results[0].type.get_element_type()
            if isinstance(element, QuantizedType) and element.storage.width.data < 32:
                found[op.name, str(element)] += 1
    return found


def test_imported_again_the_formats_are_the_same() -> None:
    modules: list[ModuleOp] = []
    context = new_context()
    with np.load(DIGITS / "calib.npz") as data:
        batches = [{"image": image[None]} for image in data["image"][:4]]
    for source in (DIGITS / "model.onnx", None):
        model = source or qdq_model(modules[0], context.assets)
        context = new_context()
        module = import_onnx(model, context=context)
        context.assets.batches = batches
        run_pipeline(module, context, passes_of(remaining(module, "verify-integer")))
        modules.append(module)
    first, second = map(formats, modules)
    assert sum(first.values()) > 60
    assert first == second


def test_errors_of_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = DIGITS / "model.onnx"
    assert vit_opt(model, "--export-qdq", tmp_path / "none" / "x.onnx") == 1
    assert "does not exist" in capsys.readouterr().err
    assert vit_opt(model, "--import-only", "--export-qdq", tmp_path / "x.onnx") == 2
    assert "--import-only" in capsys.readouterr().err
