"""Windows that slide over an image: which pixels a block of results needs, brought on chip.

The unit of work is a block of output pixels (whole rows of the image, or part of one). Its input
block comes with its halo; what of the halo lies outside the image is the instruction's borders. A
block that lies on chip is read there, by a depthwise convolution even where its rows lie in several
buffers: it takes the window's rows from one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from vit_opt.backends.accel.lowering.arena import Region, Use, whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.residency import Rect
from vit_opt.backends.accel.lowering.tensors import Tensor
from vit_opt.backends.accel.lowering.transfers import Dim, transfer
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.windows import Geometry, Pair


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

    @property
    def geometry(self) -> Geometry:
        """What blocks depend on."""
        return Geometry(self.out, self.kernel, self.strides, self.dilations)

    def extent(self, count: Pair) -> Pair:
        """Input rows and columns under `count` output rows and columns."""
        return self.geometry.extent(count)


Borders = tuple[int, int, int, int, int]
"""Rows above, columns left, rows below, columns right of the pixels, and the code that is there."""


@dataclass(frozen=True)
class Patch:
    """An input block on chip: distances in bytes between rows, pixels and channels."""

    region: Region
    row: int
    pix: int
    chan: int
    size: Pair
    """Rows and columns that are there."""
    offset: int = 0
    top: int = 0
    """Rows above it that are outside the image."""
    left: int = 0

    def use(self, chans: int, item: int, first: int = 0, rows: int | None = None) -> Use:
        """The bytes of some rows of pixels with their channels; by default of all."""
        rows = self.size[0] if rows is None else rows
        start = self.offset + first * self.row
        span = (rows - 1) * self.row + (self.size[1] - 1) * self.pix
        return Use(self.region, start, start + span + (chans - 1) * self.chan + item)

    def continues(self, region: Region, offset: int, pix: int) -> bool:
        """Whether a row of pixels lies right below it."""
        below = self.offset + self.size[0] * self.row
        return region is self.region and (offset, pix) == (below, self.pix)

    def borders(self, extent: Pair, fill: int) -> Borders:
        """What is missing of so many rows and columns."""
        low, right = (extent[i] - self.size[i] - (self.top, self.left)[i] for i in range(2))
        borders = self.top, self.left, low, right
        return (*borders, fill if any(borders) else 0)


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
    direct = _in_place(builder, s, image, first, count, chans)
    return _copied(builder, s, image, first, count, chans) if direct is None else direct


def _copied(
    builder: Builder, s: Sliding, image: int, first: Pair, count: Pair, chans: Pair
) -> Patch:
    """The input block in a buffer of its own."""
    item = s.x.dtype.size
    (y, rows, row), (x, cols, col) = _pixels(s, first, count)
    full = s.spread != (1, 1) or not rows * cols
    # Between spread pixels, and where no pixel is inside, the block holds what is not there too.
    height, width = size = s.extent(count) if full else (rows, cols)
    top, left = (0, 0) if full else (row, col)
    row, col = (row, col) if full else (0, 0)
    n, sy, sx, sc = s.x.strides
    layout = (width * chans[1] * item, chans[1] * item, item)
    if s.x.strides[2] == item and s.x.strides[3] != item:
        layout = (width * item, item, height * width * item)
    corner = tuple(first[i] * s.strides[i] - s.pads[i] for i in range(2))
    key = (s.x.region, s.x.offset, s.x.strides, s.spread, s.fill, image, corner, size, chans)
    region = builder.cached(key)
    if region is not None:
        return Patch(region, *layout, size, 0, top, left)
    region = builder.keep(key, height * width * chans[1] * item, Space.ABUF)
    patch = Patch(region, *layout, size, 0, top, left)
    if full:
        fill = isa.Fill(region.addr(), region.size // item, s.fill, s.x.dtype)
        builder.emit(fill, [], [whole(region)])
    if rows and cols:
        dims: list[Dim] = [
            (rows, sy, patch.row * s.spread[0]),
            (cols, sx, patch.pix * s.spread[1]),
            (chans[1], sc, patch.chan),
        ]
        dims.sort(key=lambda dim: -dim[2])
        start = s.x.offset + image * n + y * sy + x * sx + chans[0] * sc
        offset = row * patch.row + col * patch.pix
        transfer(builder, s.x.region, start, item, dims, region, offset, store=False)
    return patch


def _pixels(s: Sliding, first: Pair, count: Pair) -> tuple[tuple[int, int, int], ...]:
    """Rows, then columns, of the image under a block: first, number, position in the block."""
    extent = s.extent(count)
    corner = (first[i] * s.strides[i] - s.pads[i] for i in range(2))
    return tuple(
        _inside(start, extent[i], s.x.shape[1 + i], s.spread[i]) for i, start in enumerate(corner)
    )


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
    builder: Builder, s: Sliding, image: int, first: Pair, count: Pair, chans: Pair
) -> Patch | None:
    """Note the read of an input block; the block where its producer left it, if it is all there."""
    (y, rows, top), (x, cols, left) = _pixels(s, first, count)
    if builder.is_constant(s.x.region) or not rows * cols:
        return None
    item = s.x.dtype.size
    n, sy, sx, sc = s.x.strides
    start = s.x.offset + image * n + y * sy + x * sx + chans[0] * sc
    if sc != item or s.spread != (1, 1):
        reach = ((rows, sy), (cols, sx), (chans[1], sc))
        span = sum((count - 1) * stride for count, stride in reach) + item
        builder.note_read(s.x.region, start, span)
        return None
    found = builder.read(s.x.region, _rect(s, start, rows, cols, chans[1]))
    if found is None:
        return None
    piece, offset, step = found
    pitches = (step * cols, step) if rows == 1 or sy == cols * sx else (step, sx)
    return Patch(piece.region, *pitches, item, (rows, cols), offset, top, left)


def _rect(s: Sliding, start: int, rows: int, cols: int, chans: int) -> Rect:
    """Pixels of an image whose channels lie together, from byte `start` on."""
    _, sy, sx, item = s.x.strides
    if rows == 1 or sy == cols * sx:
        return Rect(start, rows * cols, max(sx, chans * item), chans * item)
    return Rect(start, rows, sy, (cols - 1) * sx + chans * item)


@dataclass(frozen=True)
class Band:
    """Rows of an image that lie in one buffer: the first of them, and the block."""

    first: int
    patch: Patch


def load_bands(
    builder: Builder, s: Sliding, image: int, first: Pair, count: Pair, chans: Pair
) -> list[Band]:
    """As `load_patch`, but the rows may lie in several buffers, where their producer left them; none
    of them as a part of a row, and every window with a row inside."""
    (y, rows, _), (_, cols, left) = _pixels(s, first, count)
    direct = _in_place(builder, s, image, first, count, chans)
    if direct is not None:
        return [Band(y, direct)]
    item = s.x.dtype.size
    n, sy, sx, sc = s.x.strides
    flat = sc == item and s.spread == (1, 1) and sy == cols * sx and rows > 1
    if flat and not builder.rehearsing and _all_inside(s, first[0], count[0]):
        bands: list[Band] = []
        for row in range(y, y + rows):
            start = s.x.offset + image * n + row * sy + chans[0] * sc
            found = builder.find(s.x.region, _rect(s, start, 1, cols, chans[1]))
            if found is None:
                break
            piece, offset, step = found
            last = bands[-1].patch if bands else None
            if last is not None and last.continues(piece.region, offset, step):
                longer = replace(last, size=(last.size[0] + 1, cols))
                bands[-1] = Band(bands[-1].first, longer)
                continue
            patch = Patch(piece.region, step * cols, step, item, (1, cols), offset, 0, left)
            bands.append(Band(row, patch))
        else:
            return bands
    copied = _copied(builder, s, image, first, count, chans)
    return [Band(first[0] * s.strides[0] - s.pads[0] + copied.top, copied)]


def _all_inside(s: Sliding, first: int, count: int) -> bool:
    """Whether the window of each of some output rows has a row of the image in it."""
    height, step = s.x.shape[1], s.dilations[0]
    for row in range(first, first + count):
        start = row * s.strides[0] - s.pads[0]
        if not any(0 <= start + r * step < height for r in range(s.kernel[0])):
            return False
    return True


@dataclass(frozen=True)
class Slice:
    """Part of a depthwise convolution: output rows, rows of the kernel, and the rows of a band."""

    rows: Pair
    """First and number, from the block's first row on."""
    taps: Pair
    band: Band
    more: bool
    """Whether other rows of the kernel have been summed before."""


def slices(s: Sliding, first: int, count: int, bands: list[Band]) -> list[Slice]:
    """Cut a block of output rows so that each part's windows lie in one band.

    Rows outside the image go with the nearest row of their window that is inside.
    """
    if len(bands) == 1:
        return [Slice((0, count), (0, s.kernel[0]), bands[0], False)]
    found: list[Slice] = []
    for row in range(count):
        start = (first + row) * s.strides[0] - s.pads[0]
        taps = range(start, start + s.kernel[0] * s.dilations[0], s.dilations[0])
        inside = [tap for tap in taps if 0 <= tap < s.x.shape[1]]
        owners = [_owner(bands, min(max(tap, inside[0]), inside[-1])) for tap in taps]
        begin = 0
        for owner, group in groupby(owners):
            size = len(list(group))
            here = Slice((row, 1), (begin, size), bands[owner], begin > 0)
            last = found[-1] if found and size == len(owners) else None
            if last is not None and (last.band, last.taps) == (here.band, here.taps):
                here = replace(last, rows=(last.rows[0], last.rows[1] + 1))
                found.pop()
            found.append(here)
            begin += size
    return found


def _owner(bands: list[Band], row: int) -> int:
    """The band that holds a row of the image."""
    index = 0
    while index + 1 < len(bands) and bands[index + 1].first <= row:
        index += 1
    return index


def slice_patch(s: Sliding, first: int, part: Slice, full: Pair) -> tuple[Patch, Pair]:
    """The rows that a part reads, and the rows and columns that its windows reach over; `full` is
    the size of the whole block."""
    patch, (begin, rows) = part.band.patch, part.rows
    height, width = s.extent((rows, full[1]))
    height -= (s.kernel[0] - part.taps[1]) * s.dilations[0]
    start = (first + begin) * s.strides[0] - s.pads[0] + part.taps[0] * s.dilations[0]
    low = max(start, part.band.first)
    high = min(start + height, part.band.first + patch.size[0])
    moved = patch.offset + (low - part.band.first) * patch.row
    size = (high - low, patch.size[1])
    return replace(patch, size=size, offset=moved, top=low - start), (height, width)


def pixel_blocks(out: Pair, count: Pair) -> Iterator[tuple[Pair, Pair]]:
    """Blocks (first, count) of output rows and columns, in row-major order of their pixels."""
    for y in range(0, out[0], count[0]):
        for x in range(0, out[1], count[1]):
            yield (y, x), (min(count[0], out[0] - y), min(count[1], out[1] - x))
