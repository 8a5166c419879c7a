"""Finds LayerNorm in the pieces that exporters write it in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import integers, normal_axis, shape_of
from vit_opt.passes.cones import ELEMENTWISE, Cone, replace_cones
from vit_opt.passes.float_graph import Constants, as_row, label, node_name, transpose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

LARGEST_EPSILON = 0.1
TOLERANCE = 2e-3
"""Largest deviation from LayerNorm, relative to its largest value.

Spellings with E[x^2] - E[x]^2 lose some four digits in float32."""


@dataclass(frozen=True)
class Norm:
    """y = (x - mean) / sqrt(var + epsilon) * gamma + beta over dimension `axis`."""

    axis: int
    epsilon: float
    gamma: Array
    beta: Array


def fit_norm(cone: Cone) -> Norm | None:
    """The LayerNorm that a cone computes, found and checked by probing it; None if it is none.

    One row is enough for a probe, since the cone reduces over `axis` alone and its constants vary
    along `axis` alone.
    """
    shape = shape_of(cone.leaf)
    axis = _only_axis(cone)
    if axis is None or shape_of(cone.root.results[0]) != shape or shape[axis] < 2:
        return None
    if any(as_row(array, shape, axis) is None for array in cone.parameters()):
        return None
    along = tuple(size if d == axis else 1 for d, size in enumerate(shape))
    for epsilon in _epsilons(cone):
        norm = _fit(cone, along, axis, epsilon)
        if norm is not None:
            return norm
    return None


def _only_axis(cone: Cone) -> int | None:
    """The one dimension over which all reductions of a cone run."""
    axes: set[int] = set()
    for op in cone.operations:
        if isinstance(op, onnx.ReduceMean | onnx.ReduceSum):
            rank = len(shape_of(op.x))
            axes |= {normal_axis(axis, rank) for axis in integers(op.axes)}
    return axes.pop() if len(axes) == 1 else None


def _epsilons(cone: Cone) -> Iterator[float]:
    """What may be the epsilon: small positive scalars of the cone, then none at all."""
    for array in cone.parameters():
        if array.size == 1 and 0 < float(array.flat[0]) <= LARGEST_EPSILON:
            yield float(array.flat[0])
    yield 0.0


def _fit(cone: Cone, shape: tuple[int, ...], axis: int, epsilon: float) -> Norm | None:
    """Solve for gamma and beta by probing with x and -x, then check on other rows.

    Every |x| is at least 1, so no channel's equation is ill-conditioned.
    """
    import numpy as np

    def value(row: Array) -> Array:
        return cone.evaluate(row.astype(np.float32).reshape(shape)).reshape(-1).astype(np.float64)

    rng = np.random.default_rng(0)
    size = shape[axis]
    probe = rng.uniform(1, 2, size) * np.where(np.arange(size) % 2, -1, 1)
    plus, minus = value(probe), value(-probe)
    if plus.size != size or not np.isfinite([plus, minus]).all():
        return None
    unit = (probe - probe.mean()) / np.sqrt(probe.var() + epsilon)
    gamma = _exact((plus - minus) / (2 * unit), cone)
    beta = _exact((plus + minus) / 2, cone)
    small = max(epsilon, 1e-12) ** 0.5  # where epsilon matters
    for scale, offset in ((1.0, 0.0), (2.0, 1.0), (0.5, -1.0), (small, 0.0), (small, small)):
        row = (scale * rng.standard_normal(size) + offset).astype(np.float32).astype(np.float64)
        expected = (row - row.mean()) / np.sqrt(row.var() + epsilon) * gamma + beta
        tolerance = TOLERANCE * np.abs(expected).max()
        if not np.allclose(value(row), expected, rtol=0, atol=tolerance):
            return None
    return Norm(axis, epsilon, gamma.astype(np.float32), beta.astype(np.float32))


def _exact(fitted: Array, cone: Cone) -> Array:
    """The constant of the cone (or vector of ones or zeros) that a fitted vector stands for.

    The fitted vector itself where there is none, for example a product of two constants.
    """
    import numpy as np

    vectors = [a.reshape(-1) for a in cone.parameters() if a.size in (1, fitted.size)]
    vectors = [np.broadcast_to(v, fitted.shape) for v in (*vectors, np.zeros(1), np.ones(1))]
    tolerance = 1e-4 * max(1.0, float(np.abs(fitted).max()))
    best = min(vectors, key=lambda v: float(np.abs(v - fitted).max()))
    return best if float(np.abs(best - fitted).max()) <= tolerance else fitted


def build_norm(cone: Cone, norm: Norm, constants: Constants) -> Sequence[Operation]:
    """The operations for a fitted norm; for another than the last axis, between transposes."""
    name = node_name(cone.root)
    scale = constants.make(norm.gamma, f"{label(cone.root)}.weight")
    bias = constants.make(norm.beta, f"{label(cone.root)}.bias")
    rank = len(shape_of(cone.leaf))
    before: list[Operation] = []
    after: list[Operation] = []
    x = cone.input
    perm = [d for d in range(rank) if d != norm.axis] + [norm.axis]
    if norm.axis != rank - 1:
        before.append(transpose(x, perm))
        x = before[0].results[0]
    core = onnx.LayerNormalization.make(
        [x, scale, bias],
        [x.type],
        node_name=name,
        axis=rank - 1,
        epsilon=norm.epsilon,
    )
    if norm.axis != rank - 1:
        after.append(transpose(core.y, [perm.index(d) for d in range(rank)]))
    return [scale, bias, *before, core, *after]


def raise_layer_norm(module: ModuleOp, ctx: Context) -> None:
    """Replaces every subgraph that computes a LayerNorm by `onnx.LayerNormalization`."""
    constants = Constants.of(ctx)

    def replacement(cone: Cone) -> Sequence[Operation] | None:
        if not cone.holds(onnx.ReduceMean, onnx.ReduceSum):
            return None
        if not cone.holds(onnx.Sqrt, onnx.Pow):
            return None
        norm = fit_norm(cone)
        return None if norm is None else build_norm(cone, norm, constants)

    replace_cones(module, constants, (*ELEMENTWISE, onnx.ReduceMean, onnx.ReduceSum), replacement)


@dataclass(frozen=True)
class RaiseLayerNormPass(ModulePass):
    """Replaces what computes LayerNorm by `onnx.LayerNormalization` over the last dimension.

    A subgraph is recognised by its values on probes, so any algebraic form is found: two Subs or
    one, Pow or Mul for the square, E[x^2] - E[x]^2, Div or reciprocal roots, factors gathered
    before or after. Weights are the model's own constants where the form keeps them. A norm over
    another dimension (channels of images) is put between transposes. Assumes constants are
    folded (`fold-constants`). In quantised models the roundings inside go away.

        %m = onnx.ReduceMean %x
        %d = onnx.Sub %x, %m
        %s = onnx.Mul %d, %d
        %v = onnx.ReduceMean %s
        %e = onnx.Add %v, %eps        ->   %y = onnx.LayerNormalization %x, %w, %b
        %r = onnx.Sqrt %e
        %n = onnx.Div %d, %r
        %g = onnx.Mul %n, %w
        %y = onnx.Add %g, %b
    """

    name = "raise-layer-norm"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise_layer_norm(op, ctx)
