"""Places: where the blocks of results are written on chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from vit_opt.backends.accel.lowering.context import Lowering
from vit_opt.backends.accel.lowering.planes import Grid
from vit_opt.backends.accel.lowering.residency import Rect
from vit_opt.backends.accel.lowering.tensors import Block, Tensor
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.rooms import PASSING, room

BLOCKS_TOGETHER = 2
"""Blocks of rows that lie together where windows slide over them."""


@dataclass(frozen=True)
class Place:
    """A block of a result: outer position, first row and column, size, and the blocks' raster."""

    grid: Grid
    index: tuple[int, ...]
    first: tuple[int, int]
    size: tuple[int, int]
    raster: tuple[int, int]
    """Rows and columns that lie together on chip; more rows than a plane has are those of several
    planes, one behind the other."""

    def plane(self, target: Tensor) -> Tensor:
        """The rows x columns of a result at the outer position."""
        shape = (*self.grid.shape[:-1], target.shape[-1])
        plane = Grid(shape, self.grid.outer, self.grid.rows).plane(target, self.index)
        assert plane is not None, "a fresh result is contiguous"
        return plane

    def start_of(self, plane: Tensor) -> int:
        """First byte of the block within a plane."""
        return self.first[0] * plane.strides[0] + self.first[1] * plane.strides[1]

    def part(self, target: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """First row and column and size of the block within a result, which may be a column."""
        if target.shape[-1] != self.grid.col_count:
            return (self.first[0], 0), (self.size[0], 1)
        return self.first, self.size

    def home(self, lowering: Lowering, target: Tensor) -> Block:
        """Where the block of a result is to be written; pinned."""
        plane = self.plane(target)
        (row, col), (rows, cols) = self.part(target)
        item = target.dtype.size
        at, end = row, plane.shape[0]
        if self.raster[0] > end:
            at += (plane.offset - target.offset) // plane.strides[0]
            end = prod(target.shape[:-1])
        below = min(end, (at // self.raster[0] + 1) * self.raster[0]) - at
        right = min(plane.shape[1], (col // self.raster[1] + 1) * self.raster[1])
        start = plane.offset + row * plane.strides[0] + col * item
        pitch = max(plane.strides[0], (right - col) * item)
        rect = Rect(start, rows, pitch, cols * item)
        space = Rect(start, max(rows, below), pitch, max(cols, right - col) * item)
        found = lowering.builder.place_for(target.region, rect, space, Space.OBUF)
        return Block(found[0], target.dtype, found[2], item, found[1])


def raster(
    arch: AccelTarget, targets: Sequence[Tensor], rows: int, cols: int, panel: int
) -> tuple[int, int]:
    """Rows and columns of a result that lie together on chip, as many as there is room for.

    `rows` of a block and `panel` columns are the least unless that is too much.
    """
    limit = _room_together(arch)
    item = max(target.dtype.size for target in targets)
    parts = -(-cols * rows * item // limit)
    wide = -(-cols // parts // panel) * panel if parts * panel <= cols else panel
    return max(1, min(rows, limit // (min(panel, cols) * item))), min(cols, wide)


def taller(
    arch: AccelTarget, targets: Sequence[Tensor], spread: tuple[int, int], rows: int
) -> tuple[int, int]:
    """A raster of several blocks of rows, `rows` in all, as far as there is room: a window whose
    rows lie in one buffer takes one instruction."""
    item = max(target.dtype.size for target in targets)
    most = _room_together(arch) // (spread[0] * spread[1] * item)
    return min(rows, spread[0] * max(1, min(BLOCKS_TOGETHER, most))), spread[1]


def planes_together(arch: AccelTarget, targets: Sequence[Tensor], grid: Grid) -> int:
    """How many planes of a result lie together, as evenly as they go; none unless each target has
    them one behind the other, and one has room."""
    count = prod(grid.shape[i] for i in grid.outer)
    plane = grid.row_count * grid.col_count * max(target.dtype.size for target in targets)
    most = _room_together(arch) // plane
    if not most or not all(target.is_contiguous for target in targets):
        return 0
    return -(-count // -(-count // most))


def _room_together(arch: AccelTarget) -> int:
    """Bytes of a result that may lie together on chip."""
    return room(arch, "abuf", PASSING)
