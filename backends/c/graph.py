"""The model as the C backend sees it: one list of operations, and what runs as one kernel call.

Pipelines are flattened (their schedule never changes a result). Then operations are grouped:

* an accumulating operation and the elementwise chain behind it (requantise, add, normalise, table,
  clamp) run as one kernel with an epilogue, so that accumulators are never stored as a tensor;
* scores, exponentials and the product with the values, with what lies between and behind them, run
  as one attention kernel;
* an elementwise chain on a stored tensor runs as one pass over it.

A chain goes on as long as the value has one reader, the reader works on the same rows and columns,
and its parameters vary along the columns only. Where several such readers need no more than what is
there already, the chain ends in branches, one for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import TypeAlias

from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from vit_opt.backends.c.steps import STAGES, Attention, Chain, Stage
from vit_opt.backends.c.strides import View, dense_strides, dense_view, view_of
from vit_opt.backends.c.tokens import LinearAttention, linear_attention, operand_views
from vit_opt.backends.c.windows import Windows
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import QuantizedType, is_unsigned
from vit_opt.dialects.vit.ops.base import format_of, integers, shape_of, tensor_type

ACCUMULATING = (
    ops.LinearOp,
    ops.MatmulOp,
    ops.Conv2dOp,
    ops.ConvTranspose2dOp,
    ops.Log2MatmulOp,
)

Step: TypeAlias = Operation | Chain | Attention | LinearAttention


@dataclass
class Graph:
    """A function, flattened and grouped."""

    function: FuncOp
    steps: list[Step]
    aliases: dict[SSAValue, SSAValue]
    """Results of pipelines and of data movement that moves nothing, and what they stand for."""
    outputs: list[SSAValue]
    """The returned values."""
    parts: dict[SSAValue, tuple[SSAValue, int]] = field(
        default_factory=dict["SSAValue", "tuple[SSAValue, int]"]
    )
    """Values computed right into a concatenation along columns: its result, and the first column."""

    def root(self, value: SSAValue) -> SSAValue:
        """The value whose memory `value` shares."""
        while value in self.aliases:
            value = self.aliases[value]
        return value


def main_function(module: Operation) -> FuncOp:
    """The one function of a model; raises VitError if there is none or more than one."""
    functions = [op for op in module.walk() if isinstance(op, FuncOp)]
    if len(functions) != 1:
        raise VitError(f"a model is a module with one function, this has {len(functions)}")
    return functions[0]


def build_graph(
    function: FuncOp, takes_places: Callable[[Attention], bool] = lambda _: False
) -> Graph:
    """Group the `vit` operations of a function that holds nothing else, and no pipelines.

    `takes_places` says whether the kernel of an attention finds its tokens by a list of places.

    Raises VitError for an operation of another dialect.
    """
    aliases: dict[SSAValue, SSAValue] = {}
    flat: list[Operation] = []
    outputs: list[SSAValue] = []
    _sort(function.body.block, flat, aliases, outputs)
    graph = Graph(function, [], aliases, outputs)
    graph.steps = _Grouping(graph, flat, takes_places).steps()
    return graph


def _sort(
    body: Block,
    flat: list[Operation],
    aliases: dict[SSAValue, SSAValue],
    outputs: list[SSAValue],
) -> None:
    for op in body.ops:
        if isinstance(op, ReturnOp):
            outputs.extend(op.arguments)
        elif isinstance(op, ops.ReshapeOp | ops.ReinterpretOp):
            aliases[op.result] = op.x
        elif isinstance(op, ops.VitOp):
            flat.append(op)
        else:
            raise VitError(
                f"{op.name} has no C kernel; the C backend takes vit operations (run pot-fold first)"
            )


def rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """A tensor as a matrix whose columns are its last dimension."""
    return (prod(shape[:-1]), shape[-1]) if shape else (1, 1)


@dataclass(frozen=True)
class RowsOf:
    """How rows of a broadcast operand meet the rows of a result."""

    distance: int
    """Elements from row to row; 0 for a single row."""
    inner: int
    """Rows in a run that is repeated."""
    repeat: int
    """How often each run is repeated."""
    period: int
    """Rows before the operand starts again; 0 if it does not."""


def other_rows(main: tuple[int, ...], other: tuple[int, ...]) -> RowsOf | None:
    """How a broadcast operand covers the rows of `main`; None where it does not cover whole rows.

    Its dimensions before the last are, from the left: some that repeat, some that are those of
    `main`, some that repeat, some that are those of `main`; each group may be empty.
    """
    padded = (1,) * (len(main) - len(other)) + other
    if len(padded) != len(main) or padded[-1:] != main[-1:]:
        return None
    pairs = [(a, b) for a, b in zip(main[:-1], padded[:-1], strict=True) if a != 1]
    if any(b not in (1, a) for a, b in pairs):
        return None
    groups: list[tuple[bool, int]] = []
    for size, own in pairs:
        same = own == size
        if groups and groups[-1][0] == same:
            groups[-1] = same, groups[-1][1] * size
        else:
            groups.append((same, size))
    starts_again = bool(groups) and not groups[0][0]
    if starts_again:
        groups = groups[1:]
    sizes = [size for _, size in groups]
    if not sizes:
        return RowsOf(0, 0, 0, 0)
    if len(sizes) > 3:
        return None
    rows = prod(sizes[::2])
    inner = sizes[2] if len(sizes) == 3 else 1
    repeat = sizes[1] if len(sizes) > 1 else 0
    return RowsOf(main[-1], inner if repeat else 0, repeat, rows if starts_again else 0)


def is_narrow(value: SSAValue) -> bool:
    """Whether the codes of a value fit the int32 tile of an epilogue."""
    element = tensor_type(value).get_element_type()
    if not isinstance(element, QuantizedType):
        return False
    width = element.storage.width.data
    return width < 32 or (width == 32 and not is_unsigned(element.storage))


def _varies_along_columns(value: SSAValue) -> bool:
    """Whether a value's scale is one, or one per column."""
    return format_of(value).channel_axis in (None, len(shape_of(value)) - 1)


def can_be_stage(op: Operation, index: int) -> bool:
    """Whether `op` can run in an epilogue on its operand `index`, tile by tile."""
    if not isinstance(op, STAGES) or not all(map(is_narrow, op.results)):
        return False
    main = op.operands[index]
    if not is_narrow(main) or not _varies_along_columns(op.results[0]):
        return False
    if not _varies_along_columns(main):
        return False
    if isinstance(op, ops.AddOp | ops.MulOp):
        other = op.operands[1 - index]
        return (
            shape_of(main) == shape_of(op.result)
            and is_narrow(other)
            and _varies_along_columns(other)
            and other_rows(shape_of(main), shape_of(other)) is not None
        )
    return index == 0


def _is_depthwise(op: Operation) -> bool:
    """Whether an operation is a convolution whose kernels take neighbouring pixels as one line."""
    return isinstance(op, ops.Conv2dOp) and op.groups.value.data == shape_of(op.x)[-1]


class _Grouping:
    """Finds chains and attentions in a flat list of operations."""

    def __init__(
        self, graph: Graph, flat: list[Operation], takes_places: Callable[[Attention], bool]
    ):
        self.graph = graph
        self.takes_places = takes_places
        self.flat = flat
        self.order = {op: place for place, op in enumerate(flat)}
        self.readers: dict[SSAValue, list[tuple[Operation, int]]] = {}
        for op in flat:
            for index, operand in enumerate(op.operands):
                self.readers.setdefault(graph.root(operand), []).append((op, index))
        self.returned = {graph.root(value) for value in graph.outputs}
        self.taken: set[Operation] = set()

    def steps(self) -> list[Step]:
        """Every operation once, chains and attentions at the place of their last operation."""
        last: dict[Operation, Step] = {}
        for op in self.flat:
            if op in self.taken or not isinstance(op, ops.MatmulOp):
                continue
            attention = self._attention(op)
            if attention is not None:
                members = [*attention.scores.members(), attention.softmax]
                members += attention.product.members()
                self.taken.update(members)
                self._store_transposed(attention)
                last[members[-1]] = attention
        for op in self.flat:
            if isinstance(op, ops.LinearAttnOp):
                last[op] = step = linear_attention(op, self._only_reader)
                self.taken.update([op, *step.moves])
        self._fold_moves(
            [step for step in last.values() if isinstance(step, Attention)],
            [step for step in last.values() if isinstance(step, LinearAttention)],
        )
        windows = Windows(self.readers, self.graph.aliases, self.taken, self.returned)
        for step in last.values():
            if isinstance(step, Attention) and self.takes_places(step):
                step.places = windows.place(step)
        for op in self.flat:
            if op in self.taken:
                continue
            chain = self._chain(op)
            if chain is not None:
                self._branch(chain)
                members = chain.members()
                self.taken.update(members)
                last[members[0] if chain.branches else members[-1]] = chain
        self._place_parts([step for step in last.values() if isinstance(step, Chain)])
        steps: list[Step] = []
        for op in self.flat:
            if op in last:
                steps.append(last[op])
            elif op not in self.taken:
                steps.append(op)
        return steps

    def _single_reader(self, value: SSAValue) -> tuple[Operation, int] | None:
        """The only reader of a value, and the operand it reads it as."""
        readers = self.readers.get(value, [])
        if len(readers) != 1 or value in self.returned or readers[0][0] in self.taken:
            return None
        op, index = readers[0]
        # A reshape in between must leave the columns alone, since tiles are rows of columns.
        if shape_of(op.operands[index])[-1:] != shape_of(value)[-1:]:
            return None
        return readers[0]

    def _chain(self, op: Operation) -> Chain | None:
        """The chain that starts at `op`, or None if it is neither accumulating nor a stage."""
        if isinstance(op, ACCUMULATING):
            chain = Chain(op)
        elif isinstance(op, STAGES):
            index = next((i for i in (0, 1) if i < len(op.operands) and can_be_stage(op, i)), None)
            if index is None:
                return None
            chain = Chain(op, [(op, index)])
        else:
            return None
        self._extend(chain, op.results[0])
        return chain

    def _extend(self, chain: Chain, value: SSAValue, ready_at: Operation | None = None) -> None:
        """Append stages; with `ready_at`, such whose operands are computed before that operation."""
        while (reader := self._single_reader(value)) is not None:
            op, index = reader
            if not isinstance(op, STAGES) or not can_be_stage(op, index):
                break
            if ready_at is not None and not self._is_ready(op, index, ready_at):
                break
            if self._belongs_to_other(op, index):
                break
            chain.stages.append((op, index))
            value = op.results[0]
        chain.result = value

    def _belongs_to_other(self, op: Stage, index: int) -> bool:
        """Whether a stage better runs behind its other operand: accumulators, which then stay in
        registers, while what this chain stores is narrower."""
        if not isinstance(op, ops.AddOp | ops.MulOp):
            return False
        main, other = op.operands[index], op.operands[1 - index]
        narrower = format_of(main).storage.width.data < format_of(other).storage.width.data
        accumulates = isinstance(other.owner, ACCUMULATING) and other.owner not in self.taken
        reader = self._single_reader(other) if narrower and accumulates else None
        return reader is not None and reader[0] is op and can_be_stage(op, 1 - index)

    def _branch(self, chain: Chain) -> None:
        """Let a chain go on to several readers, which are then computed at the place of its head."""
        value = chain.result
        assert value is not None
        if not all(self._is_ready(op, index, chain.head) for op, index in chain.stages):
            return
        readers = self.readers.get(value, [])
        for op, index in readers:
            alone = sum(reader is op for reader, _ in readers) == 1
            same_columns = shape_of(op.operands[index])[-1:] == shape_of(value)[-1:]
            if not (isinstance(op, STAGES) and alone and same_columns) or op in self.taken:
                continue
            if can_be_stage(op, index) and self._is_ready(op, index, chain.head):
                branch = Chain(op, [(op, index)])
                self._extend(branch, op.results[0], chain.head)
                chain.branches.append(branch)
        chain.is_stored = len(chain.branches) < len(readers) or value in self.returned

    def _is_ready(self, op: Operation, index: int, head: Operation) -> bool:
        """Whether the other operand of a stage is computed before `head` is."""
        if not isinstance(op, ops.AddOp | ops.MulOp):
            return True
        owner = self.graph.root(op.operands[1 - index]).owner
        return not isinstance(owner, Operation) or self.order.get(owner, -1) < self.order[head]

    def _attention(self, scores: ops.MatmulOp) -> Attention | None:
        """The attention whose scores `scores` computes, if nothing else reads its parts."""
        first = Chain(scores)
        self._extend(first, scores.result)
        assert first.result is not None
        reader = self._single_reader(first.result)
        if reader is None or not isinstance(reader[0], ops.SoftmaxExpOp):
            return None
        softmax = reader[0]
        product, total = self._single_reader(softmax.p), self._single_reader(softmax.sum)
        if product is None or total is None:
            return None
        op, index = product
        if not isinstance(op, ops.MatmulOp) or index != 0 or op.transpose_b is not None:
            return None
        if shape_of(op.a) != shape_of(scores.result):
            return None
        second = Chain(op)
        self._extend(second, op.result)
        if not any(stage is total[0] for stage, _ in second.stages):
            return None
        assert second.result is not None
        strides = tuple(dense_strides(shape_of(second.result)))
        query, key, value = (dense_view(operand) for operand in (scores.a, scores.b, op.b))
        return Attention(first, softmax, second, query, key, value, second.result, strides)

    def _store_transposed(self, attention: Attention) -> None:
        """Let an attention store the transpose of its result, where that is all that is read."""
        result = attention.product.result
        reader = None if result is None else self._single_reader(result)
        if result is None or reader is None or not isinstance(reader[0], ops.TransposeOp):
            return
        move = reader[0]
        permutation = integers(move.permutation)
        rank = len(permutation)
        if permutation[-1] != rank - 1 or shape_of(move.x) != shape_of(result):
            return
        target = dense_strides(shape_of(move.result))
        strides = tuple(target[permutation.index(axis)] for axis in range(rank))
        stored = replace(attention, result=move.result, result_strides=strides)
        if len(stored.batch()[0]) <= 2:
            attention.result, attention.result_strides = stored.result, strides
            self.taken.add(move)

    def _fold_moves(self, attentions: list[Attention], linear: list[LinearAttention]) -> None:
        """Let attentions read through transposes and slices that nothing else needs."""
        kept = {op for op in self.flat if op in self.taken}
        while True:
            viewed = [(a, self._operand_views(a, kept)) for a in attentions]
            tokens = [
                operand_views(step, self._only_reader, self.graph.aliases, kept) for step in linear
            ]
            views = [view for _, each in viewed for view in each]
            views += [each.view for operands in tokens for each in operands]
            moves = {op for view in views for op in view.moves}
            readers = {op for a in attentions for op in (a.scores.head, a.product.head)}
            for step, operands in zip(linear, tokens, strict=True):
                readers.update(each.reader(step.op) for each in operands)
            needed = {move for move in moves if not self._only_read_by(move, moves | readers)}
            if not needed:
                break
            kept |= needed
        for attention, each in viewed:
            attention.query, attention.key, attention.value = each
        for step, operands in zip(linear, tokens, strict=True):
            step.operands = operands
            self.taken.update(step.members())
        self.taken |= moves

    def _only_reader(self, value: SSAValue) -> Operation | None:
        """The only operation that reads the memory of a value."""
        root = self.graph.root(value)
        readers = self.readers.get(root, [])
        return readers[0][0] if len(readers) == 1 and root not in self.returned else None

    def _place_parts(self, chains: list[Chain]) -> None:
        """Let chains store right into concatenations along columns that read them alone."""
        stored = {
            each.result
            for chain in chains
            for each in (chain, *chain.branches)
            if each.is_stored and not _is_depthwise(chain.head)
        }
        for op in self.flat:
            if not isinstance(op, ops.ConcatOp):
                continue
            shape, first = shape_of(op.result), 0
            for x in op.xs if op.axis.value.data == len(shape) - 1 else ():
                root = self.graph.root(x)
                same = shape_of(root)[-1:] == shape_of(x)[-1:]
                if root in stored and same and self._only_reader(root) is op:
                    self.graph.parts[root] = op.result, first
                first += shape_of(x)[-1]

    def _operand_views(self, attention: Attention, kept: set[Operation]) -> list[View]:
        """Query, key and value of an attention as its kernel can read them."""
        scores, product = attention.scores.head, attention.product.head
        operands = [scores.operands[0], scores.operands[1], product.operands[1]]
        views = [view_of(value, self.graph.aliases, kept) for value in operands]
        candidate = replace(attention, query=views[0], key=views[1], value=views[2])
        query, key, value = (view.strides[-2:] for view in views)
        rows = query[1] == value[1] == 1 and 1 in key
        if rows and len(candidate.batch()[0]) <= 2:
            return views
        return [dense_view(value) for value in operands]

    def _only_read_by(self, move: Operation, readers: set[Operation]) -> bool:
        """Whether a move's result has no readers but these."""
        root = self.graph.root(move.results[0])
        found = self.readers.get(root, [])
        return root not in self.returned and all(op in readers for op, _ in found)
