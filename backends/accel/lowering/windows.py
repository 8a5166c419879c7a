"""Windows that slide over an image: which pixels a block of results needs, brought on chip.

The unit of work is a block of output pixels (whole rows of the image, or part of one). Its input
block comes with its halo; where the halo lies outside the image, the buffer is filled with the zero
point first, so padding needs no case in the array.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from vit_opt.backends.accel.lowering.arena import Region, Use, whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.residency import Rect
from vit_opt.backends.accel.lowering.tensors import Tensor
from vit_opt.backends.accel.lowering.transfers import Dim, transfer
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.fields import Space

Pair = tuple[int, int]


@dataclass(frozen=True)
class Sliding:
    """Windows sliding over an image x [N, H, W, C]."""

    x: Tensor
    out: Pair
    kernel: Pair
    strides: Pair
    pads: Pair
    """Rows above and columns left of the image."""
    dilations: Pair = (1, 1)
    spread: Pair = (1, 1)
    """Distance of the image's pixels: above 1 for transposed convolutions."""
    fill: int = 0
    """Code outside the image and between spread pixels."""

    def extent(self, count: Pair) -> Pair:
        """Input rows and columns under `count` output rows and columns."""
        height, width = (
            (count[i] - 1) * self.strides[i] + (self.kernel[i] - 1) * self.dilations[i] + 1
            for i in range(2)
        )
        return height, width


@dataclass(frozen=True)
class Patch:
    """An input block on chip: distances in bytes between rows, pixels and channels."""

    region: Region
    row: int
    pix: int
    chan: int
    offset: int = 0

    def use(self, extent: Pair, chans: int, item: int) -> Use:
        """The bytes of some rows and columns of pixels with their channels."""
        span = (extent[0] - 1) * self.row + (extent[1] - 1) * self.pix
        return Use(self.region, self.offset, self.offset + span + (chans - 1) * self.chan + item)


def _inside(first: int, count: int, size: int, spread: int) -> tuple[int, int, int]:
    """Pixels within `count` spread positions from `first`: first pixel, number, first position."""
    low = max(0, -(-first // spread))
    high = min(size - 1, (first + count - 1) // spread)
    return low, max(0, high - low + 1), low * spread - first


def load_patch(
    builder: Builder, s: Sliding, image: int, first: Pair, count: Pair, chans: Pair
) -> Patch:
    """The input under a block of output pixels for channels `chans` (first, count); pinned.

    The block keeps the image's layout: pixels by channels, or planes where columns are
    contiguous in DRAM.
    """
    item = s.x.dtype.size
    height, width = s.extent(count)
    y, rows, row = _inside(first[0] * s.strides[0] - s.pads[0], height, s.x.shape[1], s.spread[0])
    x, cols, col = _inside(first[1] * s.strides[1] - s.pads[1], width, s.x.shape[2], s.spread[1])
    n, sy, sx, sc = s.x.strides
    start = image * n + y * sy + x * sx + chans[0] * sc
    direct = _in_place(builder, s, start, (rows, cols), (height, width), chans[1])
    if direct is not None:
        return direct
    top, left = (first[i] * s.strides[i] - s.pads[i] for i in range(2))
    if s.x.strides[2] == item and s.x.strides[3] != item:
        patch = Patch(cast("Region", None), width * item, item, height * width * item)
    else:
        patch = Patch(cast("Region", None), width * chans[1] * item, chans[1] * item, item)
    key = (
        s.x.region,
        s.x.offset,
        s.x.strides,
        s.spread,
        s.fill,
        image,
        top,
        left,
        height,
        width,
        chans,
    )
    region = builder.cached(key)
    if region is not None:
        return replace(patch, region=region)
    size = height * width * chans[1] * item
    region = builder.keep(key, size, Space.ABUF)
    if rows * cols != height * width:
        inside = (row, rows), (col, cols)
        _fill_around(builder, s, patch, region, (height, width), inside)
    if rows and cols:
        dims: list[Dim] = [
            (rows, sy, patch.row * s.spread[0]),
            (cols, sx, patch.pix * s.spread[1]),
            (chans[1], sc, patch.chan),
        ]
        dims.sort(key=lambda dim: -dim[2])
        offset = row * patch.row + col * patch.pix
        transfer(builder, s.x.region, s.x.offset + start, item, dims, region, offset, store=False)
    return replace(patch, region=region)


def _fill_around(
    builder: Builder,
    s: Sliding,
    patch: Patch,
    region: Region,
    extent: Pair,
    inside: tuple[Pair, Pair],
) -> None:
    """Write the code outside the image where an input block leaves it; `inside` is the first row
    or column of the image and their number.

    That is what lies before the first pixel, between two rows, and behind the last pixel.
    """
    (row, rows), (col, cols) = inside
    item = s.x.dtype.size
    size = region.size if s.spread != (1, 1) or patch.chan != item or not rows * cols else 0
    if size:
        inst = isa.Fill(region.addr(), size // item, s.fill, s.x.dtype)
        builder.emit(inst, [], [whole(region)])
        return
    width = patch.pix // item
    first = row * patch.row + col * patch.pix
    last = (row + rows - 1) * patch.row + (col + cols) * patch.pix
    gap = (extent[1] - cols) * width
    runs = ((0, first // item, 1), (first + cols * patch.pix, gap, rows - 1))
    for start, count, times in (*runs, (last, (extent[0] * patch.row - last) // item, 1)):
        if count * times:
            inst = isa.Fill(region.addr(start), count, s.fill, s.x.dtype, n0=times, d0=patch.row)
            end = start + (times - 1) * patch.row + count * item
            builder.emit(inst, [], [Use(region, start, end)])


def require_patch(
    builder: Builder, s: Sliding, image: int, first: Pair, count: Pair, chans: Pair
) -> None:
    """Have the rows of some channels made that lie under a block of output pixels."""
    if s.x.region in builder.sources:
        height = s.extent(count)[0]
        top = first[0] * s.strides[0] - s.pads[0]
        y, rows, _ = _inside(top, height, s.x.shape[1], s.spread[0])
        n, sy, sx, sc = s.x.strides
        start = s.x.offset + image * n + chans[0] * sc
        rect = Rect(start + (y + rows) * sy - sx, 1, sx, chans[1] * sc)
        builder.require(s.x.region, s.x.offset + image * n + (y + rows) * sy, rect)


def _in_place(
    builder: Builder, s: Sliding, start: int, inside: Pair, extent: Pair, chans: int
) -> Patch | None:
    """Note the read of an input block; the block where its producer left it, if it is all there."""
    rows, cols = inside
    if builder.is_constant(s.x.region) or not rows * cols:
        return None
    item = s.x.dtype.size
    _, sy, sx, sc = s.x.strides
    if sc != item or s.spread != (1, 1):
        reach = ((rows, sy), (cols, sx), (chans, sc))
        span = sum((count - 1) * stride for count, stride in reach) + item
        builder.note_read(s.x.region, s.x.offset + start, span)
        return None
    whole_rows = rows == 1 or sy == cols * sx
    if whole_rows:
        rect = Rect(s.x.offset + start, rows * cols, max(sx, chans * item), chans * item)
    else:
        rect = Rect(s.x.offset + start, rows, sy, (cols - 1) * sx + chans * item)
    found = builder.read(s.x.region, rect)
    if found is None:
        return None
    piece, offset, step = found
    if inside != extent:
        return None
    if whole_rows:
        return Patch(piece.region, step * cols, step, item, offset)
    return Patch(piece.region, step, sx, item, offset)


def pixel_blocks(out: Pair, count: Pair) -> Iterator[tuple[Pair, Pair]]:
    """Blocks (first, count) of output rows and columns, in row-major order of their pixels."""
    for y in range(0, out[0], count[0]):
        for x in range(0, out[1], count[1]):
            yield (y, x), (min(count[0], out[0] - y), min(count[1], out[1] - x))


def choose_pixels(s: Sliding, room_out: int, room_in: int, width: int, chans: int) -> Pair | None:
    """Largest block of output pixels: whole rows if one fits, else part of a row; None if none.

    `width` is bytes of output a pixel, `chans` the channels of input that must fit.
    """
    item = s.x.dtype.size

    def fits(count: Pair) -> bool:
        height, wide = s.extent(count)
        return count[0] * count[1] * width <= room_out and height * wide * chans * item <= room_in

    cols = s.out[1]
    while cols > 1 and not fits((1, cols)):
        cols = (cols + 1) // 2
    if not fits((1, cols)):
        return None
    rows = 1
    while cols == s.out[1] and rows < s.out[0] and fits((rows + 1, cols)):
        rows += 1
    if rows < s.out[0]:
        rows = -(-s.out[0] // -(-s.out[0] // rows))
    return rows, cols
