"""Pass `fill-grids`: values are scaled so that a power-of-two grid has no code to spare.

A grid of powers of two covers a range with up to twice the steps it needs: a largest value of 4.1
takes the same grid as one of 7.9. Where the values come out of parameters and go into weights, a
factor between 1 and 2 can be put on the one and taken from the other, so that the range ends where
the codes do. That gives the precision of arbitrary scales to shifts alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import OpResult, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx.base import shape_of
from vit_opt.dialects.vit.functions import function_name
from vit_opt.passes.algorithms.exponents import covering_asymmetric, covering_frac
from vit_opt.passes.calibrate import STATISTICS, clip_of, range_of, set_range, statistics_of
from vit_opt.passes.float_graph import Constants, label
from vit_opt.passes.fold_scales import Projected, divide_projected, projected, way_between
from vit_opt.passes.quantization.channels import (
    copy_range,
    divide_outputs,
    divide_statistics,
    multiply_inputs,
    replace_operand,
)
from vit_opt.passes.quantization.formats import ANY, ASYMMETRY, covering_type
from vit_opt.passes.quantization.tables import FUNCTION_OF, LAYERS, changing_range, scaled_table
from vit_opt.passes.quantization.webs import multiply_outputs
from vit_opt.passes.raise_attention import climb
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals: TypeAlias = NDArray[np.float64]

Table: TypeAlias = onnx.Gelu | onnx.HardSwish | onnx.Swish
Reader: TypeAlias = onnx.Linear | onnx.Conv

SLACK = 2
"""Codes left over for the rounding of ends and zero points."""


@dataclass(frozen=True)
class FillGridsPass(ModulePass):
    """Scale what products read by factors of 1 to 2, so that its range fills a power-of-two grid.

    Results of LayerNorm: the factor goes onto scale and bias, its inverse into the weights behind.
    Results of GELU and the like: onto the function, as a `Mul` that becomes part of its table.
    Operands of such functions: onto the layer that makes them, the inverse is part of the table, too.
    Results of attention: onto the layer that makes the values. Queries and keys: a factor and its
    inverse, which share what both have to spare. The function is unchanged but for rounding of
    floats. At run time the factors cost nothing; where `quantize{gelu=shift}` makes no tables, those
    around GELU are multiplications. Needs the statistics of `calibrate`.

        %g = onnx.Gelu %h                        %g = onnx.Gelu %h
                                          ->     %m = onnx.Mul %g, 1.7
        %y = onnx.Linear %g, %w                  %y = onnx.Linear %m, %w / 1.7
    """

    name = "fill-grids"

    headroom: float = 1.3
    """How far beyond the calibrated range the codes shall reach, below 2: a few images do not show
    the largest values of others."""

    operands: bool = True
    """Fill the grids of what tables read, too."""

    def __post_init__(self) -> None:
        if not 1.0 <= self.headroom < 2.0:
            raise VitError(f"fill-grids: headroom {self.headroom:g} is not at least 1 and below 2")

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        require_stage(op, self.name, "calibrated")
        fill_grids(op, Constants.of(ctx), self.headroom, operands=self.operands)


def fill_grids(
    module: ModuleOp, constants: Constants, headroom: float = 1.3, *, operands: bool = True
) -> int:
    """Scale every value that qualifies; the number of them. See `FillGridsPass`."""
    filler = _Filler(constants, headroom)
    done = 0
    for op in list(module.walk()):
        match op:
            case onnx.LayerNormalization():
                done += filler.norm(op)
            case onnx.Gelu() | onnx.HardSwish() | onnx.Swish():
                done += filler.table(op)
                done += operands and filler.operand(op)
            case onnx.Linear():
                done += filler.attention(op)
            case onnx.MatMul():
                done += filler.scores(op)
            case _:
                pass
    return done


@dataclass(frozen=True)
class _Filler:
    constants: Constants
    headroom: float

    def spare(self, value: SSAValue, *, symmetric: bool) -> float:
        """How often the range of a value fits into the codes of its grid: 1 to 2."""
        low, high = clip_of(value) or (0.0, 0.0)
        asymmetry = 0.0 if symmetric else ASYMMETRY
        return self.spare_range(low * self.headroom, high * self.headroom, asymmetry)

    def spare_range(self, low: float, high: float, asymmetry: float) -> float:
        """How often a range fits into the codes of its grid; see `covering_type` for `asymmetry`."""
        low, high = min(low, 0.0), max(high, 0.0)
        largest = max(-low, high)
        if not largest > 0.0:
            return 1.0
        if min(-low, high) >= asymmetry * largest:
            frac, codes, width = covering_frac(low, high, -128, 127), 127 - SLACK / 2, largest
        else:
            (frac, _), codes, width = (
                covering_asymmetric(low, high, 0, 255),
                255 - SLACK,
                high - low,
            )
        return max(1.0, math.ldexp(codes, -frac) / width)

    def weights(self, value: SSAValue) -> list[Reader] | None:
        """The products with constant weights that read a value; None if anything else does."""
        readers: list[Reader] = []
        for use in value.uses:
            op = use.operation
            if not isinstance(op, onnx.Linear | onnx.Conv) or use.index != 0:
                return None
            if self.constants.array(op.w) is None:
                return None
            readers.append(op)
        return readers or None

    def shrink(self, readers: list[Reader], factor: float) -> None:
        """Divide the weights of products by a factor."""
        for reader in readers:
            weight = self.constants.array(reader.w)
            assert weight is not None
            replace_operand(reader, 1, weight.astype("float64") / factor, self.constants)

    def norm(self, op: onnx.LayerNormalization) -> bool:
        """Scale a LayerNorm's result."""
        import numpy as np

        readers, statistics = self.weights(op.y), statistics_of(op.y, self.constants.store)
        factor = self.spare(op.y, symmetric=True)
        parameters = [self.constants.array(v) for v in (op.scale, op.bias) if v is not None]
        if (
            readers is None
            or statistics is None
            or factor == 1.0
            or any(array is None for array in parameters)
        ):
            return False
        inverse = np.full(shape_of(op.y)[-1], 1.0 / factor)
        divide_outputs(op, inverse, self.constants)
        divide_statistics(op.y, inverse, self.constants)
        self.shrink(readers, factor)
        return True

    def table(self, op: Table) -> bool:
        """Scale the result of a tabulated function."""
        import numpy as np

        readers = self.weights(op.y)
        factor = self.spare(op.y, symmetric=False)
        low, high = range_of(op.y) or (0.0, 0.0)
        if readers is None or factor == 1.0:
            return False
        constant = self.constants.make(np.array(factor, np.float32), f"{label(op)}.factor")
        scaled = onnx.Mul.make([op.y, constant.y], [op.y.type], node_name=f"{label(op)}.filled")
        Rewriter.insert_op([constant, scaled], InsertPoint.after(op))
        for reader in readers:
            reader.operands[0] = scaled.y
        # What is known of the function's result goes on to the scaled one, as its readers' input.
        result = scaled.results[0]
        set_range(result, low, high)
        for name in (STATISTICS, "vit.clip"):
            if name in op.attributes:
                result.op.attributes[name] = op.attributes[name]
        if STATISTICS in result.op.attributes:
            inverse = np.full(_channels(result, self.constants), 1.0 / factor)
            divide_statistics(result, inverse, self.constants)
            op.attributes.pop(STATISTICS)
        set_range(result, low * factor, high * factor)
        self.shrink(readers, factor)
        return True

    def operand(self, op: Table) -> bool:
        """Scale the operand of a tabulated function through the layer that makes it."""
        import numpy as np

        layer, ends = op.x.owner, range_of(op.x)
        if ends is None or not isinstance(layer, LAYERS) or not op.x.has_one_use():
            return False
        parameters = [self.constants.array(v) for v in (layer.w, layer.bias) if v is not None]
        factor = self.spare_range(*self.changing(op, *ends), ANY)
        if factor == 1.0 or any(array is None for array in parameters):
            return False
        axis = -1 if isinstance(layer, onnx.Linear) else 1
        factors = np.full(shape_of(layer.y)[axis], factor)
        multiply_outputs(layer, factors, self.constants)
        if statistics_of(layer.y, self.constants.store) is not None:
            divide_statistics(layer.y, 1 / factors, self.constants)
        copy_range([layer.y], ends[0] * factor, ends[1] * factor)
        constant = self.constants.make(np.array(1 / factor, np.float32), f"{label(op)}.inverse")
        scaled = onnx.Mul.make([layer.y, constant.y], [op.x.type], node_name=f"{label(op)}.operand")
        Rewriter.insert_op([constant, scaled], InsertPoint.before(op))
        op.operands[0] = scaled.results[0]
        copy_range(scaled.results, *ends)
        return True

    def changing(self, op: Table, low: float, high: float) -> tuple[float, float]:
        """The part of an operand's range, with headroom, in which codes of the result change."""
        y, factor = op.y, None
        [*readers] = (use.operation for use in op.y.uses)
        if len(readers) == 1 and scaled_table(readers[0]) is op:
            y, factor = readers[0].results[0], self.constants.scalar(readers[0].operands[1])
        name = function_name(FUNCTION_OF[type(op)](op), outer=1.0 if factor is None else factor)
        type_ = covering_type(*(clip_of(y) or (0.0, 0.0)), 8, symmetric=False, pot=True)
        return changing_range(name, low * self.headroom, high * self.headroom, type_)

    def attention(self, op: onnx.Linear) -> bool:
        """Scale attention's result through the layer that makes the values."""
        import numpy as np

        path = climb(op.x, self.constants)
        product, statistics = path.top.owner, statistics_of(op.x, self.constants.store)
        if statistics is None or not isinstance(product, onnx.MatMul):
            return False
        values, way = projected(product.b, self.constants), way_between(path, op.x)
        factor = self.spare(op.x, symmetric=True)
        if values is None or way is None or factor == 1.0 or self.constants.array(op.w) is None:
            return False
        self.scale(values, factor)
        inverse = np.full(shape_of(op.x)[-1], 1.0 / factor)
        multiply_inputs(op, inverse, self.constants)
        before = {value: range_of(value) for value in way}
        divide_statistics(op.x, inverse, self.constants)
        for value, ends in before.items():
            if isinstance(value, OpResult) and ends is not None and value is not op.x:
                set_range(value, ends[0] * factor, ends[1] * factor)
        return True

    def scores(self, op: onnx.MatMul) -> bool:
        """Share what queries and keys have to spare, as their product must stay."""
        q, k = projected(op.a, self.constants), projected(op.b, self.constants)
        if q is None or k is None or q.layer is k.layer:
            return False
        left, right = (self.spare(value, symmetric=True) for value in (op.a, op.b))
        both = left * right
        each = math.sqrt(both / 2 if both >= 2 else both)
        factor = left / each
        if factor == 1.0:
            return False
        self.scale(q, factor)
        self.scale(k, 1.0 / factor)
        return True

    def scale(self, side: Projected, factor: float) -> None:
        """Multiply the results of a layer by a factor."""
        import numpy as np

        divide_projected(side, np.full(shape_of(side.layer.y)[-1], 1.0 / factor), self.constants)


def _channels(value: SSAValue, constants: Constants) -> int:
    found = statistics_of(value, constants.store)
    assert found is not None
    return found.channels.minimum.size


__all__ = ["FillGridsPass", "fill_grids"]
