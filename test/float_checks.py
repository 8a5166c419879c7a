"""Running float graphs in tests: parse, apply passes, compare values before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func
from xdsl.parser import Parser
from xdsl.passes import ModulePass

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.evaluation import main_function, run_function
from vit_opt.dialects.onnx import Constant, Onnx, OnnxOp
from vit_opt.dialects.onnx.base import shape_of
from vit_opt.dialects.onnx.semantics import evaluate

Array: TypeAlias = NDArray[Any]


def float_context() -> VitContext:
    """A context with what float graphs consist of."""
    ctx = VitContext()
    for dialect in (Builtin, Func, Onnx):
        ctx.load_dialect(dialect)
    return ctx


def parse(text: str, ctx: VitContext) -> ModuleOp:
    """A verified module from text."""
    module = Parser(ctx, text).parse_module()
    module.verify()
    return module


def random_inputs(module: ModuleOp, seed: int = 0) -> list[Array]:
    """Normal random arrays for the arguments of @main."""
    rng = np.random.default_rng(seed)
    arguments = main_function(module).body.block.args
    return [rng.standard_normal(shape_of(arg), dtype=np.float32) for arg in arguments]


def run(module: ModuleOp, inputs: Sequence[Array], ctx: VitContext) -> tuple[Array, ...]:
    """The results of @main."""
    return run_function(
        main_function(module), inputs, lambda op, args: evaluate(op, args, ctx.assets)
    )


def operators(module: ModuleOp) -> Counter[str]:
    """How often each operator occurs, constants not counted."""
    return Counter(
        op.name.removeprefix("onnx.")
        for op in module.walk()
        if isinstance(op, OnnxOp) and not isinstance(op, Constant)
    )


def check_same(
    module: ModuleOp,
    ctx: VitContext,
    passes: Sequence[ModulePass],
    *,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> Counter[str]:
    """Applies passes in place, and asserts that the values stay equal up to float rounding.

    `tolerance` is relative to the largest value of each result. Returns the operators left.
    """
    inputs = random_inputs(module, seed)
    before = run(module, inputs, ctx)
    for each in passes:
        each.apply(ctx, module)
        module.verify()
    for old, new in zip(before, run(module, inputs, ctx), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=tolerance * np.abs(old).max())
    return operators(module)
