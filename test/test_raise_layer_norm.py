"""raise-layer-norm: every algebraic form, the model's own weights, any one axis."""

import pytest
from float_checks import check_same, float_context, parse

from vit_opt.dialects.onnx import Constant
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.fold_constants import FoldConstantsPass
from vit_opt.passes.raise_layer_norm import RaiseLayerNormPass

T = "tensor<1x5x8xf32>"
M = "tensor<1x5x1xf32>"
ROW = "tensor<8xf32>"
S = "tensor<f32>"

HEAD = """
    %w = onnx.Constant dense<[1.0, 0.5, -2.0, 1.5, 0.25, 3.0, 1.0, 7.0]> : tensor<8xf32>
    %b = onnx.Constant dense<[0.0, 1.0, -1.0, 0.5, 0.125, -3.0, 2.0, 0.0]> : tensor<8xf32>
    %eps = onnx.Constant dense<1.0e-6> : tensor<f32>
    %zero = onnx.Constant dense<0.0> : tensor<f32>
    %two = onnx.Constant dense<2.0> : tensor<f32>
    %mroot = onnx.Constant dense<-0.5> : tensor<f32>
"""

CENTRED = f"""
    %m = onnx.ReduceMean %x {{axes = [2]}} : ({T}) -> {M}
    %d = onnx.Sub %x, %m : ({T}, {M}) -> {T}
    %q = onnx.Mul %d, %d : ({T}, {T}) -> {T}
    %v = onnx.ReduceMean %q {{axes = [2]}} : ({T}) -> {M}
    %e = onnx.Add %v, %eps : ({M}, {S}) -> {M}
"""

SQUARED_BY_POW = CENTRED.replace(f"Mul %d, %d : ({T}, {T})", f"Pow %d, %two : ({T}, {S})")

FORMS = {
    "torchscript": f"""{SQUARED_BY_POW}
    %r = onnx.Sqrt %e : ({M}) -> {M}
    %n = onnx.Div %d, %r : ({T}, {M}) -> {T}
    %g = onnx.Mul %n, %w : ({T}, {ROW}) -> {T}
    %y = onnx.Add %g, %b : ({T}, {ROW}) -> {T}""",
    "reciprocal": f"""{CENTRED}
    %r = onnx.Sqrt %e : ({M}) -> {M}
    %i = onnx.Reciprocal %r : ({M}) -> {M}
    %g = onnx.Mul %i, %w : ({M}, {ROW}) -> {T}
    %n = onnx.Mul %d, %g : ({T}, {T}) -> {T}
    %y = onnx.Add %b, %n : ({ROW}, {T}) -> {T}""",
    "power, mean moved to the offset": f"""{CENTRED}
    %i = onnx.Pow %e, %mroot : ({M}, {S}) -> {M}
    %g = onnx.Mul %i, %w : ({M}, {ROW}) -> {T}
    %n = onnx.Mul %x, %g : ({T}, {T}) -> {T}
    %o = onnx.Mul %m, %g : ({M}, {T}) -> {T}
    %p = onnx.Sub %b, %o : ({ROW}, {T}) -> {T}
    %y = onnx.Add %n, %p : ({T}, {T}) -> {T}""",
    "mean of squares less square of mean": f"""
    %m = onnx.ReduceMean %x {{axes = [2]}} : ({T}) -> {M}
    %q = onnx.Mul %x, %x : ({T}, {T}) -> {T}
    %s = onnx.ReduceMean %q {{axes = [2]}} : ({T}) -> {M}
    %t = onnx.Mul %m, %m : ({M}, {M}) -> {M}
    %v = onnx.Sub %s, %t : ({M}, {M}) -> {M}
    %e = onnx.Add %v, %eps : ({M}, {S}) -> {M}
    %r = onnx.Sqrt %e : ({M}) -> {M}
    %d = onnx.Sub %x, %m : ({T}, {M}) -> {T}
    %n = onnx.Div %d, %r : ({T}, {M}) -> {T}
    %g = onnx.Mul %n, %w : ({T}, {ROW}) -> {T}
    %y = onnx.Add %g, %b : ({T}, {ROW}) -> {T}""",
}


def text(body: str, shape: str = T) -> str:
    return (
        f"builtin.module {{ func.func @main(%x: {shape}) -> {shape} {{{HEAD}{body}\n"
        f"func.return %y : {shape} }} }}"
    )


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS.keys())
def test_layer_norm_in_every_form(body: str) -> None:
    ctx = float_context()
    module = parse(text(body), ctx)
    assert check_same(module, ctx, [RaiseLayerNormPass()]) == {"LayerNormalization": 1}
    printed = str(module)
    assert "epsilon = 9.99" in printed  # 1e-6 as float32
    # The weights are the constants of the model, not a fit to them.
    arrays = [Constants.of(ctx).array(op.y) for op in module.walk() if isinstance(op, Constant)]
    assert [a.tolist() for a in arrays if a is not None] == [
        [1.0, 0.5, -2.0, 1.5, 0.25, 3.0, 1.0, 7.0],
        [0.0, 1.0, -1.0, 0.5, 0.125, -3.0, 2.0, 0.0],
    ]


def test_without_weights_and_epsilon() -> None:
    ctx = float_context()
    body = f"""{CENTRED.replace("%e = onnx.Add %v, %eps", "%e = onnx.Add %v, %zero")}
        %r = onnx.Sqrt %e : ({M}) -> {M}
    %y = onnx.Div %d, %r : ({T}, {M}) -> {T}"""
    left = check_same(parse(text(body), ctx), ctx, [RaiseLayerNormPass()])
    assert left == {"LayerNormalization": 1}


def test_rms_norm_and_plain_centring_stay() -> None:
    ctx = float_context()
    body = f"""
    %q = onnx.Mul %x, %x : ({T}, {T}) -> {T}
    %v = onnx.ReduceMean %q {{axes = [2]}} : ({T}) -> {M}
    %e = onnx.Add %v, %eps : ({M}, {S}) -> {M}
    %r = onnx.Sqrt %e : ({M}) -> {M}
    %y = onnx.Div %x, %r : ({T}, {M}) -> {T}"""
    module = parse(text(body), ctx)
    assert "LayerNormalization" not in check_same(module, ctx, [RaiseLayerNormPass()])


def test_channels_first_goes_between_transposes() -> None:
    ctx = float_context()
    image, mean, column = "tensor<1x8x3x4xf32>", "tensor<1x1x3x4xf32>", "tensor<8x1x1xf32>"
    body = FORMS["torchscript"].replace("axes = [2]", "axes = [1]")
    body = body.replace("%n, %w", "%n, %wc").replace("%g, %b", "%g, %bc")
    body = body.replace(T, image).replace(M, mean).replace(ROW, column)
    columns = "".join(f"%{n}c = onnx.Reshape %{n} : ({ROW}) -> {column}\n" for n in "wb")
    module = parse(text(columns + body, image), ctx)
    left = check_same(module, ctx, [FoldConstantsPass(), RaiseLayerNormPass()])
    assert left == {"LayerNormalization": 1, "Transpose": 2}
