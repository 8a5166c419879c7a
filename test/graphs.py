"""Small modules from text, run through passes and evaluated: what the pass tests share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xdsl.dialects.builtin import Builtin, ModuleOp
from xdsl.dialects.func import Func
from xdsl.parser import Parser
from xdsl.transforms.canonicalize import CanonicalizePass

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.evaluation import run_main
from vit_opt.dialects.onnx import Onnx
from vit_opt.dialects.onnx.semantics import evaluate as evaluate_float
from vit_opt.dialects.vit import Vit
from vit_opt.dialects.vit.evaluate import evaluator
from vit_opt.passes import pass_class

Array = NDArray[Any]


def context(batches: Sequence[Mapping[str, Array]] = ()) -> VitContext:
    """A context with our dialects and calibration batches."""
    ctx = VitContext()
    for dialect in (Builtin, Func, Onnx, Vit):
        ctx.load_dialect(dialect)
    ctx.assets.batches = [dict(batch) for batch in batches]
    return ctx


def parse(ctx: VitContext, text: str) -> ModuleOp:
    """A verified module from text."""
    module = Parser(ctx, text).parse_module()
    module.verify()
    return module


def tensor_of(array: Array) -> str:
    """The float type of an array's shape, as text."""
    return f"tensor<{'x'.join(map(str, array.shape))}xf32>"


def constant(array: Array) -> str:
    """A constant of an array's values, as text."""
    return f"onnx.Constant dense<{array.astype(np.float32).tolist()}> : {tensor_of(array)}"


def apply(ctx: VitContext, module: ModuleOp, *passes: str, **options: Any) -> None:
    """Run passes by short name, verifying after each; `options` go to the last one."""
    for name in passes:
        given = options if name == passes[-1] else {}
        pass_class(name)(**given).apply(ctx, module)
        module.verify()


def canonicalize(ctx: VitContext, module: ModuleOp) -> None:
    """xDSL's canonicalisation."""
    CanonicalizePass().apply(ctx, module)
    module.verify()


def run_float(ctx: VitContext, module: ModuleOp, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a float graph."""
    return run_main(module, inputs, lambda op, args: evaluate_float(op, args, ctx.assets))


def run_integer(ctx: VitContext, module: ModuleOp, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of an integer graph."""
    return run_main(module, inputs, evaluator(ctx.assets))


def sqnr(reference: Array, value: Array) -> float:
    """Signal to quantisation noise in dB."""
    noise = float(np.square(reference - value).sum())
    return 10 * float(np.log10(np.square(reference).sum() / noise)) if noise else np.inf
