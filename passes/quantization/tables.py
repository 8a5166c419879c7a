"""Tables of real functions over the codes of a format."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xdsl.ir import Operation

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx.base import real, shape_of
from vit_opt.dialects.vit.attributes import QuantizedType
from vit_opt.dialects.vit.functions import function_parts
from vit_opt.passes.quantization.formats import ANY, covering_type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vit_opt.dialects.vit.semantics.activation import RealFunction


def _gelu(op: onnx.Gelu) -> str:
    return "gelu_tanh" if op.approximate.data == "tanh" else "gelu"


def _hard_sigmoid(op: onnx.HardSigmoid) -> str:
    alpha, beta = real(op.alpha), real(op.beta)
    if abs(alpha * 6 - 1) > 1e-5 or abs(beta - 0.5) > 1e-5:
        raise VitError(
            f"{op.label}: HardSigmoid with alpha {alpha:g} and beta {beta:g}; only 1/6 and 1/2 "
            f"are supported"
        )
    return "hardsigmoid"


def _swish(op: onnx.Swish) -> str:
    alpha = real(op.alpha)
    name = {1.0: "silu", 1.702: "quick_gelu"}.get(round(alpha, 6))
    if name is None:
        raise VitError(f"{op.label}: Swish with alpha {alpha:g}; only 1 and 1.702 are supported")
    return name


FUNCTION_OF: dict[type[Operation], Callable[[Any], str]] = {
    onnx.Gelu: _gelu,
    onnx.HardSwish: lambda op: "hardswish",
    onnx.HardSigmoid: _hard_sigmoid,
    onnx.Sigmoid: lambda op: "sigmoid",
    onnx.Swish: _swish,
    onnx.Tanh: lambda op: "tanh",
    onnx.Erf: lambda op: "erf",
}
"""The name of the function that an operation tabulates."""

LAYERS = (onnx.Linear, onnx.Conv, onnx.ConvTranspose)
"""Products whose results tables read."""


def scaled_table(op: Operation) -> Any | None:
    """The tabulated function that a `Mul` by a constant scales, if nothing else reads it."""
    if not isinstance(op, onnx.Mul) or not isinstance(op.inputs[1].owner, onnx.Constant):
        return None
    owner = op.inputs[0].owner
    if not isinstance(owner, onnx.OnnxOp) or type(owner) not in FUNCTION_OF:
        return None
    return owner if op.inputs[0].has_one_use() and not shape_of(op.inputs[1]) else None


def scaled_operand(op: Operation) -> onnx.Mul | None:
    """The `Mul` by a constant number that makes the operand of a tabulated function, for it alone."""
    scaling = op.operands[0].owner if type(op) in FUNCTION_OF else None
    if not isinstance(scaling, onnx.Mul) or not isinstance(scaling.inputs[1].owner, onnx.Constant):
        return None
    single = scaling.y.has_one_use() and not shape_of(scaling.inputs[1])
    return scaling if single and isinstance(scaling.inputs[0].owner, LAYERS) else None


def part_of_table(op: Operation) -> bool:
    """Whether an operation scales the result or the operand of a tabulated function."""
    readers = [use.operation for result in op.results for use in result.uses]
    return scaled_table(op) is not None or (len(readers) == 1 and scaled_operand(readers[0]) is op)


SAMPLES = 4096
"""Points at which a function is compared with its value at the ends of a range."""


def real_function(name: str) -> RealFunction | None:
    """The function that a name stands for, see `function_name`; None if there is none."""
    from vit_opt.dialects.vit.semantics.activation import FUNCTIONS

    base, inner, outer = function_parts(name)
    found = FUNCTIONS.get(base)
    if found is None or (inner == 1.0 and outer == 1.0):
        return found
    plain = found
    return lambda x: outer * plain(inner * x)


def changing_range(function: str, low: float, high: float, y: QuantizedType) -> tuple[float, float]:
    """The part of low .. high outside of which a function's codes in format y stay the same.

    An operand may saturate there without changing the result: GELU is zero to 8 bits below about
    -3, a sigmoid reaches its ends at a few units. At least one step of the samples remains.
    """
    import numpy as np

    tabulated = real_function(function)
    if tabulated is None or not low < high:
        return low, high
    points = np.linspace(low, high, SAMPLES)
    floor, ceiling = y.bounds
    codes = np.rint(tabulated(points) / float(y.channel_scales())) + y.zero_point
    codes = np.clip(codes, floor, ceiling)
    changes = np.flatnonzero(np.diff(codes))
    if not changes.size:
        return low, high
    return float(points[changes[0]]), float(points[changes[-1] + 1])


def table_operand(low: float, high: float, bits: int) -> QuantizedType:
    """The format in which a table reads low .. high: nothing else reads it, so any zero point will do."""
    return covering_type(low, high, bits, symmetric=bits == 16, pot=False, asymmetry=ANY)


def table_codes(function: str, x: QuantizedType, y: QuantizedType) -> NDArray[np.int64]:
    """The entries of a `vit.lut`: the function at every code of x, in codes of y.

    256 entries for 8-bit x, 257 support points for 16-bit x. Raises VitError for an unknown name.
    """
    from vit_opt.dialects.vit.semantics.activation import FUNCTIONS, make_table, make_table16

    tabulated = real_function(function)
    if tabulated is None:
        raise VitError(f"no function '{function}' to tabulate; known: {', '.join(FUNCTIONS)}")
    make = make_table16 if x.storage.width.data == 16 else make_table
    return make(
        tabulated,
        float(x.channel_scales()),
        float(y.channel_scales()),
        x.bounds[0],
        *y.bounds,
        x.zero_point,
        y.zero_point,
    )
