"""What runs as one kernel call: chains of an operation and elementwise stages, and attentions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray
from xdsl.ir import Operation, SSAValue

from vit_opt.backends.c.strides import View, merge_dimensions
from vit_opt.dialects.vit import ops

STAGES = (
    ops.PotRequantOp,
    ops.RequantOp,
    ops.AddOp,
    ops.MulOp,
    ops.NormalizeOp,
    ops.LutOp,
    ops.ClampOp,
)

Stage: TypeAlias = (
    ops.PotRequantOp
    | ops.RequantOp
    | ops.AddOp
    | ops.MulOp
    | ops.NormalizeOp
    | ops.LutOp
    | ops.ClampOp
)


@dataclass
class Chain:
    """An operation and the elementwise stages that run in its epilogue."""

    head: Operation
    """The producing operation; the first stage itself where the chain reads a stored tensor."""
    stages: list[tuple[Stage, int]] = field(default_factory=list[tuple[Stage, int]])
    """Stage operations, each with the index of the operand that is the chain's value."""
    result: SSAValue | None = None
    is_stored: bool = True
    """Whether the result is needed in memory, and not by the branches alone."""
    branches: list[Chain] = field(default_factory=list["Chain"])
    """Chains of stages that go on from the result while it is at hand."""

    def members(self) -> list[Operation]:
        """All operations that it computes."""
        stages: list[Operation] = [stage for stage, _ in self.stages]
        own = stages if stages and stages[0] is self.head else [self.head, *stages]
        return own + [op for branch in self.branches for op in branch.members()]


@dataclass
class Attention:
    """Scores (with stages), exponentials, product with the values (with stages)."""

    scores: Chain
    softmax: ops.SoftmaxExpOp
    product: Chain
    query: View
    key: View
    value: View
    result: SSAValue
    """What is stored: the product's result, or its transpose."""
    result_strides: tuple[int, ...]
    """Distances in `result` along the dimensions of the product's result."""
    places: NDArray[Any] | None = None
    """[windows, tokens]: the row of each token in the operands and the result, if not in order."""

    def batch(self) -> list[tuple[int, ...]]:
        """Leading dimensions, merged, and the distances of query, key, value and result in them."""
        views = [self.query.strides, self.key.strides, self.value.strides, self.result_strides]
        lead = [list(s[:-2]) for s in (self.query.shape, *views)]
        return merge_dimensions(lead)
