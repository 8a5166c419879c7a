"""Pass `tile`: chains whose rows stream through the machine together, and how each is blocked."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects.builtin import IntAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Block, Operation, Region
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.traits import IsTerminator

from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.ops.base import VitOp
from vit_opt.dialects.vit.ops.pipeline import LOOPS, ScheduleAttr
from vit_opt.dialects.vit.targets import AccelTarget, CpuTarget, target
from vit_opt.passes.blocking import (
    PRODUCTS,
    Machine,
    Stream,
    is_compute,
    loops_of,
    needs_of,
)
from vit_opt.passes.stage import set_stage, stage_of

MAX_PRODUCTS = 3
"""Products in one chain: q, k, v; scores, values, projection; conv, depthwise, pointwise."""

STARTS = (ops.LayerNormOp,)
"""Operations that begin a chain: they read the residual stream, which is kept anyway."""


@dataclass(frozen=True)
class TilePass(ModulePass):
    """Group chains into `vit.pipeline` regions with a schedule for a target.

    With power-of-two scales a finished row is requantised as it leaves the array and can flow on at
    once. An operation joins the chain of its operands unless it needs all of a value that the chain
    makes (keys and values are needed whole before the first score), begins a chain itself
    (LayerNorm), or would be its fourth product. Values that others read are yielded. The bodies
    stay on whole tensors: no bit changes, and an interpreter may ignore everything written here.

        %a = vit.linear %x, %w             %y = vit.pipeline {
        %y = vit.pot_requant %a      ->      %a = vit.linear %x, %w {loops = #vit.loops<...>}
                                             %q = vit.pot_requant %a {loops = #vit.loops<...>}
                                             vit.yield %q
                                           } {schedule = #vit.schedule<"p2vit", 64>}

    A module that has been tiled before is tiled anew.
    """

    name = "tile"

    target: str = "p2vit"
    """Name of the target record: an accelerator ("p2vit") or a CPU ("c")."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        tile(op, self.target)


@dataclass(frozen=True)
class TileRecordPass(ModulePass):
    """`tile` for a machine that is given as a record, which need not be a preset."""

    name = "tile"

    record: AccelTarget | CpuTarget
    """The machine."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        tile(op, self.record)


def tile(module: ModuleOp, machine: AccelTarget | CpuTarget | str = "p2vit") -> None:
    """Tile every function of a module in place for a record, or for the preset of that name.

    Raises VitError for an unknown name.
    """
    record = target(machine) if isinstance(machine, str) else machine
    figures = Machine.of(record)
    flatten(module)
    for op in module.walk():
        if isinstance(op, FuncOp) and op.body.blocks:
            _tile_block(op.body.block, figures, record.name)
    if stage_of(module) is not None:
        set_stage(module, "scheduled")


def flatten(module: ModuleOp) -> None:
    """Undo tiling: the operations of every pipeline take its place."""
    for op in list(module.walk()):
        if not isinstance(op, ops.PipelineOp):
            continue
        last = op.terminator
        values = list(last.values)
        Rewriter.erase_op(last)
        for inner in list(op.body.block.ops):
            inner.detach()
            inner.attributes.pop(LOOPS, None)
            Rewriter.insert_op(inner, InsertPoint.before(op))
        Rewriter.replace_op(op, (), values)


@dataclass(eq=False)
class _Chain:
    """Operations that will form a pipeline, and the chains that must run before it."""

    ops: list[Operation] = field(default_factory=list[Operation])
    before: set[_Chain] = field(default_factory=set["_Chain"])

    def follows(self, other: _Chain) -> bool:
        """Whether this chain needs another one's results, directly or not."""
        seen: set[_Chain] = set()
        pending: list[_Chain] = [self]
        while pending:
            chain = pending.pop()
            if chain is other:
                return True
            if chain not in seen:
                seen.add(chain)
                pending.extend(chain.before)
        return False

    @property
    def products(self) -> int:
        """Matrix products in the chain."""
        return sum(isinstance(op, PRODUCTS) for op in self.ops)


def _chains(block: Block) -> dict[Operation, _Chain]:
    """The chain of every operation of a block, in which only those that stand alone have one op.

    Every operation has a chain, so that dependencies through operations outside of pipelines are
    seen as well.
    """
    chain_of: dict[Operation, _Chain] = {}
    for op in block.ops:
        # What an operation with regions reads inside of them counts as its own operands.
        operands = [operand for inner in op.walk() for operand in inner.operands]
        sources = {
            chain_of[value.owner]
            for value in operands
            if isinstance(value.owner, Operation) and value.owner in chain_of
        }
        chain = _joined(op, chain_of, sources)
        if chain is None:
            chain = _Chain()
        chain.ops.append(op)
        chain.before |= sources - {chain}
        chain_of[op] = chain
    return chain_of


def _joined(
    op: Operation, chain_of: dict[Operation, _Chain], sources: set[_Chain]
) -> _Chain | None:
    """The chain that an operation joins: that of its latest operand it may stream from, if any."""
    if not _streams(op) or isinstance(op, STARTS):
        return None
    for operand, need in reversed(list(zip(op.operands, needs_of(op), strict=True))):
        owner = operand.owner
        if not isinstance(owner, Operation) or not _streams(owner) or need == "all":
            continue
        chain = chain_of[owner]
        whole = any(
            other_need == "all" and other.owner in chain.ops
            for other, other_need in zip(op.operands, needs_of(op), strict=True)
        )
        full = isinstance(op, PRODUCTS) and chain.products == MAX_PRODUCTS
        cyclic = any(other is not chain and other.follows(chain) for other in sources)
        if not (whole or full or cyclic):
            return chain
    return None


def _streams(op: Operation) -> bool:
    """Whether an operation may be part of a pipeline."""
    border = (ops.ConstantOp, ops.QuantizeOp, ops.DequantizeOp)
    return isinstance(op, VitOp) and not isinstance(op, border)


def _tile_block(block: Block, machine: Machine, target_name: str) -> None:
    order = {op: index for index, op in enumerate(block.ops)}
    chains = list(dict.fromkeys(_chains(block).values()))
    last = block.last_op
    for chain in _sorted(chains, order):
        if last is not None and last.has_trait(IsTerminator) and chain.ops == [last]:
            continue
        for op in chain.ops:
            op.detach()
            if last is not None and last.parent is block:
                block.insert_op_before(op, last)
            else:
                block.add_op(op)
        if len(chain.ops) > 1 and any(is_compute(op) for op in chain.ops):
            _wrap(chain.ops, machine, target_name)


def _sorted(chains: list[_Chain], order: dict[Operation, int]) -> list[_Chain]:
    """Chains after those they need, otherwise as the first of their operations stood."""
    waiting = {chain: len(chain.before) for chain in chains}
    after: dict[_Chain, list[_Chain]] = {chain: [] for chain in chains}
    for chain in chains:
        for needed in chain.before:
            after[needed].append(chain)
    first = {chain: order[chain.ops[0]] for chain in chains}
    by_first = {index: chain for chain, index in first.items()}
    ready = [first[chain] for chain in chains if not waiting[chain]]
    heapq.heapify(ready)
    result: list[_Chain] = []
    while ready:
        chain = by_first[heapq.heappop(ready)]
        result.append(chain)
        for follower in after[chain]:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, first[follower])
    assert len(result) == len(chains), "chains depend on each other in a circle"
    return result


def _wrap(chain: list[Operation], machine: Machine, target_name: str) -> None:
    """Move consecutive operations into a pipeline that yields what others read."""
    members = set(chain)
    outputs = [
        result
        for op in chain
        for result in op.results
        if any(use.operation not in members for use in result.uses)
    ]
    stream = Stream.of(chain, machine)
    for op in chain:
        op.attributes[LOOPS] = loops_of(op, machine, stream, needs_of(op))
    schedule = ScheduleAttr(StringAttr(target_name), IntAttr(stream.rows))
    body = Block()
    pipeline = ops.PipelineOp(Region(body), schedule, [value.type for value in outputs])
    Rewriter.insert_op(pipeline, InsertPoint.before(chain[0]))
    for op in chain:
        op.detach()
        body.add_op(op)
    for value, result in zip(outputs, pipeline.outputs, strict=True):
        value.replace_uses_with_if(result, lambda use: use.operation not in members)
        result.name_hint = value.name_hint
    body.add_op(ops.YieldOp(outputs))
