"""`vit.linear`, by itself or two in a row, the second with its accumulators on chip.

Where the hidden layer H of an MLP does not fit on chip beside the layer's input X, the two products
are interleaved: the first makes H panel by panel (some columns, all rows), and each panel is used up
at once, adding its share to the accumulators of the second product, which stay on chip.

    for columns G of the result:                      (one group if its accumulators fit)
        for panels p of H:
            H[:, p] = f(X W1[p]^T)                    (in the first group)
            acc += H[:, p] W2[G, p]^T
        result[:, G] = g(acc)

Weights are loaded once, as without it. With one group H never leaves the chip; with several it is
stored as it is made and loaded once for each further group, where a product that keeps one panel of
columns at a time would load it for each panel.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.ir import Operation

from vit_opt.backends.accel.lowering.context import Lowering, Plan
from vit_opt.backends.accel.lowering.elementwise import (
    Branch,
    run_branches,
)
from vit_opt.backends.accel.lowering.memory import Source
from vit_opt.backends.accel.lowering.places import Place, raster
from vit_opt.backends.accel.lowering.products import (
    Part,
    Product,
    accumulate_block,
    linear_product,
    lower_product,
    product_blocks,
    product_branches,
    tile,
)
from vit_opt.backends.accel.lowering.steps import WHOLE_ROWS
from vit_opt.backends.accel.lowering.tensors import Block, value_shape
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.mapping import row_blocks, walks_rows
from vit_opt.passes.rooms import LOADED, MADE, PASSING, for_data, on_chip, room


def lower_linear(lowering: Lowering, op: ops.LinearOp | ops.Conv2dOp) -> None:
    """`vit.linear`, or a convolution of single pixels."""
    product = linear_product(lowering, op)
    branches = product_branches(lowering, product)
    plan = lowering.plans.pop(op, None)
    if plan is not None:
        sum_panels(lowering, product, branches, plan)
        return
    pair = find_pair(lowering, product, branches)
    if pair is None:
        lower_product(lowering, product, branches)
        return
    reader, plan = pair
    lowering.plans[reader] = plan
    blocks = product_blocks(lowering, product, branches, by_panels=True)
    members = [op, *(link.op for link in branches[0].links)]
    lowering.stream(Source(blocks, plan.panel), branches[0].targets, members, reader)


def find_pair(
    lowering: Lowering, product: Product, branches: Sequence[Branch]
) -> tuple[Operation, Plan] | None:
    """The linear product that uses up what this one makes, and its plan; None if there is none, or
    if all of it fits on chip anyway."""
    arch = lowering.arch
    links = branches[0].links
    made = (links[-1].op if links else product.op).results[0]
    users = lowering.users.get(made, [])
    if not lowering.pairs or len(users) != 1 or len(branches) != 1:
        return None
    if not lowering.layers.passes(users[0], made, lowering.pipelines):
        return None
    reader = users[0]
    if not isinstance(reader, ops.LinearOp) or lowering.source(reader.x) is not made:
        return None
    if any(isinstance(link.op, WHOLE_ROWS) for link in links):
        return None
    rows, hidden = product.grid.row_count, product.grid.col_count
    items = (product.types[0].size, product.types[1].size)
    if not walks_rows(arch, (rows, hidden, product.k), items):
        return None
    way = tile(arch, product, [links])[0]
    block, panel, depth = way.block
    if depth < product.k or hidden % panel or panel < arch.dram_burst or panel % 2:
        return None
    cols = value_shape(reader.weight)[0]
    heights = row_blocks(rows, way.problem.height, block)
    inputs = rows * product.k * items[0]
    space = for_data(arch)
    # Blocks of the hidden layer: of accumulators one in work and one that is read, and of bytes.
    work = block * panel * (2 * 4 + PASSING)
    first = LOADED * panel * product.k * items[1]
    residual = 2 * rows * cols
    if inputs + rows * hidden + residual + first + work <= space:
        return None
    counts: list[int] = []
    limit = space - inputs - first - work
    while sum(counts) < cols:
        count = _columns(arch, heights, cols - sum(counts), limit, panel)
        if not count:
            return None
        counts.append(count)
        limit = space - work
    # Of the hidden layer, what does not stay would be stored, and loaded for each panel of columns.
    leaves = rows * hidden - max(0, on_chip(arch) - residual)
    if (1 + -(-cols // arch.lanes)) * leaves <= (len(counts) - 1) * rows * hidden:
        return None
    groups = [(sum(counts[:index]), count) for index, count in enumerate(counts)]
    return reader, Plan(panel, heights, groups)


def _columns(
    arch: AccelTarget, heights: Sequence[tuple[int, int]], cols: int, limit: int, panel: int
) -> int:
    """Columns whose accumulators fit on chip, with two panels of weights, in `limit` bytes; a block
    of rows lies in one memory, in which there is room besides for a block of what passes by."""
    rows, tallest = sum(height for _, height in heights), max(height for _, height in heights)
    names = [memory.name for memory in arch.memories if memory.name != "pbuf"]
    sizes = [arch.memory_size(name) - room(arch, name, MADE) for name in names]
    for count in (cols, *range(cols // arch.lanes * arch.lanes, 0, -arch.lanes)):
        places = sum(size // (4 * tallest * count) for size in sizes)
        if count * (4 * rows + LOADED * panel) <= limit and places >= len(heights):
            return count
    return 0


def sum_panels(
    lowering: Lowering,
    product: Product,
    branches: Sequence[Branch],
    plan: Plan,
) -> None:
    """Emit a product panel by panel of its left operand."""
    builder = lowering.builder
    rows, cols, depth = product.grid.row_count, product.grid.col_count, product.k
    builder.macs += rows * cols * depth
    (a,), (b,) = product.a, product.b
    targets = [target for branch in branches for target in branch.all_targets]
    for first, count in plan.groups:
        tallest = max(height for _, height in plan.heights)
        spread = raster(lowering.arch, targets, tallest, cols, count)
        sums = {
            row: Block(
                builder.allocate(Space.OBUF, height * count * 4, lasting=True),
                DType.I32,
                count * 4,
                4,
            )
            for row, height in plan.heights
        }
        for start in range(0, depth, plan.panel):
            stop = min(depth, start + plan.panel)
            for row, height in plan.heights:
                builder.next_turn()
                part = Part(start, stop, sums[row])
                size = (height, count)
                accumulate_block(lowering, product, a, b, (row, first), size, plan.panel, part)
                if stop == depth:
                    place = Place(product.grid, (), (row, first), size, spread)
                    run_branches(lowering, branches, sums[row], place)
