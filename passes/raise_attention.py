"""Brings self-attention, however exported, into one form.

Exporters write softmax(q k^T / sqrt(d)) v with one fused linear layer for q, k and v, cut apart
by any mixture of Reshape, Transpose, Split, Slice, Gather and Squeeze, and with the factor
1/sqrt(d) on q, on k, on both (its root), on the scores, or divided by. None of that mixture is
matched here. An array of element numbers is sent through it instead: where every element of a
MatMul operand comes from in the linear layer's output says which weight rows make it up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, OpResult, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import integer, integers, shape_of
from vit_opt.dialects.onnx.movement import SameElements
from vit_opt.passes.float_graph import (
    Constants,
    below,
    blocks,
    erase_dead,
    is_pair,
    label,
    node_name,
    replace_value,
    reshape,
    rounding_like,
    source,
    transpose,
)
from vit_opt.passes.raise_linear import linear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


@dataclass
class Path:
    """The way from a value up through data movement, scalar factors and Q/DQ pairs."""

    top: SSAValue
    """The value that the way starts from, made by something else."""

    factor: float = 1.0
    """The product of the scalar factors on the way."""

    moves: list[OpResult] = field(default_factory=list[OpResult])
    """Results of the movement operations, from the top down."""

    pair: onnx.DequantizeLinear | None = None
    """The rounding nearest to the value at the bottom."""

    factor_below_pair: float = 1.0
    """The part of `factor` that is applied after `pair`."""


def climb(value: SSAValue, constants: Constants) -> Path:
    """Follows a value up as far as only movement, scalar factors and Q/DQ pairs made it."""
    path = Path(value)
    while isinstance(op := path.top.owner, Operation):
        lower = below(op)
        if lower is not None:
            if isinstance(op, onnx.DequantizeLinear) and is_pair(op) and path.pair is None:
                path.pair, path.factor_below_pair = op, path.factor
            path.top = lower
            continue
        scaled = scalar_factor(op, constants)
        if scaled is not None:
            path.top = scaled[0]
            path.factor *= scaled[1]
            continue
        if not _moves(op, constants):
            break
        assert isinstance(path.top, OpResult)
        path.moves.insert(0, path.top)
        path.top = op.operands[0]
    return path


def _moves(op: Operation, constants: Constants) -> bool:
    if isinstance(op, onnx.Gather):
        return constants.array(op.indices) is not None
    return isinstance(op, SameElements | onnx.Transpose | onnx.Slice | onnx.Split)


def scalar_factor(op: Operation, constants: Constants) -> tuple[SSAValue, float] | None:
    """(x, c) for an operation that computes x * c with a constant number c that is not 0."""
    if isinstance(op, onnx.Neg):
        return op.x, -1.0
    if not isinstance(op, onnx.Mul | onnx.Div):
        return None
    a, b = op.inputs
    c = constants.scalar(b)
    if c and shape_of(a) == shape_of(op.y):
        return a, 1 / c if isinstance(op, onnx.Div) else c
    c = constants.scalar(a)
    if c and isinstance(op, onnx.Mul) and shape_of(b) == shape_of(op.y):
        return b, c
    return None


def element_numbers(path: Path, constants: Constants) -> Array:
    """For each element of the value at the bottom, its number in the value at the top."""
    import numpy as np

    shape = shape_of(path.top)
    numbers: Array = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    for result in path.moves:
        numbers = moved(result, [numbers], constants)
    return numbers


def moved(result: OpResult, arrays: Sequence[Array], constants: Constants) -> Array:
    """What a movement operation makes of arrays in the shapes of its operands."""
    import numpy as np

    op, numbers = result.owner, arrays[0]
    match op:
        case onnx.Transpose():
            return numbers.transpose(integers(op.perm))
        case onnx.Slice():
            return numbers[op.slices()]
        case onnx.Split():
            axis = integer(op.axis)
            sizes = [shape_of(part)[axis] for part in op.parts]
            start = sum(sizes[: result.index])
            return numbers.take(range(start, start + sizes[result.index]), axis)
        case onnx.Gather():
            indices = constants.array(op.indices)
            assert indices is not None
            return numbers.take(indices, integer(op.axis))
        case onnx.Concat():
            return np.concatenate(arrays, integer(op.axis))
        case _:
            return numbers.reshape(shape_of(result))


@dataclass(frozen=True)
class Projection:
    """A MatMul operand as rows of a linear layer's weights, put into a layout."""

    core: onnx.Linear
    channels: Array
    """The weight rows that make up the operand, in its order."""

    grouped: tuple[int, ...]
    """Shape with the token dimensions first, then head and head dimension."""

    perm: tuple[int, ...]
    """Permutation from the grouped shape to the operand's."""


def project(path: Path, constants: Constants) -> Projection | None:
    """The projection that a path from a linear layer amounts to, None if it is not of that kind.

    Every dimension of the operand must run either over tokens, all of them in order, or over
    channels.
    """
    import numpy as np

    core = path.top.owner
    if not isinstance(core, onnx.Linear) or constants.array(core.w) is None:
        return None
    numbers = element_numbers(path, constants)
    rows, channels = np.divmod(numbers, shape_of(core.y)[-1])
    over_channels = [d for d in range(numbers.ndim) if np.ptp(channels, axis=d).any()]
    over_rows = [d for d in range(numbers.ndim) if d not in over_channels]
    order = [*over_rows, *over_channels]
    rows, channels = rows.transpose(order), channels.transpose(order)
    count = math.prod(shape_of(core.x)[:-1])
    if math.prod(numbers.shape[d] for d in over_rows) != count:
        return None
    if (rows.reshape(count, -1) != np.arange(count)[:, None]).any():
        return None
    return Projection(
        core,
        channels.reshape(count, -1)[0],
        tuple(numbers.shape[d] for d in order),
        tuple(order.index(d) for d in range(numbers.ndim)),
    )


def rebuild(
    path: Path, projection: Projection, factor: float, role: str, constants: Constants
) -> list[Operation]:
    """Linear, Reshape, Transpose (and the rounding) for a projection whose value is * `factor`.

    The last operation computes the operand without the factors of the path. `role` ("q", ...)
    is added to the names.
    """
    import numpy as np

    old = projection.core
    weight, bias = constants.array(old.w), constants.array(old.bias)
    assert weight is not None
    scale = np.float32(factor)
    name = node_name(old)
    new = linear(
        old.x,
        weight[projection.channels] * scale,
        None if bias is None else bias[projection.channels] * scale,
        constants,
        key=f"{label(old)}.{role}",
        name=_suffixed(name, role),
    )
    value = new[-1].results[0]
    if path.pair is not None:
        new += rounding_like(
            path.pair, value, factor * path.factor_below_pair / path.factor, constants
        )
        value = new[-1].results[0]
    if projection.grouped != shape_of(value):
        new.append(reshape(value, projection.grouped, _suffixed(name, f"{role}.split")))
        value = new[-1].results[0]
    if projection.perm != tuple(range(len(projection.perm))):
        new.append(transpose(value, projection.perm, _suffixed(name, f"{role}.heads")))
    return new


def _suffixed(name: str | None, suffix: str) -> str | None:
    return None if name is None else f"{name}.{suffix}"


@dataclass(frozen=True)
class Attention:
    """The matched pieces of softmax(scores [+ mask]) v."""

    scores: onnx.MatMul
    scaled: SSAValue
    """The scores with their scalar factors, as the softmax or the first Add reads them."""

    factor: float
    """The product of the factors between `scores` and `scaled`."""

    output: onnx.MatMul | None
    """The product of the probabilities with v, where there is one."""


def match_attention(softmax: onnx.Softmax, constants: Constants) -> Attention | None:
    """The attention around a softmax over the last axis, None if its operand is no product."""
    if integer(softmax.axis) not in (-1, len(shape_of(softmax.y)) - 1):
        return None
    for scaled in _scores(softmax.x, constants):
        path = climb(scaled, constants)
        matmul = path.top.owner
        if isinstance(matmul, onnx.MatMul) and not path.moves:
            return Attention(matmul, scaled, path.factor, _weighted_sum(softmax))
    return None


def _scores(value: SSAValue, constants: Constants) -> Iterator[SSAValue]:
    """The value that a softmax reads, and what biases and masks are added to on the way to it.

    Shifted windows have both: a bias per head, then, with the windows as a dimension of their own,
    a mask per window.
    """
    value = source(value)
    yield value
    op = value.owner
    if isinstance(op, SameElements):
        yield from _scores(op.x, constants)
    elif isinstance(op, onnx.Add):
        terms = [v for v in op.inputs if constants.array(v) is None]
        for term in terms:
            yield from _scores(term, constants)


def _weighted_sum(softmax: onnx.Softmax) -> onnx.MatMul | None:
    """The MatMul whose first operand is the softmax's result, seen through Q/DQ pairs."""
    pending: list[SSAValue] = [softmax.y]
    while pending:
        for use in pending.pop().uses:
            user = use.operation
            if isinstance(user, onnx.MatMul) and use.index == 0:
                return user
            if isinstance(user, onnx.QuantizeLinear | onnx.DequantizeLinear | onnx.Identity):
                pending.append(user.results[0])
    return None


def power_of_two(factor: float) -> float:
    """The power of two nearest to |factor| on a logarithmic scale."""
    return 2.0 ** round(math.log2(abs(factor)))


def raise_one(attention: Attention, constants: Constants) -> None:
    """Rebuilds one attention in the canonical form."""
    scores = attention.scores
    paths = [climb(operand, constants) for operand in (scores.a, scores.b)]
    projections = [project(path, constants) for path in paths]
    total = attention.factor * paths[0].factor * paths[1].factor
    exact = power_of_two(total)
    rest = total / exact  # goes into the weights of q, or of k if q has none
    if not any(projections):
        exact, rest = total, 1.0
    new: list[Operation] = []
    operands: list[SSAValue] = []
    for path, projection, role in zip(paths, projections, "qk", strict=True):
        if projection is None:
            operands.append(_unscaled(path, scores.operands[len(operands)], new))
            continue
        new += rebuild(path, projection, rest, role, constants)
        rest = 1.0
        operands.append(new[-1].results[0])
    new.append(onnx.MatMul.make(operands, [scores.y.type], node_name=node_name(scores)))
    if exact != 1.0:
        new += _scale(new[-1].results[0], exact, attention, constants)
    root = attention.scaled.owner
    assert isinstance(root, Operation)
    replace_value(root, new)
    if attention.output is not None:
        _raise_values(attention.output, constants)


def _unscaled(path: Path, operand: SSAValue, new: list[Operation]) -> SSAValue:
    """The operand of a path without its factors: its movement redone, if there was a factor."""
    if path.factor == 1.0:
        return operand
    value = path.top
    for result in path.moves:
        old = result.owner
        copy = old.clone()
        copy.operands[0] = value
        new.append(copy)
        value = copy.results[result.index]
    return value


def _scale(
    value: SSAValue, factor: float, attention: Attention, constants: Constants
) -> list[Operation]:
    import numpy as np

    key = f"{label(attention.scores)}.factor"
    constant = constants.make(np.asarray(factor, np.float32), key)
    name = _suffixed(node_name(attention.scores), "scaled")
    return [constant, onnx.Mul.make([value, constant], [value.type], node_name=name)]


def _raise_values(output: onnx.MatMul, constants: Constants) -> None:
    path = climb(output.b, constants)
    projection = project(path, constants)
    if projection is None:
        return
    new = rebuild(path, projection, path.factor, "v", constants)
    core = onnx.MatMul.make(
        [output.a, new[-1].results[0]], [output.y.type], node_name=node_name(output)
    )
    replace_value(output, [*new, core])


def raise_attention(module: ModuleOp, ctx: Context) -> None:
    """Brings the attention around every Softmax of a module into the canonical form."""
    constants = Constants.of(ctx)
    for block in blocks(module):
        for op in list(block.ops):
            if isinstance(op, onnx.Softmax):
                attention = match_attention(op, constants)
                if attention is not None:
                    raise_one(attention, constants)
        erase_dead(block)


@dataclass(frozen=True)
class RaiseAttentionPass(ModulePass):
    """Splits fused QKV layers in three and gathers the scalar factors of attention in one.

    Every operand of the two products becomes a Linear of its own (the fused layer's weight rows
    for it), one Reshape and one Transpose; k comes out as [.., d, N]. The scalar factors of q, k
    and the scores become one power of two on the scores, and what is left of them, between
    1/sqrt(2) and sqrt(2), goes into the weights of q. Equal up to float rounding. Roundings (Q/DQ
    pairs) stay on q, k, v (the last of each) and on the scores behind their factor.

    Assumes linear layers are raised (`raise-linear`), constants folded and Einsum decomposed.
    Attention over something else than a linear layer's output only has its factors gathered.

        %s = onnx.Linear %x, %w, %b                    %q  = onnx.Linear %x, %wq, %bq
        %r = onnx.Reshape %s                           %qr = onnx.Reshape %q
        %t = onnx.Transpose %r                  ->     %qt = onnx.Transpose %qr
        %q, %k, %v = onnx.Split %t                     ...
        %d = onnx.Mul %q, %c                           %m  = onnx.MatMul %qt, %kt
        %m = onnx.MatMul %d, %kt                       %d  = onnx.Mul %m, 2^-3
        %p = onnx.Softmax %m                           %p  = onnx.Softmax %d
    """

    name = "raise-attention"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise_attention(op, ctx)
