"""raise-gelu, raise-hard-swish: every spelling is found, nothing else is."""

import pytest
from float_checks import check_same, float_context, parse

from vit_opt.passes.raise_gelu import RaiseGeluPass
from vit_opt.passes.raise_hard_swish import RaiseHardSwishPass

T = "tensor<1x5x96xf32>"
S = "tensor<f32>"
CONSTANTS = {
    "half": 0.5,
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "six": 6.0,
    "zero": 0.0,
    "third": 1 / 6,
    "root2": 2**0.5,
    "inv_root2": 0.5**0.5,
    "cubic": 0.044715,
    "root_2_pi": 0.7978845608028654,
    "quick": 1.702,
}


def module_text(lines: str, types: str = T) -> str:
    """A function of one argument %x; `lines` are `%name = Operator operands [{attributes}]`."""
    body = [f"%{name} = onnx.Constant dense<{value!r}> : {S}" for name, value in CONSTANTS.items()]
    for line in lines.strip().splitlines():
        target, _, call = line.strip().partition(" = ")
        operator, _, rest = call.partition(" ")
        operands, brace, attributes = rest.partition("{")
        names = [name.strip() for name in operands.split(",")]
        inputs = ", ".join(S if name[1:] in CONSTANTS else types for name in names)
        body.append(
            f"{target} = onnx.{operator} {', '.join(names)} {brace}{attributes}"
            f" : ({inputs}) -> {types}"
        )
    text = "\n    ".join(body)
    return f"""
builtin.module {{
  func.func @main(%x: {types}) -> {types} {{
    {text}
    func.return %y : {types}
  }}
}}"""


GELUS = {
    "torchscript": """
        %a = Div %x, %root2
        %b = Erf %a
        %c = Add %b, %one
        %d = Mul %x, %c
        %y = Mul %d, %half""",
    "dynamo": """
        %a = Div %x, %root2
        %b = Erf %a
        %c = Add %one, %b
        %d = Mul %half, %c
        %y = Mul %x, %d""",
    "halves first": """
        %h = Mul %x, %half
        %a = Mul %inv_root2, %x
        %b = Erf %a
        %c = Mul %h, %b
        %y = Add %c, %h""",
    "divided by two": """
        %a = Mul %x, %inv_root2
        %b = Erf %a
        %c = Add %b, %one
        %d = Mul %c, %x
        %y = Div %d, %two""",
}

TANH_GELU = """
        %a = Pow %x, %three
        %b = Mul %a, %cubic
        %c = Add %x, %b
        %d = Mul %c, %root_2_pi
        %e = Tanh %d
        %f = Add %e, %one
        %g = Mul %f, %x
        %y = Mul %g, %half"""


@pytest.mark.parametrize("lines", GELUS.values(), ids=GELUS.keys())
def test_gelu_in_every_spelling(lines: str) -> None:
    ctx = float_context()
    module = parse(module_text(lines), ctx)
    assert check_same(module, ctx, [RaiseGeluPass()]) == {"Gelu": 1}
    assert "approximate" not in str(module)


def test_tanh_gelu_is_told_apart() -> None:
    ctx = float_context()
    module = parse(module_text(TANH_GELU), ctx)
    assert check_same(module, ctx, [RaiseGeluPass()]) == {"Gelu": 1}
    assert 'approximate = "tanh"' in str(module)


def test_twice_gelu() -> None:
    """As simplifiers leave it that put the half into the convolution behind it."""
    ctx = float_context()
    lines = GELUS["torchscript"].replace("%d = Mul %x, %c", "%y = Mul %x, %c")
    lines = lines[: lines.index("%y = Mul %d")]
    module = parse(module_text(lines), ctx)
    assert check_same(module, ctx, [RaiseGeluPass()]) == {"Gelu": 1, "Mul": 1}


def test_what_is_no_gelu_stays() -> None:
    ctx = float_context()
    lines = GELUS["torchscript"].replace("%root2", "%two")
    assert "Gelu" not in check_same(parse(module_text(lines), ctx), ctx, [RaiseGeluPass()])
    # The sigmoid approximation is 0.02 off.
    lines = """
        %a = Mul %x, %quick
        %b = Sigmoid %a
        %y = Mul %x, %b"""
    assert "Gelu" not in check_same(parse(module_text(lines), ctx), ctx, [RaiseGeluPass()])


def test_gelu_of_a_value_that_is_itself_elementwise() -> None:
    """The leaf is x * x, not x: the smallest cone that fits is taken."""
    ctx = float_context()
    lines = "%s = Mul %x, %x\n" + GELUS["halves first"].replace("%x", "%s").strip()
    left = check_same(parse(module_text(lines), ctx), ctx, [RaiseGeluPass()])
    assert left == {"Mul": 1, "Gelu": 1}


HARD_SWISHES = {
    "hard sigmoid": """
        %a = HardSigmoid %x {alpha = 0.16666666666666666, beta = 0.5}
        %y = Mul %x, %a""",
    "clip, divided": """
        %a = Add %x, %three
        %b = Clip %a {min = 0.0, max = 6.0}
        %c = Mul %x, %b
        %y = Div %c, %six""",
    "clip, scaled first": """
        %a = Add %three, %x
        %b = Clip %a {min = 0.0, max = 6.0}
        %c = Mul %b, %third
        %y = Mul %c, %x""",
    "relu and min": """
        %a = Add %x, %three
        %b = Relu %a
        %c = Min %b, %six
        %d = Div %c, %six
        %y = Mul %d, %x""",
}


@pytest.mark.parametrize("lines", HARD_SWISHES.values(), ids=HARD_SWISHES.keys())
def test_hard_swish_in_every_spelling(lines: str) -> None:
    ctx = float_context()
    module = parse(module_text(lines), ctx)
    assert check_same(module, ctx, [RaiseHardSwishPass()]) == {"HardSwish": 1}


def test_hard_sigmoid_and_other_clips() -> None:
    ctx = float_context()
    lines = """
        %a = Add %x, %three
        %b = Clip %a {min = 0.0, max = 6.0}
        %y = Div %b, %six"""
    module = parse(module_text(lines), ctx)
    assert check_same(module, ctx, [RaiseHardSwishPass()]) == {"HardSigmoid": 1}
    module = parse(module_text(lines.replace("max = 6.0", "max = 5.0")), ctx)
    assert check_same(module, ctx, [RaiseHardSwishPass()]) == {"Add": 1, "Clip": 1, "Div": 1}
