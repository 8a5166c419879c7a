"""Pass `smooth`: outlier channels of LayerNorm outputs move into the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.passes.calibrate import statistics_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.channels import (
    divide_outputs,
    divide_statistics,
    multiply_inputs,
)
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SmoothPass(ModulePass):
    """Divide LayerNorm outputs by powers of two per channel, multiply the next weights by them.

    For a LayerNormalization all of whose users are `onnx.Linear`, with per-channel maxima x_c of its
    output and w_c of the weights' columns, p_c = PoT(x_c^alpha / w_c^(1 - alpha)) (P2-ViT): scale
    and bias are divided by 2^p_c and the weight columns multiplied by it. The product is unchanged
    in real numbers; the output needs a smaller range. At run time the factors cost nothing: they
    become per-channel shifts of the LayerNorm. Needs the statistics of `calibrate`.

        %n = onnx.LayerNormalization %x, %g, %b         %n = onnx.LayerNormalization %x, %g', %b'
        %y = onnx.Linear %n, %w, %c              ->     %y = onnx.Linear %n, %w', %c
    """

    name = "smooth"

    alpha: float = 0.5
    """Share of an activation's outliers that moves into the weights, 0 to 1 (P2-ViT: 0.35, 0.5)."""

    search: bool = True
    """Choose alpha for each LayerNorm by the expected rounding noise of the products behind it,
    instead of the one given."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise VitError(f"smooth: alpha {self.alpha:g} is not between 0 and 1")

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        require_stage(op, self.name, "calibrated")
        smooth(op, Constants.of(ctx), None if self.search else self.alpha)


def smooth(module: ModuleOp, constants: Constants, alpha: float | None = 0.5) -> int:
    """Smooth every LayerNorm that qualifies; the number of them. See `SmoothPass`.

    `alpha` None: the best for each LayerNorm.
    """
    norms = [op for op in module.walk() if isinstance(op, onnx.LayerNormalization)]
    return sum(_smooth_norm(norm, constants, alpha) for norm in norms)


def _smooth_norm(norm: onnx.LayerNormalization, constants: Constants, alpha: float | None) -> bool:
    import numpy as np

    from vit_opt.passes.algorithms.smoothing import search_exponents, smoothing_exponents

    statistics = statistics_of(norm.y, constants.store)
    readers = [use.operation for use in norm.y.uses]
    weights = [
        constants.array(r.w) if isinstance(r, onnx.Linear) and r.x is norm.y else None
        for r in readers
    ]
    scale, bias = constants.array(norm.scale), constants.array(norm.bias)
    if statistics is None or scale is None or not weights or (norm.bias and bias is None):
        return False
    if any(weight is None for weight in weights):
        return False
    matrices = [cast("NDArray[np.float32]", weight) for weight in weights]
    if alpha is None:
        squares = np.square(statistics.channels.rms)
        columns = np.arange(squares.size)
        parts = [(matrix, columns) for matrix in matrices]
        exponents = search_exponents(statistics.magnitude, squares, parts)
    else:
        columns = [np.abs(matrix).max(axis=0) for matrix in matrices]
        exponents = smoothing_exponents(
            statistics.magnitude, np.max(columns, axis=0).astype(np.float64), alpha
        )
    if not exponents.any():
        return False
    factor = np.exp2(exponents.astype(np.float64))
    divide_outputs(norm, factor, constants)
    for reader in readers:
        multiply_inputs(cast("onnx.Linear", reader), factor, constants)
    divide_statistics(norm.y, factor, constants)
    return True
