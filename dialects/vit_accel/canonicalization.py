"""Canonicalisation of programs."""

from __future__ import annotations

from xdsl.ir import Operation
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern

from vit_opt.dialects.vit_accel.isa import Signal, Wait
from vit_opt.dialects.vit_accel.ops import InstructionOp

COUNT_MAX = 255
"""Tokens that one instruction can take or give."""


class JoinTokens(RewritePattern):
    """wait s, a; wait s, b  ->  wait s, a + b, and the same for signals, of one engine.

    Exact: between the two the engine does nothing, so nothing can tell a token taken (or given)
    a cycle earlier from one taken later.
    """

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        following = op.next_op
        if not isinstance(op, InstructionOp) or not isinstance(following, InstructionOp):
            return
        first, second = op.instruction, following.instruction
        joined: Wait | Signal
        match first, second:
            case Wait(), Wait():
                joined = Wait(first.engine, first.sem, 0)
            case Signal(), Signal():
                joined = Signal(first.engine, first.sem, 0)
            case _:
                return
        total = first.count + second.count
        if (first.engine, first.sem) != (second.engine, second.sem) or total > COUNT_MAX:
            return
        rewriter.erase(following)
        rewriter.replace(op, InstructionOp.of(type(joined)(first.engine, first.sem, total)))
