"""The reference interpreter: named inputs, codes and real values, and xDSL's own interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.interpreter import Interpreter
from xdsl.interpreters.func import FuncFunctions
from xdsl.parser import Parser

from vit_opt.backends.reference import run_reference
from vit_opt.backends.reference.functions import VitFunctions
from vit_opt.dialects.assets import AssetStore
from vit_opt.dialects.errors import VitError
from vit_opt.tools.steps import new_context

MODEL = """
func.func @main(%x: tensor<1x4xf32>) -> tensor<1x2xf32>
    attributes {vit.input_names = ["x"], vit.output_names = ["y"]} {
  %q = vit.quantize %x : (tensor<1x4xf32>) -> tensor<1x4x!vit.fixed<ui8, 7, zp = 128>>
  %w = vit.constant {value = dense<[[1, -2, 3, 4], [5, 6, 7, 8]]> : tensor<2x4xi8>}
    : tensor<2x4x!vit.fixed<i8, 5>>
  %r = vit.pipeline {
    %a = vit.linear %q, %w
      : (tensor<1x4x!vit.fixed<ui8, 7, zp = 128>>, tensor<2x4x!vit.fixed<i8, 5>>)
      -> tensor<1x2x!vit.fixed<i32, 12>>
    %b = vit.pot_requant %a : (tensor<1x2x!vit.fixed<i32, 12>>) -> tensor<1x2x!vit.fixed<i8, 6>>
    vit.yield %b : tensor<1x2x!vit.fixed<i8, 6>>
  } : tensor<1x2x!vit.fixed<i8, 6>>
  %y = vit.dequantize %r : (tensor<1x2x!vit.fixed<i8, 6>>) -> tensor<1x2xf32>
  return %y : tensor<1x2xf32>
}
"""

REALS = np.array([[0.5, 0.25, -1, 0.9]], np.float32)
CODES = np.array([[192, 160, 0, 243]])
"""floor(x * 128 + 1/2) + 128."""
RESULT = np.array([[1, 8]])
"""Accumulators 64 - 64 - 384 + 460 = 76 and 320 + 192 - 896 + 920 = 536, shifted from 12
fractional bits to 6: floor(76 / 64 + 1/2) and floor(536 / 64 + 1/2)."""


@pytest.fixture
def module() -> ModuleOp:
    """A linear layer in a pipeline, between quantize and dequantize."""
    return Parser(new_context(), MODEL).parse_module()


@pytest.mark.parametrize("x", [REALS, CODES, CODES.astype(np.uint8)])
def test_reals_and_codes(module: ModuleOp, x: Any) -> None:
    result = run_reference(module, AssetStore(), {"x": x})
    np.testing.assert_array_equal(result.codes["y"], RESULT)
    assert result.codes["y"].dtype == np.int8
    np.testing.assert_array_equal(result.reals["y"], RESULT / np.float32(64))


def test_xdsl_interpreter(module: ModuleOp) -> None:
    interpreter = Interpreter(module)
    interpreter.register_implementations(FuncFunctions())
    interpreter.register_implementations(VitFunctions(AssetStore()))
    [y] = interpreter.call_op("main", (REALS,))
    np.testing.assert_array_equal(y, RESULT / np.float32(64))


def test_observer_sees_the_pipeline(module: ModuleOp) -> None:
    seen: list[str] = []
    run_reference(module, AssetStore(), {"x": REALS}, lambda op, _: seen.append(op.name))
    assert "vit.linear" in seen
    assert seen.index("vit.linear") < seen.index("vit.pipeline")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no array for input 'x'"),
        ({"x": REALS, "z": REALS}, "unknown input 'z'"),
        ({"x": REALS[:, :3]}, r"shape \[1, 3\]"),
        ({"x": REALS.astype(bool)}, "dtype bool"),
        ({"x": CODES + 13}, "outside"),
        ({"x": CODES - 1}, "outside"),
    ],
)
def test_wrong_inputs(module: ModuleOp, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(VitError, match=message):
        run_reference(module, AssetStore(), inputs)
