"""Writes Einsum as MatMul between transposes and reshapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern, op_type_rewrite_pattern

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.onnx import Einsum, MatMul
from vit_opt.dialects.onnx.base import shape_of
from vit_opt.passes.float_graph import label, node_name, reshape, result_type, rewrite, transpose


@dataclass(frozen=True)
class Equation:
    """A two-operand einsum: the letters of the operands and of the result."""

    a: str
    b: str
    y: str

    @staticmethod
    def parse(text: str) -> Equation | None:
        """The equation of a text such as `bhid,bhjd->bhij`.

        None for what is not a product of two operands without repeated letters or ellipsis, or
        has letters to sum over in one operand alone.
        """
        inputs, arrow, y = text.replace(" ", "").partition("->")
        terms = inputs.split(",")
        if len(terms) != 2:
            return None
        a, b = terms
        if not arrow:
            y = "".join(sorted(c for c in set(a + b) if (a + b).count(c) == 1))
        if "." in text or any(len(set(term)) < len(term) for term in (a, b, y)):
            return None
        if (set(a) ^ set(b)) - set(y) or set(y) - set(a + b):
            return None
        return Equation(a, b, y)


@dataclass
class EinsumToMatMul(RewritePattern):
    """einsum -> Transpose(Reshape(MatMul(Reshape(Transpose(a)), Reshape(Transpose(b))))).

    The letters are: batch (in a, b and y), rows (a and y), columns (b and y), inner (a and b).
    """

    @op_type_rewrite_pattern
    def match_and_rewrite(self, op: Einsum, rewriter: PatternRewriter) -> None:
        equation = Equation.parse(op.equation.data)
        if equation is None:
            raise VitError(
                f"{label(op)}: Einsum {op.equation.data} is not supported; "
                "only products of two operands are"
            )
        a, b, y = equation.a, equation.b, equation.y
        batch = [c for c in y if c in a and c in b]
        rows = [c for c in y if c in a and c not in b]
        columns = [c for c in y if c in b and c not in a]
        inner = [c for c in a if c in b and c not in y]
        size = dict(zip(a + b, (*shape_of(op.inputs[0]), *shape_of(op.inputs[1])), strict=True))
        new: list[Operation] = []
        left = _arranged(op.inputs[0], a, [batch, rows, inner], size, new)
        right = _arranged(op.inputs[1], b, [batch, inner, columns], size, new)
        lead = [size[c] for c in batch]
        shape = [*lead, prod(size[c] for c in rows), prod(size[c] for c in columns)]
        core = MatMul.make([left, right], [result_type(op.y, shape)], node_name=node_name(op))
        new.append(core)
        order = [*batch, *rows, *columns]
        if len(rows) != 1 or len(columns) != 1:
            new.append(reshape(core.y, [size[c] for c in order]))
        if order != list(y):
            new.append(transpose(new[-1].results[0], [order.index(c) for c in y]))
        rewriter.replace(op, new)


def _arranged(
    x: SSAValue,
    letters: str,
    groups: Sequence[Sequence[str]],
    size: dict[str, int],
    new: list[Operation],
) -> SSAValue:
    """x with its dimensions in the order of the groups, the last two groups merged to one each."""
    order = [c for group in groups for c in group]
    if order != list(letters):
        new.append(transpose(x, [letters.index(c) for c in order]))
        x = new[-1].results[0]
    merged = [size[c] for c in groups[0]]
    merged += [prod(size[c] for c in group) for group in groups[1:]]
    if tuple(merged) != shape_of(x):
        new.append(reshape(x, merged))
        x = new[-1].results[0]
    return x


def decompose_einsum(module: ModuleOp) -> None:
    """Replaces every Einsum; raises VitError for one that is not a product of two operands."""
    rewrite(module, [EinsumToMatMul()])


@dataclass(frozen=True)
class DecomposeEinsumPass(ModulePass):
    """Replaces Einsum of two operands by MatMul between transposes and reshapes.

    Equal up to the order of summation. Other equations are an error.

        %y = onnx.Einsum %q, %k {equation = "bhid,bhjd->bhij"}
            ->   %t = onnx.Transpose %k {perm = [0, 1, 3, 2]}
                 %y = onnx.MatMul %q, %t
    """

    name = "decompose-einsum"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        decompose_einsum(op)
