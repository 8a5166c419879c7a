"""Recognises ReLU linear attention, however it is written, by what it computes.

EfficientViT's attention (Cai et al. 2023, section 3.1) is written in several ways: tokens as rows
or as columns, the divisor from a column of ones appended to v, from a sum over k, or from the rows
of the matrix of all pairs. A subgraph of three inputs, two of them behind a ReLU, is gathered
backwards from its root and evaluated on random arrays; if `onnx.LinearAttention` on some
arrangement of the three gives the same, it takes the subgraph's place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import shape_of
from vit_opt.dialects.onnx.movement import SameElements
from vit_opt.passes.float_graph import (
    Constants,
    blocks,
    erase_dead,
    is_float,
    node_name,
    replace_value,
    result_type,
    source,
    transpose,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

LIMIT = 32
"""Largest number of operations in a subgraph."""

TOLERANCE = 1e-4
"""Largest deviation from linear attention, relative to the largest value."""

LAYOUT = (onnx.Transpose, SameElements)
ROOTS = (onnx.Div, onnx.Mul, onnx.MatMul)


@dataclass
class Subgraph:
    """Operations between up to three inputs and a root, in the order of the block."""

    constants: Constants
    operations: dict[Operation, None] = field(default_factory=dict[Operation, None])
    inputs: dict[SSAValue, None] = field(default_factory=dict[SSAValue, None])

    def gather(self, value: SSAValue) -> None:
        """Add what computes a value, up to ReLUs and to what other operations move or make."""
        value = source(value)
        if self.constants.array(value) is not None or len(self.operations) > LIMIT:
            return
        op = value.owner
        if not isinstance(op, Operation) or not self.inside(op):
            self.inputs[value] = None
        elif op not in self.operations:
            for operand in op.operands:
                self.gather(operand)
            self.operations[op] = None  # after its operands, so in an order to evaluate

    def inside(self, op: Operation) -> bool:
        """Whether an operation belongs to attention: arithmetic, and movement of its values."""
        if isinstance(op, (*LAYOUT, onnx.Slice)):
            top = _climb(op.operands[0], (*LAYOUT, onnx.Slice))
            below_relu = _climb(op.operands[0], LAYOUT) if isinstance(op, LAYOUT) else None
            if below_relu is not None and isinstance(below_relu.owner, onnx.Relu):
                return True
            return isinstance(top.owner, Operation) and self._computes(top.owner)
        return self._computes(op)

    def _computes(self, op: Operation) -> bool:
        constant = [self.constants.array(operand) is not None for operand in op.operands]
        match op:
            case onnx.MatMul():
                return not any(constant)
            case onnx.Add():
                return any(self.constants.scalar(operand) is not None for operand in op.operands)
            case onnx.Concat():
                return any(constant)
            case onnx.Mul() | onnx.Div() | onnx.Reciprocal() | onnx.ReduceSum() | onnx.Pad():
                return not any(constant)
            case _:
                return False

    def epsilon(self) -> float | None:
        """The one number added in the subgraph; 0 if there is none, None if there are several.

        In the digits that float32 has, so 1e-5 and not 9.99999974e-6.
        """
        import numpy as np

        sums = [op for op in self.operations if isinstance(op, onnx.Add)]
        numbers = [self.constants.scalar(v) for op in sums for v in op.operands]
        found = [float(str(np.float32(number))) for number in numbers if number is not None]
        return None if len(found) > 1 else sum(found, 0.0)

    def divides(self) -> bool:
        """Whether there is a division and two products, without which it is no attention."""
        products = [op for op in self.operations if isinstance(op, onnx.MatMul)]
        kinds = (onnx.Div, onnx.Reciprocal)
        return len(products) >= 2 and any(isinstance(op, kinds) for op in self.operations)


def _climb(value: SSAValue, kinds: tuple[type[Operation], ...]) -> SSAValue:
    """The value that operations of some kinds made a value from, through first operands."""
    value = source(value)
    while isinstance(value.owner, kinds):
        value = source(value.owner.operands[0])
    return value


def _rectified(value: SSAValue) -> bool:
    return isinstance(_climb(value, (*LAYOUT, onnx.Slice)).owner, onnx.Relu)


def _before_relu(value: SSAValue) -> SSAValue:
    """The operand of the ReLU that makes a value; linear attention has that ReLU in it."""
    return source(value.owner.x) if isinstance(value.owner, onnx.Relu) else value


def evaluate_all(
    operations: Sequence[Operation], known: Mapping[SSAValue, Array], constants: Constants
) -> Array:
    """The result of the last operation, from the values of what lies outside."""
    from vit_opt.dialects.onnx.semantics import evaluate

    values = dict(known)

    def value_of(operand: SSAValue) -> Array:
        array = constants.array(operand)
        return values[source(operand)] if array is None else array

    for op in operations:
        arrays = [value_of(operand) for operand in op.operands]
        values[op.results[0]] = evaluate(op, arrays, constants.store)[0]
    return values[operations[-1].results[0]]


def arrangements(inputs: Sequence[SSAValue], root: SSAValue) -> Iterator[tuple[Any, ...]]:
    """(q, k, v, turned) for all roles and layouts whose shapes fit.

    `turned` says for q, k, v and the result whether tokens are its columns.
    """
    for roles in permutations(inputs):
        if not (_rectified(roles[0]) and _rectified(roles[1])):
            continue
        for turned in product((False, True), repeat=4):
            q, k, v, y = (
                (*shape[:-2], shape[-1], shape[-2]) if turn else shape
                for shape, turn in zip(map(shape_of, (*roles, root)), turned, strict=True)
            )
            fits = q[:-2] == k[:-2] == v[:-2] and q[-1] == k[-1] and k[-2] == v[-2]
            if fits and y == (*q[:-1], v[-1]):
                yield (*roles, turned)


def build(
    roles: Sequence[SSAValue], turned: Sequence[bool], eps: float, root: Operation
) -> list[Operation]:
    """Transposes as far as needed, LinearAttention, and a transpose back."""
    new: list[Operation] = []
    rank = len(shape_of(root.results[0]))
    swap = (*range(rank - 2), rank - 1, rank - 2)
    name = node_name(root)
    operands: list[SSAValue] = []
    for role, value, turn in zip("qkv", roles, turned, strict=False):
        operands.append(_before_relu(value))
        if turn:
            new.append(transpose(operands[-1], swap, name and f"{name}.{role}.rows"))
            operands[-1] = new[-1].results[0]
    shape = (*shape_of(operands[0])[:-1], shape_of(operands[2])[-1])
    type_ = result_type(root.results[0], shape)
    new.append(onnx.LinearAttention.make(operands, [type_], node_name=name, eps=eps))
    if turned[-1]:
        new.append(transpose(new[-1].results[0], swap, name and f"{name}.columns"))
    return new


def match(root: Operation, constants: Constants) -> list[Operation] | None:
    """What to put in place of a root that computes linear attention, None for others."""
    import numpy as np

    graph = Subgraph(constants)
    graph.gather(root.results[0])
    eps = graph.epsilon()
    if len(graph.inputs) != 3 or len(graph.operations) > LIMIT or not graph.divides():
        return None
    if eps is None or any(len(shape_of(value)) < 2 for value in graph.inputs):
        return None
    rng = np.random.default_rng(0)
    arrays = {value: rng.standard_normal(shape_of(value), np.float32) for value in graph.inputs}
    arrays = {v: np.abs(array) if _rectified(v) else array for v, array in arrays.items()}
    expected = evaluate_all(list(graph.operations), arrays, constants)
    for *roles, turned in arrangements(list(graph.inputs), root.results[0]):
        new = build(roles, turned, eps, root)
        known = {_before_relu(value): array for value, array in arrays.items()}
        got = evaluate_all(new, known, constants)
        if np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max():
            return new
        for op in reversed(new):
            op.erase()
    return None


def raise_linear_attention(module: ModuleOp, ctx: Context) -> None:
    """Replaces every subgraph that computes ReLU linear attention by `onnx.LinearAttention`."""
    constants = Constants.of(ctx)
    for block in blocks(module):
        _raise_in_block(block, constants)


def _raise_in_block(block: Block, constants: Constants) -> None:
    for root in reversed(list(block.ops)):
        if not isinstance(root, ROOTS) or not root.results[0].first_use:
            continue
        new = match(root, constants) if is_float(root.results[0]) else None
        if new is not None:
            replace_value(root, new)
    erase_dead(block)


@dataclass(frozen=True)
class RaiseLinearAttentionPass(ModulePass):
    """Replaces what computes ReLU linear attention by `onnx.LinearAttention`.

    A subgraph is recognised by its values on random arrays: its inputs are two values behind
    a ReLU and a third one, inside are products, sums, a division and data movement. The number
    added to the divisor becomes `eps`. Tokens become rows. Assumes constants are folded and
    linear layers raised (`fold-constants`, `raise-linear`); attention that is scaled or weighted
    otherwise, or has another function than ReLU, is left alone. In quantised models the roundings
    inside go away.

        %qr = onnx.Relu %q
        %kr = onnx.Relu %k
        %kt = onnx.Transpose %kr
        %v1 = onnx.Pad %v {value = 1.0}          ->   %y = onnx.LinearAttention %q, %k, %v
        %s  = onnx.MatMul %kt, %v1
        %m  = onnx.MatMul %qr, %s
        %n  = onnx.Slice %m   (all columns but one)
        %d  = onnx.Slice %m   (the last column)
        %de = onnx.Add %d, %eps
        %y  = onnx.Div %n, %de
    """

    name = "raise-linear-attention"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise_linear_attention(op, ctx)
