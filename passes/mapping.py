"""How a matrix product lies on an accelerator: the candidates, what each costs, and the choice.

A product acc[M, N] = a[M, K] b[N, K]^T is cut into blocks: rows m, columns n, parts k of the
reduction. Each block is one instruction, so what it costs is known from the machine's record:

    array   sum over all blocks of `array_cycles` of the ISA, the best axes for each
    loads   bytes of both operands / DRAM bytes a cycle, each as often as the order of the blocks
            needs it: walking down the rows loads a again for every panel of columns unless it stays
            on chip, walking along the columns loads b again for every block of rows

    room    bytes on chip that the blocks in work take, so that something else cannot stay: it is
            stored and loaded again, 2 * room / DRAM bytes a cycle

    cycles  max(array, loads) + room, as transfers overlap with products; where two engines share
            products, half of what they take. The last block is cut into parts of its rows, so that
            both are at work until the end; of the last part, one has nothing to do.

The candidate with the fewest cycles is taken. Double buffering is in what fits: of every block as
many have room as are there at a time (`rooms`).

Both `tile`, which writes the choice into the graph, and the lowering ask here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from math import prod

from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import DType, MacMap
from vit_opt.dialects.vit_accel.isa_base import ceil_div
from vit_opt.dialects.vit_accel.isa_products import array_cycles
from vit_opt.dialects.vit_accel.isa_transfer import GROUP
from vit_opt.passes.rooms import ELEMENT, LOADED, MADE, elements, on_chip, on_chip_beside, room

LEAST_HEIGHT = 16
"""Rows that an image must have to be worth cutting."""

LEAST_BLOCKS = 14
"""Blocks that such an image is cut into at least: what flows is a small part of it."""

STAGES = 3
"""Blocks of rows that are in work at a time: one in the array, one in the units behind it, and one
that the next product reads."""

LEAST_COLS = 16
"""Columns of a block at least: the units behind the array pay their latency for every block."""

DISPLACED = 2
"""Transfers of a byte that finds no room: it is stored and loaded again."""

RESULT = 2
"""Bytes of a result as it stays, at most: residuals have 16 bits."""

AXES = {"M": "rows", "N": "columns", "K": "reduction"}
"""What the letters of a `MacMap` stand for."""

Size = tuple[int, int, int]
Types = tuple[DType, DType]


@dataclass(frozen=True)
class Kind:
    """What the array multiplies: types of the operands, and whether the right one is in groups."""

    types: Types
    wide: int | None = None
    """Groups of a row of the right operand that are bytes, as in the ISA; None: it has no groups."""

    def cycles(self, arch: AccelTarget, size: Size, axes: MacMap, count: int = 1) -> int:
        """Of so many products."""
        return array_cycles(arch, size, axes, self.types, count=count, wide=self.wide)

    def least_cycles(self, arch: AccelTarget, size: Size, count: int = 1) -> int:
        """Of so many products with the best axes."""
        return self.cycles(arch, size, best_map(arch, size, self.types, self.wide), count)


@cache
def best_map(arch: AccelTarget, size: Size, types: Types, wide: int | None = None) -> MacMap:
    """The axes on the array that take the fewest cycles."""
    kind = Kind(types, wide)
    return min(MacMap, key=lambda axes: kind.cycles(arch, size, axes))


@cache
def faster_kind(arch: AccelTarget, size: Size, kind: Kind) -> Kind:
    """How the array takes weights of bytes that may lie in groups: as groups where that is faster
    than as the bytes that they stand for, which needs whole groups."""
    if kind.wide is None or size[2] % GROUP:
        return Kind(kind.types)
    groups = Kind((kind.types[0], DType.I4X2), kind.wide)
    as_bytes = Kind(kind.types)
    faster = groups.least_cycles(arch, size) < as_bytes.least_cycles(arch, size)
    return groups if faster else as_bytes


def kind_of_part(arch: AccelTarget, size: Size, whole: int, kind: Kind) -> Kind:
    """The kind of a part of a reduction that is `whole` long; bytes are spread evenly over it."""
    if kind.wide is not None:
        kind = Kind(kind.types, min(ceil_div(kind.wide * size[2], whole), size[2] // GROUP))
    return faster_kind(arch, size, kind)


def waits_for_rows(arch: AccelTarget, cols: int, operand: int, batched: bool) -> bool:
    """Whether a product whose right operand has so many bytes makes whole rows where a function
    needs them. Such blocks are low, so that the operand is read again and again: it must stay, or be
    one of a batch."""
    return cols <= elements(arch) and (batched or operand <= on_chip_beside(arch))


def block_rows(arch: AccelTarget, rows: int, stages: int = STAGES) -> int:
    """Rows of a block: in whole steps of the array, as evenly as they go, at most as many as there is
    room for over all lanes.

    One height for all products of so many rows: what one leaves on chip, the next takes as it lies.
    Fewer, higher blocks fill and drain the array less often, but `stages` of them must work at a
    time, as long as each has rows for all lanes.
    """
    most = max(arch.columns, elements(arch) // arch.lanes)
    most = max(arch.columns, most - most % arch.columns) if rows > most else most
    blocks = max(ceil_div(rows, most), min(stages, rows // arch.lanes))
    if blocks == 1:
        return rows
    return min(rows, ceil_div(ceil_div(rows, blocks), arch.columns) * arch.columns)


def is_image(shape: Sequence[int]) -> bool:
    """Whether a value is one image [1, H, W, C] that is worth cutting into rows."""
    return len(shape) == 4 and shape[0] == 1 and shape[1] >= LEAST_HEIGHT


def is_small_image(shape: Sequence[int]) -> bool:
    """Whether a value is one image [1, H, W, C] of a few rows, which is not cut into rows."""
    return len(shape) == 4 and shape[0] == 1 and 1 < shape[1] < LEAST_HEIGHT


def rows_together(arch: AccelTarget, shape: Sequence[int], rows: int) -> int:
    """Rows of a block of a value of this shape, which is `rows` rows or a batch of so many each.

    A small image flows in panels of channels, which are what its stages have in work.
    """
    if prod(shape[:-1]) != rows:
        return block_rows(arch, rows)
    if is_image(shape):
        return image_rows(arch, shape)
    return block_rows(arch, rows, 1 if is_small_image(shape) else STAGES)


def image_rows(arch: AccelTarget, shape: Sequence[int]) -> int:
    """Pixels of a block of an image: whole rows, so many that the array is busy for a while."""
    height, width, channels = shape[1:4]
    most = max(2 * arch.columns, elements(arch) // min(arch.lanes, channels))
    rows = max(1, min(most // width, height // LEAST_BLOCKS))
    return rows * width


def row_blocks(total: int, step: int, most: int) -> list[tuple[int, int]]:
    """Blocks (first, count) of `total` rows: `step` rows each, cut evenly into `most` at most."""
    result: list[tuple[int, int]] = []
    for first in range(0, total, step):
        rows = min(step, total - first)
        even = -(-rows // -(-rows // most))
        result += [(first + at, min(even, rows - at)) for at in range(0, rows, even)]
    return result


def walks_rows(arch: AccelTarget, size: Size, items: tuple[int, int]) -> bool:
    """Whether the blocks of a product go down the rows of a column panel before the next panel,
    because that loads fewer bytes."""
    rows, cols, depth = size
    panels, blocks = ceil_div(cols, arch.lanes), ceil_div(rows, block_rows(arch, rows))
    down, along = walk_bytes(
        arch, (rows * depth * items[0], cols * depth * items[1]), panels, blocks
    )
    return down <= along and panels > 1


def walk_bytes(
    arch: AccelTarget, operands: tuple[int, int], panels: int, blocks: int
) -> tuple[int, int]:
    """Bytes loaded going down the rows, and along the columns.

    The operand of the outer loop is loaded once, the other one in every turn unless it stays; there
    is less room for b, which is walked while rows and results of a go by.
    """
    left, right = operands
    down = right + left * (1 if left <= on_chip(arch) else panels)
    along = left + right * (1 if right <= on_chip_beside(arch) else blocks)
    return down, along


def reduction_part(arch: AccelTarget, depth: int, limit: int) -> int:
    """Length of the parts of a reduction: at most `limit`, about equal, and where possible a
    multiple of the lanes, so that the reduction may lie on them; always even, for int4 pairs."""
    if depth <= limit:
        return depth
    lanes = arch.lanes * (1 + arch.lanes % 2)
    step = next(s for s in (lanes, 2 * arch.columns, 2) if s <= limit)
    even = -(-depth // -(-depth // limit))
    return min(-(-even // step) * step, limit // step * step)


def right_rows(arch: AccelTarget, depth: int, item: int) -> int:
    """Rows of the right operand [N, K] in a block of it, of `depth` entries of `item` bytes each."""
    return max(1, room(arch, "bbuf", LOADED) // (depth * item))


@dataclass(frozen=True)
class Problem:
    """A product, and what its blocks must leave room for."""

    size: Size
    """Rows, columns, reduction."""
    types: Types
    """Of the operands on the array."""
    height: int
    """Rows that lie together, in all of the operation's results."""
    width: int = ELEMENT
    """Bytes of obuf that a result takes, with what follows it on chip."""
    whole_rows: bool = False
    """Whether what follows needs all columns of a row at once."""
    wide: int | None = None
    """Groups of columns of the right operand that are bytes, where it is narrow in groups."""
    flows: bool = False
    """Whether rows of an image flow by."""

    def kind(self, arch: AccelTarget, size: Size) -> Kind:
        """What the array multiplies in a block of this size."""
        return kind_of_part(arch, size, self.size[2], Kind(self.types, self.wide))

    @staticmethod
    def of(
        arch: AccelTarget,
        shape: Sequence[int],
        size: Size,
        types: Types,
        width: int,
        whole_rows: bool,
        wide: int | None = None,
    ) -> Problem:
        """The problem of a product whose result has this shape: blocks of an image are whole rows."""
        height = rows_together(arch, shape, size[0])
        flows = is_image(shape) and prod(shape[:-1]) == size[0]
        return Problem(size, types, height, width, whole_rows, wide, flows)


@dataclass(frozen=True)
class Mapping:
    """One way to cut a product."""

    arch: AccelTarget
    problem: Problem
    block: Size
    """Rows, columns and part of the reduction of a block."""

    @cached_property
    def fits(self) -> bool:
        """Whether a row of a block has room with what follows it."""
        return self.problem.width * self.block[1] <= self.arch.memory_size("obuf")

    @cached_property
    def axes(self) -> MacMap:
        """The axes of a whole block on the array."""
        return best_map(self.arch, self.block, self.kind.types, self.kind.wide)

    @cached_property
    def kind(self) -> Kind:
        """What the array multiplies in a whole block."""
        return self.problem.kind(self.arch, self.block)

    @cached_property
    def array(self) -> int:
        """Cycles of the array."""
        rows, cols, depth = self.problem.size
        m, n, k = self.block
        panel = min(n, right_rows(self.arch, k, self._items[1]))
        panels = Counter[int]()
        for width, count in _parts(cols, n).items():
            for part, times in _parts(width, panel).items():
                panels[part] += count * times
        total = 0
        heights = Counter(count for _, count in row_blocks(rows, self.problem.height, m))
        for each in product(heights.items(), panels.items(), _parts(depth, k).items()):
            size, times = zip(*each, strict=True)
            kind = self.problem.kind(self.arch, size)
            total += prod(times) * kind.least_cycles(self.arch, size)
        return total

    @property
    def _items(self) -> tuple[int, int]:
        return self.problem.types[0].size, self.problem.types[1].size

    @cached_property
    def walks(self) -> tuple[int, int]:
        """Bytes loaded going down the rows, and along the columns."""
        rows, cols, depth = self.problem.size
        left, right = self._items
        panels, blocks = ceil_div(cols, self.block[1]), ceil_div(rows, self.block[0])
        return walk_bytes(self.arch, (rows * depth * left, cols * depth * right), panels, blocks)

    @cached_property
    def held(self) -> int:
        """Bytes on chip of the blocks in work: four of accumulators, two of b, two of a unless all
        of it stays."""
        rows, _, depth = self.problem.size
        m, n, k = self.block
        left, right = self._items
        stays = rows * depth * left <= on_chip(self.arch)
        loaded = n * k * right + (0 if stays else m * k * left)
        return MADE * 4 * m * n + LOADED * loaded

    @property
    def loads(self) -> int:
        """Cycles of the loads."""
        return round(min(self.walks) / self.arch.dram_bytes_per_cycle)

    @property
    def displaced(self) -> int:
        """Cycles to store and load what the blocks in work leave no room for: results; the left
        operand if its rows flow by or another panel reads it again, as wide as the residual that it
        may come from; the right operand if another block of rows reads it again."""
        rows, cols, depth = self.problem.size
        left, right = self._items
        down, along = self.walks
        stays = rows * cols * RESULT
        if self.problem.flows or cols > self.block[1]:
            stays += rows * depth * max(left, RESULT)
        if rows > self.block[0] and along < down:
            stays += cols * depth * right
        excess = min(self.held, stays + self.held - on_chip(self.arch))
        return max(0, round(DISPLACED * excess / self.arch.dram_bytes_per_cycle))

    @property
    def cycles(self) -> int:
        """What the choice is made by."""
        return max(self.work, self.loads) + self.displaced

    @cached_property
    def tail(self) -> int:
        """Rows of an instruction of the last block: where two engines share blocks, it is cut so that
        both are at work until the end."""
        rows = self.block[0]
        if self.arch.peak != "both":
            return rows
        return min((ceil_div(rows, parts) for parts in (1, 2, 4)), key=self._end)

    def _end(self, step: int) -> int:
        """Cycles of both engines for a block that is cut into so many rows, and of one of them while
        the other has nothing to do."""
        rows, cols, depth = self.block
        cycles = {
            count: self.kind.least_cycles(self.arch, (count, cols, depth))
            for count in _parts(rows, step)
        }
        return sum(cycles[count] * times for count, times in _parts(rows, step).items()) + max(
            cycles.values()
        )

    @property
    def work(self) -> int:
        """Cycles of the products: of the array, or of two engines that share them, of which one has
        nothing to do for a part of the last block."""
        if self.arch.peak != "both":
            return self.array
        return (self.array - self._end(self.block[0]) // 2 + self._end(self.tail)) // 2


def _parts(total: int, step: int) -> Counter[int]:
    """Sizes of the parts of an axis that is cut every `step`, and how many there are of each."""
    parts = Counter({step: total // step})
    parts[total % step] += 1
    return Counter({size: count for size, count in parts.items() if size and count})


def candidates(arch: AccelTarget, problem: Problem) -> list[Mapping]:
    """The ways to cut a product, the best first.

    Columns fill the lanes, or half of them and so on in whole steps of the array; what needs whole
    rows gets all columns. For each, as many rows and as much of the reduction as fit.
    """
    cols, depth = problem.size[1:]
    left, right = (dtype.size for dtype in problem.types)
    room_a, room_b = (room(arch, name, LOADED) for name in ("abuf", "bbuf"))
    widths = [cols if problem.whole_rows else min(cols, arch.lanes)]
    while (
        not problem.whole_rows
        and widths[-1] % (2 * arch.columns) == 0
        and widths[-1] >= 2 * LEAST_COLS
    ):
        widths.append(widths[-1] // 2)
    found: list[Mapping] = []
    for n in widths:
        most = max(1, elements(arch) // n)
        if most > arch.columns:
            most -= most % arch.columns
        m = min(problem.height, most)
        limit = max(2, min(room_a // (m * left), room_b // (min(n, arch.lanes) * right)))
        found.append(Mapping(arch, problem, (m, n, reduction_part(arch, depth, limit))))
    return sorted(found, key=lambda each: (not each.fits, each.cycles))


@dataclass(frozen=True)
class ProductChoice:
    """How a product of the model was cut: the first of `ways`."""

    name: str
    """Its node in the imported model."""
    kind: str
    batch: int
    """Equal products, one for each head or image."""
    ways: list[Mapping]
    down: bool
    """Whether its blocks go down the rows of a panel before the next panel."""
