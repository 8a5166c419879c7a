"""Which of the accelerator's pipelines a program uses; for comparison they can be switched off.

P2-ViT (arXiv 2405.19915) names two and measures each by itself, for attention, MLP and both. Its
intra-layer pipeline changes nothing in the MLP, its inter-layer pipeline takes from the MLP all that
can be gained there, and attention needs both. So we read them:

*Within a layer*: the only layer of several products is attention. Rows of scores leave the array
through the shifters, become exponentials and go back into the array to meet the values, while the
array makes the next rows of scores.

*Between layers*: the engines work on everything else at a time. Operands are loaded ahead, results
pass through the shifters as they leave the array, LayerNorm and table functions take rows as they
are made, a product begins with the first rows of the one before, and results stay on chip.

Where a pipeline is off,

* engines take turns: an instruction of a layer begins when the one before is complete,
* a step begins when the step before is complete: a product leaves all of its accumulators in memory
  (on chip, as far as there is room) before the first is rescaled, softmax sees all rescaled scores,
* and between layers, results are stored to DRAM, and nothing is left on chip for the next layer.

With both off exactly one engine works at any time. Blocks, their order within a product, units and
memories are the same in all four cases, and so are all results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from xdsl.ir import Operation, SSAValue

from vit_opt.dialects.vit import ops
from vit_opt.passes.blocking import PRODUCTS

RESCALING = (ops.PotRequantOp, ops.AddOp, ops.NormalizeOp, ops.ReinterpretOp)
"""Operations that belong to the layer of the product whose accumulators they take."""

SOFTMAX = (ops.SoftmaxExpOp, ops.ShiftmaxOp, ops.Log2SoftmaxOp)
"""Operations around which an attention layer lies."""


@dataclass(frozen=True)
class Pipelines:
    """The pipelines in use."""

    intra: bool = True
    """Within a layer."""
    inter: bool = True
    """Between layers."""


CASES = {
    "none": Pipelines(intra=False, inter=False),
    "inter": Pipelines(intra=False, inter=True),
    "intra": Pipelines(intra=True, inter=False),
    "both": Pipelines(),
}
"""The cases of P2-ViT's ablation, in its order."""


@dataclass(frozen=True)
class Layers:
    """The layers of a function."""

    of: dict[Operation, int]
    """The layer of every operation: the position of its first one."""
    attention: frozenset[int]
    """Layers that are attention."""

    def together(self, op: Operation, pipelines: Pipelines) -> bool:
        """Whether the engines work on an operation's layer together."""
        return pipelines.intra if self.of[op] in self.attention else pipelines.inter

    def passes(self, op: Operation, value: SSAValue, pipelines: Pipelines) -> bool:
        """Whether an operation takes blocks of an operand as they are made."""
        owner = value.owner
        inside = isinstance(owner, Operation) and self.of.get(owner) == self.of[op]
        return self.together(op, pipelines) if inside else pipelines.inter


def layers_of(order: Sequence[Operation], source: Callable[[SSAValue], SSAValue]) -> Layers:
    """Find the layers among operations in order; `source` sees through pipelines."""

    def makers(op: Operation) -> list[Operation]:
        """Operations that compute an operand."""
        owners = (source(operand).owner for operand in op.operands)
        return [o for o in owners if isinstance(o, Operation) and not isinstance(o, ops.ConstantOp)]

    of: dict[Operation, int] = {}
    heads: set[int] = set()
    attention: set[int] = set()
    inside = _attention(order, makers)
    for index, op in enumerate(order):
        of[op] = index
        joined = [of[owner] for owner in makers(op) if of[owner] in heads]
        if op in inside:
            core = [layer for layer in joined if layer in attention]
            of[op] = max(core, default=index)
            attention.add(of[op])
            heads.add(of[op])
        elif isinstance(op, PRODUCTS):
            heads.add(index)
        elif isinstance(op, RESCALING) and joined:
            of[op] = max(joined)
    return Layers(of, frozenset(attention))


def _attention(
    order: Sequence[Operation], makers: Callable[[Operation], list[Operation]]
) -> set[Operation]:
    """Scores, softmax and values: from the product before a softmax to the one behind it."""
    inside: set[Operation] = set()
    pending = [op for op in order if isinstance(op, SOFTMAX)]
    while pending:
        op = pending.pop()
        if op not in inside:
            inside.add(op)
            if not isinstance(op, PRODUCTS):
                pending += makers(op)
    reached: set[Operation] = {op for op in order if isinstance(op, SOFTMAX)}
    for op in order:
        before = makers(op)
        if any(owner in reached for owner in before):
            if isinstance(op, PRODUCTS):
                inside.add(op)
            elif not any(isinstance(owner, PRODUCTS) for owner in before):
                inside.add(op)
                reached.add(op)
    return inside | {op for op in order if isinstance(op, ops.LinearAttnOp)}


ATTENTION, MLP, REST = "attention", "MLP", "rest"


def parts_of(
    order: Sequence[Operation], source: Callable[[SSAValue], SSAValue]
) -> dict[Operation, str]:
    """The part of the model that every operation is in.

    A part ends with a sum of two values that are computed (the residual stream) or before a
    LayerNorm; with a softmax or linear attention it is `attention`, with two linear products or
    more `MLP`, otherwise `rest`.
    """
    parts: dict[Operation, str] = {}
    block: list[Operation] = []
    order = [op for op in order if not isinstance(op, ops.ConstantOp)]
    for op, following in pairwise([*order, None]):
        assert op is not None, "None is only behind the last"
        block.append(op)
        owners = [source(operand).owner for operand in op.operands]
        sums = isinstance(op, ops.AddOp) and not any(isinstance(o, ops.ConstantOp) for o in owners)
        if sums or following is None or isinstance(following, ops.LayerNormOp):
            linear = sum(isinstance(each, ops.LinearOp) for each in block)
            softmax = any(isinstance(each, (*SOFTMAX, ops.LinearAttnOp)) for each in block)
            part = ATTENTION if softmax else MLP if linear > 1 else REST
            parts.update(dict.fromkeys(block, part))
            block = []
    return parts
