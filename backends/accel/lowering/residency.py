"""What stays on chip, and for how long: blocks, when they are read next, and what makes room.

The memories of the chip are managed as one software cache over the tensors in DRAM:

* A **copy** is a block that was loaded (weights, parameters, rows) or derived from loaded ones.
* A **piece** is a rectangle of a result that its producer left on chip. It is written to DRAM only
  if its space is needed before its last reader has come; a result whose readers all come in time
  never reaches DRAM.

What is still to be read leaves in the order of its next use, the farthest first (L. A. Belady, "A
study of replacement algorithms for a virtual-storage computer", 1966), which is known, because the
lowering is rehearsed once: a `Trace` records every read in order, and the second time it answers.
Space that was given back, and should rest so that engines overlap, is used up to half of that time
earlier if something would have to leave otherwise (`Cost.rank`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.lowering.arena import Region

CacheKey = tuple[object, ...]
"""Names a copy: the DRAM region that it comes from, then what part of it."""

Ints = NDArray[np.int64]

NEVER = 1 << 60
"""A time later than any."""


class Rect(NamedTuple):
    """Bytes of a DRAM region: `rows` runs of `width` bytes, `pitch` apart, from `start` on."""

    start: int
    rows: int
    pitch: int
    width: int

    @property
    def end(self) -> int:
        """First byte behind the last row."""
        return self.start + (self.rows - 1) * self.pitch + self.width


def touching(a: Rect, b: Rect) -> bool:
    """Whether two rectangles share a byte; of different pitches, whether their spans do."""
    if a.start >= b.end or b.start >= a.end:
        return False
    pitch = a.pitch if b.rows == 1 else b.pitch
    same = a.rows == 1 or b.rows == 1 or a.pitch == b.pitch
    if a.rows == b.rows == 1 or not same or max(a.width, b.width) > pitch:
        return True
    # Seen from b: where a's first column falls, and whether the columns meet in a common row.
    row, col = divmod(a.start - b.start, pitch)
    left = col < b.width and -a.rows < row < b.rows
    right = col + a.width > pitch and -a.rows < row + 1 < b.rows
    return left or right


@dataclass
class Trace:
    """Every read of a lowering, in order: of copies by their key, of DRAM regions by rectangle."""

    keys: dict[CacheKey, list[int]] = field(default_factory=dict[CacheKey, list[int]])
    rects: dict[int, list[tuple[int, Rect]]] = field(
        default_factory=dict[int, list[tuple[int, Rect]]]
    )

    _spans: dict[int, tuple[Ints, Ints]] = field(default_factory=dict[int, tuple[Ints, Ints]])
    """First bytes and ends of the rectangles of a region."""

    def read_copy(self, key: CacheKey, now: int) -> None:
        """Note that the copy `key` is read."""
        self.keys.setdefault(_plain(key), []).append(now)

    def read_rect(self, region: Region, rect: Rect, now: int) -> None:
        """Note that bytes of a DRAM region are read."""
        self.rects.setdefault(region.number, []).append((now, rect))

    def uses_of_copy(self, key: CacheKey) -> list[int]:
        """When the copy `key` is read."""
        return self.keys.get(_plain(key), [])

    def uses_of_rect(self, region: Region, rect: Rect) -> list[int]:
        """When bytes of a rectangle are read."""
        reads = self.rects.get(region.number)
        if reads is None:
            return []
        spans = self._spans.get(region.number)
        if spans is None or len(spans[0]) < len(reads):
            spans = np.array([(rect.start, rect.end) for _, rect in reads]).T
            self._spans[region.number] = spans[0], spans[1]
        near = np.flatnonzero((spans[0] < rect.end) & (spans[1] > rect.start))
        return [reads[i][0] for i in near.tolist() if touching(reads[i][1], rect)]


def _plain(key: CacheKey) -> CacheKey:
    """A key with its region's number, which is the same in every lowering of a module."""
    source = key[0]
    assert isinstance(source, Region), "the key of a copy begins with its region"
    return (source.number, *key[1:])


class Cost(NamedTuple):
    """What it costs if the space of some blocks is taken."""

    wait: int
    """Cycles for which the last of them should still rest."""
    use: int
    """When the first of them is read next."""
    moved: int
    """Bytes to store and load again."""

    def along(self, other: Cost) -> Cost:
        """The cost of both."""
        return Cost(max(self.wait, other.wait), min(self.use, other.use), self.moved + other.moved)

    def rank(self, rest: int) -> tuple[int, int, int, int]:
        """In the order in which blocks go: what nobody reads again, if it has rested for half of
        `rest` cycles; what is read last; what should rest longer."""
        if not self.moved and 2 * self.wait <= rest:
            return 0, self.wait, 0, 0
        if self.moved and not self.wait:
            return 1, -self.use, self.moved, 0
        return 2 + bool(self.moved), self.wait, -self.use, self.moved


@dataclass(eq=False)
class Held:
    """A block on chip that may be dropped: when it is read, and when it was touched last."""

    region: Region
    uses: list[int]
    touched: int = 0
    """The cycle of work at which it was touched last."""
    pins: int = 0

    def next_use(self, now: int) -> int:
        """When it is read next, from `now` on; NEVER if not at all."""
        index = bisect_left(self.uses, now)
        return self.uses[index] if index < len(self.uses) else NEVER


@dataclass(eq=False)
class Copy(Held):
    """A block that can be loaded or made again."""

    key: CacheKey = ()


@dataclass(eq=False)
class Piece(Held):
    """A rectangle of a tensor on chip.

    There is room for `rows` rows of `width` bytes from `start` on; `valid` are those written.
    """

    tensor: Region = field(kw_only=True)
    """The DRAM region that it is a part of."""
    room: Rect = field(kw_only=True)
    valid: Rect = field(kw_only=True)
    near: int = field(kw_only=True)
    """Bytes between rows on chip."""
    dirty: bool = True
    """Whether DRAM does not hold it."""

    def find(self, rect: Rect) -> tuple[int, int] | None:
        """Where a rectangle lies in the piece's buffer, and bytes between its rows there; None
        unless all of it is valid."""
        return self._inside(rect, self.valid)

    def space_for(self, rect: Rect) -> tuple[int, int] | None:
        """Where a rectangle to be written next goes, and bytes between its rows there; None unless
        it continues what is valid."""
        valid = self.valid
        if self._inside(rect, self.room) is None:
            return None
        if self._inside(rect, valid) is None:
            if rect.rows > 1 and rect.pitch != valid.pitch:
                return None
            below = rect.width == valid.width and rect.start == valid.start + (
                valid.rows * valid.pitch
            )
            beside = rect.rows == valid.rows and rect.start == valid.start + valid.width
            right = beside and valid.width + rect.width <= self.room.width
            if below:
                self.valid = valid._replace(rows=valid.rows + rect.rows)
            elif right:
                self.valid = valid._replace(width=valid.width + rect.width)
            else:
                return None
        return self._inside(rect, self.room)

    def _inside(self, rect: Rect, box: Rect) -> tuple[int, int] | None:
        pitch = box.pitch
        if rect.start < box.start or rect.end > box.end:
            return None
        if box.width == pitch and self.near == pitch and (rect.rows == 1 or rect.pitch != pitch):
            return rect.start - self.room.start, rect.pitch
        if rect.rows > 1 and rect.pitch != pitch:
            return None
        row, col = divmod(rect.start - box.start, pitch)
        if row + rect.rows > box.rows or col + rect.width > box.width:
            return None
        first = rect.start - self.room.start
        return first // pitch * self.near + first % pitch, self.near


def first_covering(pieces: Iterable[Piece], rect: Rect) -> tuple[Piece, int, int] | None:
    """The piece that holds all of a rectangle: it, the offset there, and bytes between rows."""
    for piece in pieces:
        found = piece.find(rect)
        if found is not None:
            return piece, *found
    return None
