"""Pass `fold-scales`: balance channels of queries against keys, and of values against projections.

Unlike a LayerNorm's output, which `smooth` treats, these channels meet their counterparts in a
product: q . k sums over the channels of a head, and a value channel arrives, weighted by
probabilities, at one column of the projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx.base import shape_of
from vit_opt.passes.calibrate import statistics_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.balance import attention_factors
from vit_opt.passes.quantization.channels import (
    copy_range,
    divide_outputs,
    divide_statistics,
    multiply_inputs,
)
from vit_opt.passes.quantization.webs import observe, scale_channels, webs_of
from vit_opt.passes.raise_attention import Path, climb, element_numbers
from vit_opt.passes.reproducible import reproducible
from vit_opt.passes.stage import require_stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints: TypeAlias = NDArray[np.int64]
    Magnitudes: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class FoldScalesPass(ModulePass):
    """Move powers of two between the channels of layers that a product of activations connects.

    Queries and keys: q_c * 2^-p and k_c * 2^p with p = PoT(sqrt(q_c / k_c)) of the channels'
    largest magnitudes, so that both use the codes of their common format alike. Values and the
    projection behind the attention: v_c * 2^-p, the projection's column * 2^p, as `smooth` does for
    LayerNorm. The function is unchanged, exactly; at run time the factors cost nothing. Only layers
    that nothing else reads are touched. Needs the statistics of `calibrate`.

    Linear attention keeps K^T V and the sum of K in 8 bits: key channels are scaled so that the rows
    of the state of all heads are equally large, value channels so that its columns are, the queries
    and the layer behind against them (`quantization.balance`). These factors are any numbers: they
    also fill the grids. Layers of all kinds make the channels (`quantization.webs`); what the values
    are is taken from the calibration batches.

        %q = onnx.Linear %x, %wq          %q = onnx.Linear %x, %wq'
        %k = onnx.Linear %x, %wk    ->    %k = onnx.Linear %x, %wk'
        %s = onnx.MatMul %q', %k'         %s = onnx.MatMul %q', %k'
    """

    name = "fold-scales"

    alpha: float = 0.5
    """Share of a value channel's magnitude that moves into the projection, 0 to 1."""

    headroom: float = 1.5
    """How far beyond what calibration saw the state of linear attention may go before it saturates."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise VitError(f"fold-scales: alpha {self.alpha:g} is not between 0 and 1")
        if not 1.0 <= self.headroom < 16.0:
            raise VitError(f"fold-scales: headroom {self.headroom:g} is not from 1 to below 16")

    @reproducible
    def apply(self, ctx: Context, op: ModuleOp) -> None:
        require_stage(op, self.name, "calibrated")
        fold_scales(op, Constants.of(ctx), self.alpha, self.headroom)


def fold_scales(
    module: ModuleOp, constants: Constants, alpha: float = 0.5, headroom: float = 1.5
) -> int:
    """Balance every pair of layers that qualifies; the number of them. See `FoldScalesPass`."""
    done = _balance_linear_attention(module, constants, headroom)
    for op in list(module.walk()):
        if isinstance(op, onnx.MatMul):
            done += _balance_scores(op, constants)
        elif isinstance(op, onnx.Linear):
            done += _balance_values(op, constants, alpha)
    return done


def _balance_linear_attention(module: ModuleOp, constants: Constants, headroom: float) -> int:
    """Balance queries, keys and values of linear attention; the number of those balanced."""
    import numpy as np

    if not any(isinstance(op, onnx.LinearAttention) for op in module.walk()):
        return 0
    webs = webs_of(module, constants)
    if not webs.attentions or not constants.store.batches:
        return 0
    seen = observe(module, webs, constants.store)
    tried = [attention_factors(webs, seen, each, headroom) for each in webs.attentions]
    found = [factors for factors in tried if factors is not None]
    if found:
        scale_channels(webs, seen, np.prod(found, axis=0))
    return len(found)


@dataclass(frozen=True)
class Projected:
    """A value that is a linear layer's output moved about, and nothing else reads on the way."""

    layer: onnx.Linear
    values: tuple[SSAValue, ...]
    """Every value from the layer's output to the operand."""

    channels: Ints
    """The layer's output channel of each element, in the operand's shape."""

    magnitude: Magnitudes
    """Largest magnitude of each output channel."""


def projected(value: SSAValue, constants: Constants) -> Projected | None:
    path = climb(value, constants)
    layer = path.top.owner
    if not isinstance(layer, onnx.Linear) or constants.array(layer.w) is None:
        return None
    if layer.bias is not None and constants.array(layer.bias) is None:
        return None
    values, statistics = way_between(path, value), statistics_of(path.top, constants.store)
    if values is None or statistics is None:
        return None
    channels = element_numbers(path, constants) % shape_of(layer.y)[-1]
    return Projected(layer, values, channels, statistics.magnitude)


def way_between(path: Path, value: SSAValue) -> tuple[SSAValue, ...] | None:
    """The values on a path that only moves elements; None if anything else reads one of them."""
    if path.factor != 1.0 or path.pair is not None:
        return None
    values = [value]
    while values[-1] is not path.top:
        owner = values[-1].owner
        assert isinstance(owner, Operation)
        values.append(owner.operands[0])
    return tuple(values) if all(len(list(v.uses)) == 1 for v in values) else None


def _balance_scores(op: onnx.MatMul, constants: Constants) -> bool:
    import numpy as np

    from vit_opt.passes.algorithms.smoothing import smoothing_exponents

    q, k = projected(op.a, constants), projected(op.b, constants)
    if q is None or k is None or q.layer is k.layer:
        return False
    if np.ptp(q.channels, axis=-2).any() or np.ptp(k.channels, axis=-1).any():
        return False
    left, right = q.channels[..., 0, :].ravel(), k.channels[..., :, 0].ravel()
    if not (is_permutation(left, q.magnitude.size) and is_permutation(right, k.magnitude.size)):
        return False
    factor = _powers(smoothing_exponents(q.magnitude[left], k.magnitude[right], 0.5))
    if (factor == 1).all():
        return False
    divide_projected(q, _at(left, factor), constants)
    divide_projected(k, _at(right, 1 / factor), constants)
    return True


def _balance_values(op: onnx.Linear, constants: Constants, alpha: float) -> bool:
    import numpy as np

    from vit_opt.passes.algorithms.smoothing import smoothing_exponents

    weight, path = constants.array(op.w), climb(op.x, constants)
    product, statistics = path.top.owner, statistics_of(op.x, constants.store)
    if weight is None or statistics is None or not isinstance(product, onnx.MatMul):
        return False
    v, way = projected(product.b, constants), way_between(path, op.x)
    if v is None or way is None or np.ptp(v.channels, axis=-2).any():
        return False
    shape = shape_of(product.y)
    arriving = np.broadcast_to(v.channels[..., :1, :], shape).reshape(-1)
    columns = arriving[element_numbers(path, constants)].reshape(-1, shape_of(op.x)[-1])
    if np.ptp(columns, axis=0).any() or not is_permutation(columns[0], v.magnitude.size):
        return False
    exponents = smoothing_exponents(
        v.magnitude[columns[0]], np.abs(weight).max(axis=0).astype(np.float64), alpha
    )
    factor = _powers(exponents)
    if (factor == 1).all():
        return False
    divide_projected(v, _at(columns[0], factor), constants)
    multiply_inputs(op, factor, constants)
    divide_statistics(op.x, factor, constants)
    channels = statistics.channels
    copy_range(way, float(channels.minimum.min()), float(channels.maximum.max()))
    return True


def divide_projected(side: Projected, factor: Magnitudes, constants: Constants) -> None:
    divide_outputs(side.layer, factor, constants)
    divide_statistics(side.layer.y, factor, constants)
    statistics = statistics_of(side.layer.y, constants.store)
    assert statistics is not None
    channels = statistics.channels
    copy_range(side.values, float(channels.minimum.min()), float(channels.maximum.max()))


def is_permutation(channels: Ints, count: int) -> bool:
    import numpy as np

    return channels.size == count and np.array_equal(np.sort(channels), np.arange(count))


def _powers(exponents: Ints) -> Magnitudes:
    import numpy as np

    return np.exp2(exponents.astype(np.float64))


def _at(channels: Ints, factor: Magnitudes) -> Magnitudes:
    """Factors in the order of the layer's own channels."""
    import numpy as np

    ordered = np.empty_like(factor)
    ordered[channels] = factor
    return ordered


__all__ = [
    "FoldScalesPass",
    "Projected",
    "divide_projected",
    "fold_scales",
    "projected",
    "way_between",
]
