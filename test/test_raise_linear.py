"""raise-linear and fold-batch-norm: products with constants, biases, per-channel factors."""

import numpy as np
import pytest
from float_checks import check_same, float_context, operators, parse

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx import Linear
from vit_opt.passes.fold_batch_norm import FoldBatchNormPass
from vit_opt.passes.fold_constants import FoldConstantsPass
from vit_opt.passes.raise_linear import RaiseLinearPass


def dense(*shape: int, seed: int = 1) -> str:
    """A constant operation's text with random values between 0.5 and 2, of both signs."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)
    type_ = "x".join(map(str, (*shape, "f32")))
    return f"onnx.Constant dense<{values.round(3).tolist()}> : tensor<{type_}>"


def function(argument: str, result: str, body: str) -> str:
    return (
        f"builtin.module {{ func.func @main(%x: tensor<{argument}>) -> tensor<{result}> {{"
        f"{body}\nfunc.return %y : tensor<{result}> }} }}"
    )


X, Y = "tensor<1x3x4xf32>", "tensor<1x3x6xf32>"

LINEARS = {
    "matmul, bias left": f"""
        %w = {dense(4, 6)}
        %b = {dense(6)}
        %0 = onnx.MatMul %x, %w : ({X}, tensor<4x6xf32>) -> {Y}
        %y = onnx.Add %b, %0 : (tensor<6xf32>, {Y}) -> {Y}""",
    "batched constant, bias of rank 3, less an offset": f"""
        %w = {dense(1, 4, 6)}
        %b = {dense(1, 1, 6)}
        %c = {dense(6)}
        %0 = onnx.MatMul %x, %w : ({X}, tensor<1x4x6xf32>) -> {Y}
        %1 = onnx.Add %0, %b : ({Y}, tensor<1x1x6xf32>) -> {Y}
        %y = onnx.Sub %1, %c : ({Y}, tensor<6xf32>) -> {Y}""",
    "layer scale": f"""
        %w = {dense(4, 6)}
        %b = {dense(6)}
        %g = {dense(6, seed=2)}
        %0 = onnx.MatMul %x, %w : ({X}, tensor<4x6xf32>) -> {Y}
        %1 = onnx.Add %b, %0 : (tensor<6xf32>, {Y}) -> {Y}
        %y = onnx.Mul %1, %g : ({Y}, tensor<6xf32>) -> {Y}""",
    "layer division without bias": f"""
        %w = {dense(4, 6)}
        %g = {dense(6, seed=2)}
        %0 = onnx.MatMul %x, %w : ({X}, tensor<4x6xf32>) -> {Y}
        %y = onnx.Div %0, %g : ({Y}, tensor<6xf32>) -> {Y}""",
}


@pytest.mark.parametrize("body", LINEARS.values(), ids=LINEARS.keys())
def test_products_become_one_linear(body: str) -> None:
    ctx = float_context()
    module = parse(function("1x3x4xf32", "1x3x6xf32", body), ctx)
    assert check_same(module, ctx, [RaiseLinearPass()]) == {"Linear": 1}


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("c", [None, (), (6,), (1, 6), (3, 6), (3, 1)])
def test_gemm_in_every_form(trans_a: int, trans_b: int, c: tuple[int, ...] | None) -> None:
    ctx = float_context()
    a = "4x3xf32" if trans_a else "3x4xf32"
    w = (6, 4) if trans_b else (4, 6)
    shapes = [a, f"{w[0]}x{w[1]}xf32"]
    extra, operands = "", "%x, %w"
    if c is not None:
        value = dense(*c) if c else "onnx.Constant dense<1.5> : tensor<f32>"
        extra, operands = f"%c = {value}", "%x, %w, %c"
        shapes.append("x".join(map(str, (*c, "f32"))))
    body = f"""
        %w = {dense(*w)}
        {extra}
        %y = onnx.Gemm {operands} {{alpha = 0.75, beta = 3.0, trans_a = {trans_a},
             trans_b = {trans_b}}} : ({", ".join(f"tensor<{s}>" for s in shapes)})
             -> tensor<3x6xf32>"""
    left = check_same(
        parse(function(a, "3x6xf32", body), ctx), ctx, [RaiseLinearPass(), FoldConstantsPass()]
    )
    expected = {"Linear": 1}
    if trans_a:
        expected["Transpose"] = 1
    if c in ((3, 6), (3, 1)):
        expected["Add"] = 1
    assert left == expected


def test_constant_on_the_left_and_reshapes_around() -> None:
    ctx = float_context()
    body = f"""
        %w = {dense(5, 3)}
        %y = onnx.MatMul %w, %x : (tensor<5x3xf32>, {X}) -> tensor<1x5x4xf32>"""
    left = check_same(
        parse(function("1x3x4xf32", "1x5x4xf32", body), ctx), ctx, [RaiseLinearPass()]
    )
    assert left == {"Linear": 1, "Transpose": 2}
    body = f"""
        %w = {dense(4, 6)}
        %0 = onnx.Reshape %x : ({X}) -> tensor<3x4xf32>
        %1 = onnx.MatMul %0, %w : (tensor<3x4xf32>, tensor<4x6xf32>) -> tensor<3x6xf32>
        %y = onnx.Reshape %1 : (tensor<3x6xf32>) -> {Y}"""
    module = parse(function("1x3x4xf32", "1x3x6xf32", body), ctx)
    check_same(module, ctx, [RaiseLinearPass()])
    [core] = [op for op in module.walk() if isinstance(op, Linear)]
    assert str(core.y.type) == Y


def test_a_shared_product_keeps_its_bias_apart() -> None:
    """The product without bias is read too, so the Add cannot go into it."""
    ctx = float_context()
    body = f"""
        %w = {dense(4, 6)}
        %b = {dense(6)}
        %0 = onnx.MatMul %x, %w : ({X}, tensor<4x6xf32>) -> {Y}
        %1 = onnx.Add %b, %0 : (tensor<6xf32>, {Y}) -> {Y}
        %y = onnx.Mul %0, %1 : ({Y}, {Y}) -> {Y}"""
    module = parse(function("1x3x4xf32", "1x3x6xf32", body), ctx)
    assert check_same(module, ctx, [RaiseLinearPass()]) == {"Linear": 1, "Add": 1, "Mul": 1}


def test_scalars_and_position_embeddings_stay() -> None:
    ctx = float_context()
    body = f"""
        %w = {dense(4, 6)}
        %p = {dense(1, 3, 6)}
        %s = onnx.Constant dense<0.25> : tensor<f32>
        %0 = onnx.MatMul %x, %w : ({X}, tensor<4x6xf32>) -> {Y}
        %1 = onnx.Mul %0, %s : ({Y}, tensor<f32>) -> {Y}
        %y = onnx.Add %1, %p : ({Y}, {Y}) -> {Y}"""
    module = parse(function("1x3x4xf32", "1x3x6xf32", body), ctx)
    assert check_same(module, ctx, [RaiseLinearPass()]) == {"Linear": 1, "Mul": 1, "Add": 1}


def test_quantised_weights_and_roundings_between() -> None:
    ctx = float_context()
    body = f"""
        %q = onnx.Constant dense<{(np.arange(24).reshape(4, 6) - 12).tolist()}> : tensor<4x6xi8>
        %ws = {dense(6).replace("-", "")}
        %s = onnx.Constant dense<0.001> : tensor<f32>
        %z = onnx.Constant dense<0> : tensor<i16>
        %b = {dense(6)}
        %w = onnx.DequantizeLinear %q, %ws : (tensor<4x6xi8>, tensor<6xf32>) -> tensor<4x6xf32>
        %0 = onnx.MatMul %x, %w : ({X}, tensor<4x6xf32>) -> {Y}
        %1 = onnx.QuantizeLinear %0, %s, %z
             : ({Y}, tensor<f32>, tensor<i16>) -> tensor<1x3x6xi16>
        %2 = onnx.DequantizeLinear %1, %s, %z
             : (tensor<1x3x6xi16>, tensor<f32>, tensor<i16>) -> {Y}
        %y = onnx.Add %2, %b : ({Y}, tensor<6xf32>) -> {Y}"""
    module = parse(function("1x3x4xf32", "1x3x6xf32", body), ctx)
    left = check_same(module, ctx, [FoldConstantsPass(), RaiseLinearPass()], tolerance=1e-3)
    assert left == {"Linear": 1}


IMAGE = "1x4x5x5xf32"
NORM = f"""
        %s = {dense(6)}
        %t = {dense(6, seed=2)}
        %m = {dense(6, seed=3)}
        %v = {dense(6, seed=4).replace("-", "")}
        %y = onnx.BatchNormalization %0, %s, %t, %m, %v {{epsilon = 0.001}}
             : (tensor<SHAPE>, tensor<6xf32>, tensor<6xf32>, tensor<6xf32>, tensor<6xf32>)
             -> tensor<SHAPE>"""


@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm_goes_into_the_convolution(bias: bool) -> None:
    ctx = float_context()
    out = "1x6x3x3xf32"
    operands, types = ("%x, %w, %b", ", tensor<6xf32>") if bias else ("%x, %w", "")
    body = f"""
        %w = {dense(6, 2, 3, 3)}
        %b = {dense(6, seed=9)}
        %0 = onnx.Conv {operands} {{group = 2}}
             : (tensor<{IMAGE}>, tensor<6x2x3x3xf32>{types}) -> tensor<{out}>
        {NORM.replace("SHAPE", out)}"""
    module = parse(function(IMAGE, out, body), ctx)
    assert check_same(module, ctx, [FoldBatchNormPass()]) == {"Conv": 1}


def test_batch_norm_goes_into_the_transposed_convolution() -> None:
    ctx = float_context()
    out = "1x6x10x10xf32"
    body = f"""
        %w = {dense(4, 3, 2, 2)}
        %0 = onnx.ConvTranspose %x, %w {{group = 2, strides = [2, 2]}}
             : (tensor<{IMAGE}>, tensor<4x3x2x2xf32>) -> tensor<{out}>
        {NORM.replace("SHAPE", out)}"""
    module = parse(function(IMAGE, out, body), ctx)
    assert check_same(module, ctx, [FoldBatchNormPass()]) == {"ConvTranspose": 1}


def test_lone_batch_norm_and_one_behind_a_linear() -> None:
    ctx = float_context()
    body = f"%0 = onnx.Identity %x : (tensor<1x6x5x5xf32>) -> tensor<1x6x5x5xf32>{NORM}"
    text = function("1x6x5x5xf32", "1x6x5x5xf32", body.replace("SHAPE", "1x6x5x5xf32"))
    left = check_same(parse(text, ctx), ctx, [FoldBatchNormPass()])
    assert left == {"Identity": 1, "Mul": 1, "Add": 1}
    body = f"""
        %w = {dense(4, 6)}
        %0 = onnx.MatMul %x, %w : (tensor<3x4xf32>, tensor<4x6xf32>) -> tensor<3x6xf32>
        {NORM.replace("SHAPE", "3x6xf32")}"""
    module = parse(function("3x4xf32", "3x6xf32", body), ctx)
    assert check_same(module, ctx, [FoldBatchNormPass(), RaiseLinearPass()]) == {"Linear": 1}


def test_batch_norm_with_computed_parameters_is_an_error() -> None:
    ctx = float_context()
    text = """builtin.module { func.func @main(%x: tensor<1x6xf32>, %s: tensor<6xf32>)
        -> tensor<1x6xf32> {
      %y = onnx.BatchNormalization %x, %s, %s, %s, %s {node_name = "bn7"}
        : (tensor<1x6xf32>, tensor<6xf32>, tensor<6xf32>, tensor<6xf32>, tensor<6xf32>)
        -> tensor<1x6xf32>
      func.return %y : tensor<1x6xf32> } }"""
    module = parse(text, ctx)
    with pytest.raises(VitError, match="bn7: BatchNormalization with computed parameters"):
        FoldBatchNormPass().apply(ctx, module)
    assert operators(module) == {"BatchNormalization": 1}
