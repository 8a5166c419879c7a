"""Operations on blocks of rows, alone or chained behind a product without leaving the chip.

A *chain* is a row of operations in which each takes the result of the one before: a product's
accumulators pass through it block by block and only the last result is stored.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from xdsl.ir import Operation, SSAValue

from vit_opt.backends.accel.lowering.context import Lowering
from vit_opt.backends.accel.lowering.memory import Source
from vit_opt.backends.accel.lowering.places import Place, planes_together, raster, taller
from vit_opt.backends.accel.lowering.planes import Grid, channel_axis, grid_for
from vit_opt.backends.accel.lowering.steps import (
    CLAMPED,
    PARAMETERS,
    STEPS,
    WHOLE_ROWS,
    Emit,
    Window,
    clamp_limits,
)
from vit_opt.backends.accel.lowering.streams import panel_reader, stream_reader, windowed
from vit_opt.backends.accel.lowering.tensors import (
    Block,
    Tensor,
    load_block,
    span_of,
    store_block,
    value_format,
    value_shape,
)
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.dialects.vit_accel.isa_base import UNLIMITED
from vit_opt.passes.mapping import block_rows, is_image, row_blocks, rows_together
from vit_opt.passes.rooms import MADE, PASSING, room

# -- chains -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Link:
    """One operation of a chain: the operands' tensors, None for what the chain provides."""

    op: Operation
    tensors: tuple[Tensor | None, ...]


def _limits_result(op: Operation) -> bool:
    """Whether an operation's instruction can clamp its result: limits have 33 bits."""
    return isinstance(op, CLAMPED) and value_format(op.results[0])[0].size <= 4


def _instructions(links: Sequence[Link]) -> list[tuple[Link, tuple[int, int]]]:
    """The links of a chain that have an instruction, and the limits of its result: a clamp behind
    the shifters is theirs. A change of the real value alone has none either."""
    found: list[tuple[Link, tuple[int, int]]] = []
    for link in links:
        if isinstance(link.op, ops.ReinterpretOp):
            continue
        op = link.op
        if found and isinstance(op, ops.ClampOp) and _limits_result(found[-1][0].op):
            before, (low, high) = found.pop()
            smallest, largest = clamp_limits(op)
            limits = min(max(low, smallest), largest), min(max(high, smallest), largest)
            found.append((before, limits))
        else:
            found.append((link, UNLIMITED))
    return found


def follow(lowering: Lowering, value: SSAValue, grid: Grid, whole_rows: bool) -> list[Link]:
    """The operations that can take `value` block by block, one after the other."""
    links: list[Link] = []
    while True:
        link = _next_link(lowering, value, grid, whole_rows)
        if link is None:
            break
        links.append(link)
        if len(link.op.results) > 1:
            return links
        value = link.op.results[0]
    while links and isinstance(links[-1].op, ops.ReinterpretOp):
        links.pop()
    return links


@dataclass(frozen=True)
class Branch:
    """A chain behind a product, and where its results go."""

    links: tuple[Link, ...]
    targets: tuple[Tensor, ...]
    behind: tuple[Branch, ...] = ()
    """Chains that take the result of this one, which others read too, as it is made."""

    @property
    def all_links(self) -> list[Link]:
        """The operations of this chain and of those behind it."""
        return [*self.links, *(link for branch in self.behind for link in branch.all_links)]

    @property
    def all_targets(self) -> list[Tensor]:
        """The results of this chain and of those behind it."""
        return [*self.targets, *(target for branch in self.behind for target in branch.all_targets)]

    def ends(self, head: Operation) -> list[Operation]:
        """What makes the results of this chain behind `head`, and of those behind it."""
        last = self.links[-1].op if self.links else head
        return [last, *(end for branch in self.behind for end in branch.ends(last))]


def fork(
    lowering: Lowering,
    op: Operation,
    grid: Grid,
    whole_rows: bool,
    reads: Sequence[Tensor],
) -> list[Branch]:
    """The chains that take the result of `op` block by block, their results allocated: one, or one
    for each of its readers if all of them rescale; and behind each those that rescale what it ends
    with, where others read that too. For the rest see `chain_results`."""
    value = op.results[0]
    readers = lowering.users.get(value, [])
    chains = [follow(lowering, value, grid, whole_rows)]
    if len(readers) > 1 and all(isinstance(reader, ops.PotRequantOp) for reader in readers):
        heads = [_link(lowering, value, reader, grid, whole_rows) for reader in readers]
        if None not in heads:
            chains = [
                [head, *follow(lowering, head.op.results[0], grid, whole_rows)]
                for head in heads
                if head is not None
            ]
    return [_branch(lowering, op, links, grid, whole_rows, reads) for links in chains]


def _branch(
    lowering: Lowering,
    op: Operation,
    links: Sequence[Link],
    grid: Grid,
    whole_rows: bool,
    reads: Sequence[Tensor],
) -> Branch:
    """A chain behind `op`, its results allocated, with the chains behind it."""
    targets = chain_results(lowering, op, links, grid, reads)
    last = links[-1].op if links else op
    behind: list[Branch] = []
    if links and len(last.results) == 1 and len(lowering.users.get(last.results[0], [])) > 1:
        value = last.results[0]
        for reader in lowering.users[value]:
            if isinstance(reader, ops.PotRequantOp):
                head = _link(lowering, value, reader, grid, whole_rows)
                if head is not None:
                    chain = [head, *follow(lowering, reader.result, grid, whole_rows)]
                    behind.append(_branch(lowering, last, chain, grid, whole_rows, reads))
    return Branch(tuple(links), tuple(targets), tuple(behind))


def _next_link(lowering: Lowering, value: SSAValue, grid: Grid, whole_rows: bool) -> Link | None:
    """The one reader of a value, if it can take it block by block."""
    users = lowering.users.get(value, [])
    return None if len(users) != 1 else _link(lowering, value, users[0], grid, whole_rows)


def _link(
    lowering: Lowering, value: SSAValue, op: Operation, grid: Grid, whole_rows: bool
) -> Link | None:
    """A reader of a value, if it can take it block by block; a change of the real value that
    leaves the integers as they are is passed through."""
    if op in lowering.done or not lowering.layers.passes(op, value, lowering.pipelines):
        return None
    if isinstance(op, ops.ReinterpretOp):
        return Link(op, (None,))
    if type(op) not in STEPS or (isinstance(op, WHOLE_ROWS) and not whole_rows):
        return None
    if value_shape(op.results[0]) != grid.shape or channel_axis(op) is not None:
        return None
    tensors: list[Tensor | None] = []
    parameters = PARAMETERS.get(type(op), ())
    for index, operand in enumerate(op.operands):
        if lowering.source(operand) is value:
            tensors.append(None)
            continue
        if not lowering.is_available(operand):
            return None
        tensor = lowering.tensor(operand)
        start = (0,) * len(grid.outer)
        if index not in parameters and grid.plane(tensor, start) is None:
            return None
        tensors.append(tensor)
    if any(tensors[i] is None for i in parameters):
        return None
    return Link(op, tuple(tensors))


def run_links(
    lowering: Lowering,
    links: Sequence[Link],
    block: Block | None,
    place: Place,
    targets: Sequence[Tensor],
    keep: bool = False,
    behind: Sequence[Branch] = (),
) -> None:
    """Pass a block through a chain; what it ends with becomes a part of the targets.

    The last operation writes where the targets' pieces have their place; the chains behind it take
    the block from there. Blocks between operations are given back, and so is the block that came in
    unless it is to be kept.
    """
    builder = lowering.builder
    grid, index, (row, col), size = place.grid, place.index, place.first, place.size
    window = Window(size[0], size[1], col, grid.channel(index))
    current = [] if block is None else [block]
    outer = builder.origin
    instructions = _instructions(links)
    for number, (link, limits) in enumerate(instructions, 1):
        builder.origin = lowering.origin_of(link.op)
        mark = builder.mark()
        emit = Emit(lowering, window, limits=limits)
        parameters = PARAMETERS.get(type(link.op), ())
        args: list[Block] = []
        for position, tensor in enumerate(link.tensors):
            if tensor is None:
                args.append(current[0])
            elif position in parameters:
                args.append(_parameter_block(lowering, link.op, tensor, col, size[1]))
            else:
                plane = grid.plane(tensor, index)
                assert plane is not None, "follow() and grid_for() admit only such operands"
                space = Space.ABUF if position == 0 else Space.CBUF
                args.append(load_block(builder, plane, (row, col), size, space))
        if number == len(instructions):
            emit.into = [place.home(lowering, target) for target in targets]
        results = STEPS[type(link.op)](emit, link.op, args)
        for old in current:
            if old is not block or not keep:
                builder.release(old.region)
        if number == len(instructions):
            for branch in behind:
                run_links(
                    lowering, branch.links, results[0], place, branch.targets, True, branch.behind
                )
        builder.unpin(mark)
        current = results
    if not links:
        for result, target in zip(current, targets, strict=True):
            store_block(builder, result, place.plane(target), *place.part(target))
    builder.origin = outer


def run_branches(
    lowering: Lowering, branches: Sequence[Branch], block: Block, place: Place
) -> None:
    """Pass a block through all chains behind it."""
    for branch in branches:
        keep = branch is not branches[-1]
        run_links(lowering, branch.links, block, place, branch.targets, keep, branch.behind)


@dataclass(frozen=True)
class Stream:
    """How a result is made as it is read."""

    reader: Operation
    """Who reads it last."""
    by_columns: bool
    """Whether in panels of channels, not in rows."""

    @property
    def panels_apart(self) -> bool:
        """Whether panels lie apart on chip, so that who reads one waits for no other."""
        grouped = isinstance(self.reader, ops.Conv2dOp) and self.reader.groups.value.data > 1
        return self.by_columns and grouped


def results_of(head: Operation, branches: Sequence[Branch]) -> list[SSAValue]:
    """What the chains behind `head` make."""
    return [end.results[0] for branch in branches for end in branch.ends(head)]


def find_stream(lowering: Lowering, head: Operation, branches: Sequence[Branch]) -> Stream | None:
    """Whether the results behind `head` can be made as they are read; None if at once."""
    sources = lowering.builder.sources
    if any(target.region in sources for branch in branches for target in branch.all_targets):
        return None
    values = results_of(head, branches)
    by_row = [stream_reader(lowering, value) for value in values]
    by_panel = [panel_reader(lowering, value) for value in values]
    found = [each for each in (by_panel if None in by_row else by_row) if each is not None]
    if not found:
        return None
    return Stream(max(found, key=lambda op: lowering.position[op]), None in by_row)


def run_stream(
    lowering: Lowering,
    source: Source,
    head: Operation,
    branches: Sequence[Branch],
    stream: Stream | None,
) -> None:
    """Make all blocks of what is behind `head`, or leave them to their readers."""
    if stream is None:
        while source.advance():
            pass
        return
    targets = [target for branch in branches for target in branch.all_targets]
    members = [head, *(link.op for branch in branches for link in branch.all_links)]
    lowering.stream(source, targets, members, stream.reader)


def require_links(lowering: Lowering, links: Sequence[Link], place: Place) -> None:
    """Have the rows made that a block of a chain will read besides what the chain provides."""
    for link in links:
        for tensor in link.tensors:
            if tensor is not None and tensor.region in lowering.builder.sources:
                plane = place.grid.plane(tensor, place.index)
                assert plane is not None, "follow() and grid_for() admit only such operands"
                last = place.first[0] + place.size[0]
                rect = span_of(plane, place.start_of(plane), *place.size)
                end = plane.offset + last * plane.strides[0]
                lowering.builder.require(tensor.region, end, rect)


def _parameter_block(
    lowering: Lowering, op: Operation, tensor: Tensor, first: int, count: int
) -> Block:
    """A table whole, or the columns of a parameter vector, in the parameter buffer."""
    if isinstance(op, ops.LutOp):
        first, count = 0, tensor.shape[0]
    row = Tensor(
        tensor.region,
        tensor.dtype,
        tensor.format,
        (1, tensor.shape[0]),
        (tensor.size, tensor.strides[0]),
        tensor.offset,
    )
    return load_block(lowering.builder, row, (0, first), (1, count), Space.PBUF)


def chain_results(
    lowering: Lowering,
    op: Operation,
    links: Sequence[Link],
    grid: Grid,
    reads: Sequence[Tensor] = (),
) -> list[Tensor]:
    """Allocate the results at the end of a chain (or of `op` alone) and mark it all lowered.

    A sum takes the place of an operand that nobody reads later: the residual stream stays where it
    is. `reads` are the tensors that the chain's head reads in other places than it writes.
    """
    last = links[-1].op if links else op
    lowering.done.add(op)
    lowering.done.update(link.op for link in links)
    others = [t for link in links[:-1] for t in link.tensors if t is not None]
    if links and isinstance(last, ops.AddOp):
        taken = {tensor.region for tensor in (*reads, *others)}
        operands = [tensor for tensor in links[-1].tensors if tensor is not None]
        for tensor in operands:
            if tensor.region not in taken and sum(t.region is tensor.region for t in operands) == 1:
                target = lowering.define_over(last.result, tensor, last)
                if target is not None:
                    return [target]
    if len(last.results) == 1:
        part = lowering.define_in_concat(last.results[0])
        if part is not None:
            return [part]
    return [lowering.define(result, grid.rows) for result in last.results]


def bytes_per_element(links: Sequence[Link]) -> int:
    """Bytes of output buffer that an element of a chain needs at most at one time."""
    made = [link.op.results[0] for link, _ in _instructions(links)]
    sizes = [value_format(result)[0].size for result in made]
    return max((a + b for a, b in zip([4, *sizes], [*sizes, 0], strict=True)), default=8)


MAX_COLS = 2048
"""Columns of a block where an operation does not need whole rows."""


def lower_rows(lowering: Lowering, op: Operation) -> None:
    """An operation on rows by itself, with what can be chained behind it."""
    shape = value_shape(op.results[0])
    parameters = PARAMETERS.get(type(op), ())
    operands = [lowering.tensor(operand) for operand in op.operands]
    rows = [tensor for i, tensor in enumerate(operands) if i not in parameters]
    grid = grid_for(op, rows, shape)
    first = Link(op, tuple(operands))
    links = [first]
    if len(op.results) == 1:
        links += follow(lowering, op.results[0], grid, whole_rows=grid.col_count <= MAX_COLS)
    needs_rows = any(isinstance(link.op, WHOLE_ROWS) for link in links)
    targets = chain_results(lowering, op, links, grid)
    arch = lowering.arch
    read = max(tensor.dtype.size for link in links for tensor in link.tensors if tensor is not None)
    limit = min(room(arch, name, PASSING) for name in ("abuf", "cbuf")) // read
    limit = min(limit, room(arch, "obuf", MADE) // bytes_per_element(links))
    cols = grid.col_count if needs_rows else max(1, min(grid.col_count, MAX_COLS, limit))
    image = is_image(shape) and len(grid.rows) == 3
    step = rows_together(arch, shape, grid.row_count)
    if grid.outer:
        # Those of a batch follow each other, so that one need not be cut for engines to overlap.
        step = block_rows(arch, grid.row_count, 1)
    spread = raster(lowering.arch, targets, step, grid.col_count, cols)
    count = max(1, min(spread[0], limit // cols))
    heights = row_blocks(grid.row_count, spread[0], count)
    if image and windowed(lowering, [links[-1].op.results[0]]):
        spread = taller(arch, targets, spread, grid.row_count)
    if grid.outer and _read_in_batches(lowering, links[-1].op):
        planes = planes_together(arch, targets, grid)
        spread = max(spread[0], planes * grid.row_count), spread[1]
        lowering.planes.update((target.region, planes) for target in targets)
    blocks = _row_chain(lowering, links, grid, heights, cols, spread, targets)
    branches = [Branch(tuple(links), tuple(targets))]
    stream = find_stream(lowering, op, branches) if image else None
    if stream is not None:
        run_stream(lowering, Source(blocks), op, branches, stream)
        return
    reader = _first_product(lowering, links)
    if reader is None:
        for _ in blocks:
            pass
    else:
        lowering.defer(Source(blocks), targets, reader)


def _row_chain(
    lowering: Lowering,
    links: Sequence[Link],
    grid: Grid,
    heights: Sequence[tuple[int, int]],
    cols: int,
    spread: tuple[int, int],
    targets: Sequence[Tensor],
) -> Generator[int]:
    """Emit the blocks of a chain without a product one by one; gives the rows complete."""
    builder = lowering.builder
    name = lowering.origin_of(links[0].op)
    for number, index in enumerate(grid.indices()):
        for row, rows in heights:
            outer, builder.origin = builder.origin, name
            for col in range(0, grid.col_count, cols):
                builder.next_turn()
                size = (rows, min(cols, grid.col_count - col))
                place = Place(grid, index, (row, col), size, spread)
                require_links(lowering, links, place)
                run_links(lowering, links, None, place, targets)
            builder.origin = outer
            yield number * grid.row_count + row + rows


def _read_in_batches(lowering: Lowering, op: Operation) -> bool:
    """Whether who reads a result takes matrices of several heads at once."""
    readers = lowering.users.get(op.results[0], [])
    return any(isinstance(reader, ops.LinearAttnOp) for reader in readers)


def _first_product(lowering: Lowering, links: Sequence[Link]) -> Operation | None:
    """The product that reads the rows of a LayerNorm first: it may drive them, so that its weights
    need not queue behind all of the rows."""
    norms = any(isinstance(link.op, ops.LayerNormOp) for link in links)
    if not norms or not lowering.pipelines.inter:
        return None
    users = lowering.users.get(links[-1].op.results[0], [])
    first = min(users, key=lambda user: lowering.position[user], default=None)
    return first if isinstance(first, ops.LinearOp | ops.Conv2dOp) else None
