"""Recognising a subgraph by what it computes instead of how it is written.

Exporters spell GELU, LayerNorm and the like in dozens of ways: other orders of factors, constants
on either side, divisions for multiplications, folded or split constants. Matching each spelling
is hopeless. Instead, a *cone* is gathered backwards from a root: operations that depend on one
tensor value (the leaf) and constants. A cone is a function of its leaf; evaluated on chosen
samples it either agrees with the function looked for, or it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from vit_opt.dialects import onnx
from vit_opt.dialects.onnx.base import shape_of
from vit_opt.passes.float_graph import (
    Constants,
    blocks,
    erase_dead,
    is_float,
    label,
    node_name,
    replace_value,
    source,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

LIMIT = 16
"""Largest number of operations in a cone."""

ELEMENTWISE: tuple[type[Operation], ...] = (
    onnx.Abs,
    onnx.Add,
    onnx.Clip,
    onnx.Div,
    onnx.Erf,
    onnx.Exp,
    onnx.HardSigmoid,
    onnx.Max,
    onnx.Min,
    onnx.Mul,
    onnx.Neg,
    onnx.Pow,
    onnx.Reciprocal,
    onnx.Relu,
    onnx.Sigmoid,
    onnx.Sqrt,
    onnx.Sub,
    onnx.Tanh,
)
"""Operations that may lie inside a cone of an elementwise function."""


@dataclass(frozen=True)
class Cone:
    """The operations between `leaf` and the result of `root`, in an order to evaluate them."""

    leaf: SSAValue
    operations: tuple[Operation, ...]
    constants: Constants

    @property
    def root(self) -> Operation:
        """The operation whose result the cone computes."""
        return self.operations[-1]

    @property
    def input(self) -> SSAValue:
        """The leaf as the cone reads it: with the Q/DQ pair on top of it, where there is one."""
        operands = (v for op in self.operations for v in op.operands)
        return next(v for v in operands if source(v) is self.leaf)

    def holds(self, *kinds: type[Operation]) -> bool:
        """Whether an operation of one of the kinds is in the cone."""
        return any(isinstance(op, kinds) for op in self.operations)

    def parameters(self) -> list[Array]:
        """The constant operands of the cone's operations."""
        arrays = (self.constants.array(v) for op in self.operations for v in op.operands)
        return [array for array in arrays if array is not None]

    def evaluate(self, x: Array) -> Array:
        """The root's value where the leaf has the value `x` (roundings in place left out)."""
        from vit_opt.dialects.onnx.semantics import evaluate

        values: dict[SSAValue, Array] = {self.leaf: x}

        def value_of(operand: SSAValue) -> Array:
            array = self.constants.array(operand)
            return values[source(operand)] if array is None else array

        for op in self.operations:
            operands = [value_of(operand) for operand in op.operands]
            values[op.results[0]] = evaluate(op, operands, self.constants.store)[0]
        return values[self.root.results[0]]


def cones(
    root: Operation,
    order: dict[Operation, int],
    constants: Constants,
    kinds: tuple[type[Operation], ...],
) -> Iterator[Cone]:
    """All cones of a root, from the smallest, made of operations of the given kinds.

    `order` gives the position of every operation in the block. The frontier always opens its
    latest operation, so no value is left behind, and each time a single value remains it is the
    leaf of a cone.
    """
    inside: list[Operation] = []
    frontier: set[SSAValue] = {root.results[0]}
    while len(inside) < LIMIT:
        latest = max(frontier, key=lambda v: _position(v, order))
        op = latest.owner
        if not isinstance(op, kinds) or op not in order:
            return
        frontier.discard(latest)
        inside.append(op)
        frontier |= {source(v) for v in op.operands if constants.array(v) is None}
        if len(frontier) == 1:
            [leaf] = frontier
            yield Cone(leaf, tuple(reversed(inside)), constants)
        if not frontier:
            return


def _position(value: SSAValue, order: dict[Operation, int]) -> int:
    return order.get(value.owner, -1) if isinstance(value.owner, Operation) else -1


def replace_cones(
    module: ModuleOp,
    constants: Constants,
    kinds: tuple[type[Operation], ...],
    replacement: Callable[[Cone], Sequence[Operation] | None],
) -> None:
    """Replaces the largest cone of every root for which `replacement` gives operations.

    `replacement` returns the operations to put in place of the root, the last one computing its
    value, or None. Roots are tried from the end of each block, so a function is found whole
    before its parts are; what it leaves without uses is removed.
    """
    for block in blocks(module):
        _replace_in_block(block, constants, kinds, replacement)


def _replace_in_block(
    block: Block,
    constants: Constants,
    kinds: tuple[type[Operation], ...],
    replacement: Callable[[Cone], Sequence[Operation] | None],
) -> None:
    order = {op: index for index, op in enumerate(block.ops)}
    for root in reversed(list(block.ops)):
        if not isinstance(root, kinds) or not root.results[0].first_use:
            continue
        if not is_float(root.results[0]):
            continue
        for cone in cones(root, order, constants, kinds):
            new = replacement(cone)
            if new is not None:
                replace_value(root, new)
                break
    erase_dead(block)


@dataclass(frozen=True)
class Function:
    """A function of one real variable to look for."""

    definition: Callable[[Array], Array]
    """Its values at float64 samples."""

    build: Callable[[SSAValue, str | None], Operation]
    """Makes the operation for it from the leaf and a node name."""

    hints: tuple[type[Operation], ...]
    """Operations of which a cone must hold one to be worth evaluating."""


TOLERANCE = 3e-5
"""Largest deviation from the function looked for, float32 rounding of its spellings included.

The two forms of GELU differ by 4.7e-4."""


FACTORS = (1.0, 2.0)
"""Multiples that are recognised: simplifiers move the half of GELU into the weights behind it."""


def samples() -> Array:
    """Where functions of one variable are compared: dense near zero, and the tails."""
    import numpy as np

    return np.concatenate([np.linspace(-8, 8, 641), np.linspace(-30, 30, 61)]).astype(np.float32)


def raise_functions(module: ModuleOp, constants: Constants, functions: Sequence[Function]) -> None:
    """Replaces every cone of elementwise operations that computes one of the functions, or twice it."""
    import numpy as np

    x = samples()
    expected = [function.definition(x.astype(np.float64)) for function in functions]
    hints = tuple(hint for function in functions for hint in function.hints)

    def replacement(cone: Cone) -> Sequence[Operation] | None:
        root = cone.root.results[0]
        if not cone.holds(*hints) or shape_of(root) != shape_of(cone.leaf):
            return None
        if any(constants.scalar(v) is None for v in _constant_operands(cone)):
            return None
        got = cone.evaluate(x).reshape(-1)
        if got.size != x.size:
            return None
        for function, values in zip(functions, expected, strict=True):
            for factor in FACTORS:
                if np.allclose(got, factor * values, rtol=TOLERANCE, atol=TOLERANCE):
                    return _scaled(function, cone, factor, constants)
        return None

    replace_cones(module, constants, ELEMENTWISE, replacement)


def _scaled(
    function: Function, cone: Cone, factor: float, constants: Constants
) -> Sequence[Operation]:
    """The function of a cone's input, and the product with a factor other than 1."""
    import numpy as np

    name = node_name(cone.root)
    if factor == 1.0:
        return [function.build(cone.input, name)]
    core = function.build(cone.input, None if name is None else f"{name}.unscaled")
    constant = constants.make(np.asarray(factor, np.float32), f"{label(cone.root)}.factor")
    value = core.results[0]
    return [core, constant, onnx.Mul.make([value, constant], [value.type], node_name=name)]


def _constant_operands(cone: Cone) -> Iterator[SSAValue]:
    for op in cone.operations:
        for operand in op.operands:
            if isinstance(operand.owner, onnx.Constant):
                yield operand
