"""raise-attention and decompose-einsum: one form for every arrangement of QKV."""

import numpy as np
import pytest
from float_checks import check_same, float_context, parse
from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx.base import integers, shape_of
from vit_opt.passes.decompose_einsum import DecomposeEinsumPass
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.fold_constants import FoldConstantsPass
from vit_opt.passes.raise_attention import RaiseAttentionPass
from vit_opt.passes.simplify_graph import SimplifyGraphPass

# Tokens, channels, heads, head width
N, C, H, D = 5, 12, 2, 6


def t(*shape: int) -> str:
    return f"tensor<{'x'.join(map(str, shape))}xf32>" if shape else "tensor<f32>"


def weights(name: str, *shape: int, seed: int = 0) -> str:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape).round(3).tolist()
    return f"%{name} = onnx.Constant dense<{values}> : {t(*shape)}"


X, Q, KT, P = t(1, N, C), t(1, H, N, D), t(1, H, D, N), t(1, H, N, N)
HEAD = f"""
    {weights("w", 3 * C, C)}
    {weights("b", 3 * C)}
    %c = onnx.Constant dense<{D**-0.5}> : tensor<f32>
    %r = onnx.Constant dense<{D**-0.25}> : tensor<f32>
    %d = onnx.Constant dense<{D**0.5}> : tensor<f32>
    %s = onnx.Linear %x, %w, %b {{node_name = "qkv"}} : ({X}, {t(3 * C, C)}, {t(3 * C)})
         -> {t(1, N, 3 * C)}
"""
TAIL = f"""
    %o = onnx.Transpose %a {{perm = [0, 2, 1, 3]}} : ({Q}) -> {t(1, N, H, D)}
    %y = onnx.Reshape %o : ({t(1, N, H, D)}) -> {X}
    func.return %y : {X} }} }}
"""
# Reshape to [1, N, 3, H, D], then [3, 1, H, N, D]
PERMUTED = f"""
    %s1 = onnx.Reshape %s : ({t(1, N, 3 * C)}) -> {t(1, N, 3, H, D)}
    %s2 = onnx.Transpose %s1 {{perm = [2, 0, 3, 1, 4]}}
          : ({t(1, N, 3, H, D)}) -> {t(3, 1, H, N, D)}
"""
SPLIT = f"""{PERMUTED}
    %q1, %k1, %v1 = onnx.Split %s2 {{axis = 0}} : ({t(3, 1, H, N, D)})
          -> ({t(1, 1, H, N, D)}, {t(1, 1, H, N, D)}, {t(1, 1, H, N, D)})
    %q = onnx.Squeeze %q1 : ({t(1, 1, H, N, D)}) -> {Q}
    %k = onnx.Squeeze %k1 : ({t(1, 1, H, N, D)}) -> {Q}
    %v = onnx.Squeeze %v1 : ({t(1, 1, H, N, D)}) -> {Q}
"""
GATHER = f"""{PERMUTED}
    %i0 = onnx.Constant dense<0> : tensor<i64>
    %i1 = onnx.Constant dense<1> : tensor<i64>
    %i2 = onnx.Constant dense<2> : tensor<i64>
    %q = onnx.Gather %s2, %i0 {{axis = 0}} : ({t(3, 1, H, N, D)}, tensor<i64>) -> {Q}
    %k = onnx.Gather %s2, %i1 {{axis = 0}} : ({t(3, 1, H, N, D)}, tensor<i64>) -> {Q}
    %v = onnx.Gather %s2, %i2 {{axis = 0}} : ({t(3, 1, H, N, D)}, tensor<i64>) -> {Q}
"""
# Cut the channels first (as most hand-written attention does), then heads.
CHUNKS = "".join(
    f"""
    %{n}0 = onnx.Slice %s {{starts = [{i * C}], ends = [{i * C + C}], axes = [2], steps = [1]}}
         : ({t(1, N, 3 * C)}) -> {X}
    %{n}1 = onnx.Reshape %{n}0 : ({X}) -> {t(1, N, H, D)}
    %{n} = onnx.Transpose %{n}1 {{perm = [0, 2, 1, 3]}} : ({t(1, N, H, D)}) -> {Q}"""
    for i, n in enumerate("qkv")
)
# Heads outside of q, k, v: [1, N, H, 3 D], as timm's older models and Swin-V1 forks have it.
INTERLEAVED = f"""
    %s1 = onnx.Reshape %s : ({t(1, N, 3 * C)}) -> {t(1, N, H, 3 * D)}
    %s2 = onnx.Transpose %s1 {{perm = [0, 2, 1, 3]}} : ({t(1, N, H, 3 * D)}) -> {t(1, H, N, 3 * D)}
    %q, %k, %v = onnx.Split %s2 {{axis = 3}} : ({t(1, H, N, 3 * D)}) -> ({Q}, {Q}, {Q})
"""
TRANSPOSED = f"%kt = onnx.Transpose %k {{perm = [0, 1, 3, 2]}} : ({Q}) -> {KT}"
# As the dynamo exporter writes scaled_dot_product_attention.
TRANSPOSED_BY_RESHAPES = f"""
    %k4 = onnx.Reshape %k : ({Q}) -> {t(H, N, D)}
    %k5 = onnx.Transpose %k4 {{perm = [0, 2, 1]}} : ({t(H, N, D)}) -> {t(H, D, N)}
    %kt = onnx.Reshape %k5 : ({t(H, D, N)}) -> {KT}"""
CORES = {
    "factor on q": f"""
    %m0 = onnx.Mul %q, %c : ({Q}, tensor<f32>) -> {Q}
    %m = onnx.MatMul %m0, %kt : ({Q}, {KT}) -> {P}
    %p = onnx.Softmax %m {{axis = 3}} : ({P}) -> {P}
    %a = onnx.MatMul %p, %v : ({P}, {Q}) -> {Q}""",
    "root of the factor on q and k": f"""
    %m0 = onnx.Mul %q, %r : ({Q}, tensor<f32>) -> {Q}
    %m1 = onnx.Mul %r, %kt : (tensor<f32>, {KT}) -> {KT}
    %m = onnx.MatMul %m0, %m1 : ({Q}, {KT}) -> {P}
    %p = onnx.Softmax %m {{axis = -1}} : ({P}) -> {P}
    %a = onnx.MatMul %p, %v : ({P}, {Q}) -> {Q}""",
    "scores divided": f"""
    %m0 = onnx.MatMul %q, %kt : ({Q}, {KT}) -> {P}
    %m = onnx.Div %m0, %d : ({P}, tensor<f32>) -> {P}
    %p = onnx.Softmax %m {{axis = 3}} : ({P}) -> {P}
    %a = onnx.MatMul %p, %v : ({P}, {Q}) -> {Q}""",
    "bias on the scores": f"""
    {weights("bias", 1, H, N, N)}
    %m0 = onnx.MatMul %q, %kt : ({Q}, {KT}) -> {P}
    %m1 = onnx.Mul %m0, %c : ({P}, tensor<f32>) -> {P}
    %m = onnx.Add %bias, %m1 : ({P}, {P}) -> {P}
    %p = onnx.Softmax %m {{axis = 3}} : ({P}) -> {P}
    %a = onnx.MatMul %p, %v : ({P}, {Q}) -> {Q}""",
}


def text(*parts: str) -> str:
    return f"builtin.module {{ func.func @main(%x: {X}) -> {X} {{" + "".join(parts) + TAIL


def check_canonical(module: ModuleOp, ctx: VitContext) -> None:
    """Each MatMul operand is Transpose(Reshape(Linear)), the one factor a power of two."""
    constants = Constants.of(ctx)
    scores, output = (op for op in module.walk() if isinstance(op, onnx.MatMul))
    perms: list[tuple[int, ...]] = []
    for value in (scores.a, scores.b, output.b):
        assert isinstance(value.owner, onnx.Transpose)
        perms.append(integers(value.owner.perm))
        assert isinstance(value.owner.x.owner, onnx.Reshape)
        assert shape_of(value.owner.x) == (1, N, H, D)
        assert isinstance(value.owner.x.owner.x.owner, onnx.Linear)
    assert perms == [(0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)]
    [factor] = [op for op in module.walk() if isinstance(op, onnx.Mul)]
    assert factor.inputs[0] is scores.y
    assert constants.scalar(factor.inputs[1]) == 0.5  # nearest to 6^-0.5 = 0.41


@pytest.mark.parametrize("core", CORES.values(), ids=CORES.keys())
@pytest.mark.parametrize("transposed", [TRANSPOSED, TRANSPOSED_BY_RESHAPES], ids=["t", "rtr"])
@pytest.mark.parametrize(
    "cut", [SPLIT, GATHER, CHUNKS, INTERLEAVED], ids=["split", "gather", "chunks", "interleaved"]
)
@pytest.mark.parametrize("simplify", [False, True])
def test_one_form_for_all(cut: str, transposed: str, core: str, simplify: bool) -> None:
    ctx = float_context()
    module = parse(text(HEAD, cut, transposed, core), ctx)
    passes = [SimplifyGraphPass()] * simplify + [RaiseAttentionPass(), FoldConstantsPass()]
    left = check_same(module, ctx, passes)
    expected = {"Linear": 3, "Reshape": 4, "Transpose": 4, "MatMul": 2, "Softmax": 1, "Mul": 1}
    assert left == expected | ({"Add": 1} if "%bias" in core else {})
    check_canonical(module, ctx)
    again = check_same(module, ctx, [RaiseAttentionPass(), SimplifyGraphPass()])
    assert again == left


def test_weight_rows_are_those_of_the_fused_layer() -> None:
    ctx = float_context()
    module = parse(text(HEAD, SPLIT, TRANSPOSED, CORES["scores divided"]), ctx)
    constants = Constants.of(ctx)
    [fused] = [op for op in module.walk() if isinstance(op, onnx.Linear)]
    weight, bias = constants.array(fused.w), constants.array(fused.bias)
    assert weight is not None and bias is not None
    RaiseAttentionPass().apply(ctx, module)
    parts = [op for op in module.walk() if isinstance(op, onnx.Linear)]
    assert [op.label for op in parts] == ["qkv.q", "qkv.k", "qkv.v"]
    rest = np.float32(D**-0.5 / 0.5)
    for index, (op, factor) in enumerate(zip(parts, (rest, 1, 1), strict=True)):
        rows = slice(index * C, (index + 1) * C)
        np.testing.assert_allclose(constants.array(op.w), weight[rows] * factor, rtol=1e-6)
        np.testing.assert_allclose(constants.array(op.bias), bias[rows] * factor, rtol=1e-6)


def test_tokens_out_of_order_are_left_alone() -> None:
    """Rolled keys are no projection of the layer: its layout stays, only factors are gathered."""
    ctx = float_context()
    rolled = f"""
    %g = onnx.Constant dense<[1, 2, 3, 4, 0]> : tensor<5xi64>
    %kr = onnx.Gather %k, %g {{axis = 2}} : ({Q}, tensor<5xi64>) -> {Q}
    {TRANSPOSED.replace("%k {", "%kr {")}"""
    module = parse(text(HEAD, CHUNKS, rolled, CORES["scores divided"]), ctx)
    left = check_same(module, ctx, [RaiseAttentionPass()])
    assert left["Linear"] == 3 and left["Gather"] == 1 and left["Mul"] == 1


def test_attention_of_inputs_keeps_its_factor_whole() -> None:
    """Without linear layers there are no weights to take a part of the factor."""
    ctx = float_context()
    module = parse(
        f"""builtin.module {{ func.func @main(%q: {Q}, %kt: {KT}, %v: {Q}) -> {Q} {{
        %c = onnx.Constant dense<0.3> : tensor<f32>
        {CORES["root of the factor on q and k"].replace("%r", "%c")}
        func.return %a : {Q} }} }}""",
        ctx,
    )
    assert check_same(module, ctx, [RaiseAttentionPass()]) == {"MatMul": 2, "Mul": 1, "Softmax": 1}
    [factor] = [op for op in module.walk() if isinstance(op, onnx.Mul)]
    assert Constants.of(ctx).scalar(factor.inputs[1]) == pytest.approx(0.09)


def test_roundings_stay_on_the_operands() -> None:
    """Q/DQ pairs on q, k, v and the scores survive, with scales that fit the new values."""
    ctx = float_context()
    pairs: list[str] = []

    def rounded(name: str, type_: str, step: float) -> str:
        codes = type_.replace("f32", "i16")
        pairs.append(name)
        return f"""
    %{name}_s = onnx.Constant dense<{step}> : tensor<f32>
    %{name}_z = onnx.Constant dense<3> : tensor<i16>
    %{name}_q = onnx.QuantizeLinear %{name}, %{name}_s, %{name}_z
         : ({type_}, tensor<f32>, tensor<i16>) -> {codes}
    %{name}_f = onnx.DequantizeLinear %{name}_q, %{name}_s, %{name}_z
         : ({codes}, tensor<f32>, tensor<i16>) -> {type_}"""

    core = f"""{rounded("q", Q, 0.001)}{rounded("kt", KT, 0.001)}
    %m0 = onnx.MatMul %q_f, %kt_f : ({Q}, {KT}) -> {P}
    {rounded("m0", P, 0.002)}
    %m = onnx.Mul %m0_f, %c : ({P}, tensor<f32>) -> {P}
    {rounded("m", P, 0.001)}
    %p = onnx.Softmax %m_f {{axis = 3}} : ({P}) -> {P}
    {rounded("v", Q, 0.002)}
    %a = onnx.MatMul %p, %v_f : ({P}, {Q}) -> {Q}"""
    module = parse(text(HEAD, SPLIT, TRANSPOSED, core), ctx)
    left = check_same(module, ctx, [RaiseAttentionPass()], tolerance=2e-3)
    assert left["Linear"] == 3
    # q, k, v and the softmax's operand; the product's own rounding went away.
    assert left["QuantizeLinear"] == left["DequantizeLinear"] == 4
    constants = Constants.of(ctx)
    steps = [
        constants.scalar(op.inputs[1])
        for op in module.walk()
        if isinstance(op, onnx.QuantizeLinear)
    ]
    expected = [0.001 * D**-0.5 / 0.5, 0.001, 0.001, 0.002]
    assert sorted(s for s in steps if s) == pytest.approx(sorted(expected))


EINSUMS = [
    ("bhid,bhjd->bhij", (1, 2, 3, 4), (1, 2, 5, 4)),
    ("bhij,bhjd->bihd", (1, 2, 3, 5), (1, 2, 5, 4)),
    ("bihd,bjhd->bhij", (1, 3, 2, 4), (1, 5, 2, 4)),
    ("bnc,chd->bhnd", (1, 3, 6), (6, 2, 4)),
    ("ij,jk", (3, 4), (4, 5)),
    ("i,j->ji", (3,), (4,)),
    ("abcd,cdef->fabe", (2, 3, 4, 5), (4, 5, 2, 3)),
]


@pytest.mark.parametrize(("equation", "a", "b"), EINSUMS)
def test_einsum(equation: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    result = np.einsum(equation, np.zeros(a), np.zeros(b)).shape
    ctx = float_context()
    module = parse(
        f"""builtin.module {{ func.func @main(%a: {t(*a)}, %b: {t(*b)}) -> {t(*result)} {{
        %y = onnx.Einsum %a, %b {{equation = "{equation}"}}
             : ({t(*a)}, {t(*b)}) -> {t(*result)}
        func.return %y : {t(*result)} }} }}""",
        ctx,
    )
    left = check_same(module, ctx, [DecomposeEinsumPass()])
    assert left["MatMul"] == 1 and left.keys() <= {"MatMul", "Reshape", "Transpose"}


@pytest.mark.parametrize("equation", ["ii,ij->j", "ij,kj->i", "...i,ij->...j"])
def test_other_einsums_are_errors(equation: str) -> None:
    ctx = float_context()
    module = parse(
        f"""builtin.module {{ func.func @main(%a: {t(3, 3)}) -> {t(3)} {{
        %y = onnx.Einsum %a, %a {{equation = "{equation}", node_name = "e1"}}
             : ({t(3, 3)}, {t(3, 3)}) -> {t(3)}
        func.return %y : {t(3)} }} }}""",
        ctx,
    )
    with pytest.raises(VitError, match=r"e1: Einsum .* is not supported"):
        DecomposeEinsumPass().apply(ctx, module)
