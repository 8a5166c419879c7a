"""The memories while a program is built: who lies where, and who leaves to make room."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from vit_opt.backends.accel.image import MAX_DRAM
from vit_opt.backends.accel.lowering.arena import ENGINES, Arena, Region
from vit_opt.backends.accel.lowering.residency import (
    NEVER,
    CacheKey,
    Copy,
    Cost,
    Held,
    Piece,
    Rect,
    Trace,
    first_covering,
    touching,
)
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.fields import Space
from vit_opt.passes.rooms import PASSING, elements

CHIP_ALIGN = 16
DRAM_ALIGN = 64
REST_DEPTH = 160
"""Reduction of the products whose blocks measure for how long addresses rest."""

DATA = (Space.ABUF, Space.BBUF, Space.CBUF, Space.OBUF, Space.PBUF)
"""Memories of the chip in the order in which room is looked for."""


class CapacityError(VitError):
    """Something does not fit into a memory of the architecture."""


def rest_cycles(arch: AccelTarget) -> int:
    """Cycles of work for which an address rests before it is used again, so that engines overlap:
    while one block is worked on, those before are still being read.

    The array's cycles for a block of a matrix product.
    """
    return elements(arch) * REST_DEPTH // arch.macs_per_cycle


class Memory:
    """Places buffers; keeps copies and pieces on chip as long as there is room."""

    def __init__(self, arch: AccelTarget, trace: Trace | None):
        self.arch = arch
        self.rehearsing = trace is None
        self.trace = Trace() if trace is None else trace
        self.arenas = {
            Space[memory.name.upper()]: Arena(Space[memory.name.upper()], memory.size, CHIP_ALIGN)
            for memory in arch.memories
        }
        self.arenas[Space.DRAM] = Arena(Space.DRAM, MAX_DRAM, DRAM_ALIGN)
        self.now = 0
        """Reads so far: the time by which `Trace` tells."""
        self.clock = 0
        """Cycles of work so far: of each block, those of the engine that takes longest, up to the
        PASSING-th part of what an address rests."""
        self.rest = rest_cycles(arch)
        """Cycles of work for which an address rests before it is used again."""
        self._work = [0] * ENGINES
        """Cycles of this block by engine."""
        self.pieces: dict[Region, list[Piece]] = {}
        """By the DRAM region that they are parts of."""
        self.sources: dict[Region, Demand] = {}
        """Results that are made when they are read."""
        self.constants: set[Region] = set()
        """Regions that hold data of the image, which are never given back."""
        self.rewritten: set[Region] = set()
        """Tensors that are written in place, over what they held before."""
        self._numbers = 0
        self._held: dict[Region, Held] = {}
        self._copies: dict[CacheKey, Copy] = {}
        self._pinned: list[Held] = []
        self._resting: dict[Region, int] = {}
        """Buffers that were given back, and the cycle of work from which on they may be used."""
        self._lost: dict[Region, list[Rect]] = {}

    @abstractmethod
    def write_back(self, piece: Piece) -> None:
        """Store what is valid of a piece to DRAM."""

    @abstractmethod
    def working_on(self) -> str:
        """The operation that is being lowered."""

    def next_number(self) -> int:
        """The number of the next region of DRAM."""
        self._numbers += 1
        return self._numbers

    # -- buffers ----------------------------------------------------------------------------

    def allocate(self, space: Space, size: int, lasting: bool = False) -> Region:
        """A buffer, in `space` if there is room, else in another memory of the chip.

        What is held there makes room, the farthest next use first. CapacityError if nothing can.
        """
        size = max(size, 1)
        if space is Space.DRAM:
            arena = self.arenas[space]
            arena.cursor = 0
            found = arena.find(size)
            if found is None:
                raise CapacityError(f"{size} bytes do not fit into DRAM")
            return arena.place(found[0], size, self.next_number())
        if self.rehearsing:
            return Region(space, 0, size)
        order = [space, *(other for other in DATA if other in self.arenas and other is not space)]
        found = self._place(size, order, lasting)
        return self._make_room(size, order) if found is None else found

    def _place(self, size: int, order: Sequence[Space], lasting: bool = False) -> Region | None:
        """A buffer in the memory whose place has rested longest, or in the first with room for what
        stays long; None if there is no room."""
        best: tuple[int, Arena, int] | None = None
        for space in order:
            found = self.arenas[space].find(size, lasting)
            if found is not None and (best is None or found[1] < best[0]):
                best = found[1], self.arenas[space], found[0]
                if lasting:
                    break
        return None if best is None else best[1].place(best[2], size, lasting=lasting)

    def release(self, region: Region, rest: int | None = None) -> None:
        """Give a buffer back; what is still to read from it has been emitted already."""
        if region.space is Space.DRAM:
            self.arenas[region.space].release(region, self.clock)
        elif not self.rehearsing:
            self._resting[region] = self.clock + (self.rest if rest is None else rest)

    def worked(self, inst: isa.UnitInst, instead: isa.UnitInst | None) -> None:
        """Count the cycles of an instruction; either engine takes half of what both can do."""
        cycles = inst.cycles(self.arch)
        if instead is None:
            self._work[inst.engine] += cycles
        else:
            self._work[inst.engine] += cycles // 2
            self._work[instead.engine] += cycles // 2

    def next_turn(self) -> None:
        """Begin another block of work: what has rested for long enough may be used again."""
        self.clock += min(max(self._work), max(1, self.rest // PASSING))
        self._work = [0] * ENGINES
        over = [region for region, due in self._resting.items() if due <= self.clock]
        for region in over:
            del self._resting[region]
            self.arenas[region.space].release(region, self.clock)

    def _make_room(self, size: int, order: Sequence[Space]) -> Region:
        """A buffer where others lie that can go, those that cost least."""
        best: tuple[Cost, list[Region], int, Arena] | None = None
        for space in order:
            arena = self.arenas[space]
            found = self._window(arena, size, None if best is None else best[0])
            if found is not None:
                best = *found, arena
        if best is None:
            space = order[0]
            raise CapacityError(
                f"{size} bytes do not fit into {space.name.lower()} "
                f"({self.arenas[space].size} bytes) of architecture '{self.arch.name}'"
            )
        _, victims, start, arena = best
        for region in victims:
            if self._resting.pop(region, None) is None:
                self._evict(self._held[region])
            else:
                arena.release(region, self.clock)
        return arena.place(start, size)

    def _window(
        self, arena: Arena, size: int, best: Cost | None
    ) -> tuple[Cost, list[Region], int] | None:
        """Neighbours whose space together is enough and that cost least, and less than `best`: the
        cost, the neighbours, the first byte of the space."""
        found: tuple[Cost, list[Region], int] | None = None
        live, align = arena.live, arena.align
        for first in range(len(live)):
            low = -(-live[first - 1].end // align) * align if first else 0
            total = Cost(0, NEVER, 0)
            for index in range(first, len(live)):
                cost = self._cost(live[index])
                if cost is None:
                    break
                total = total.along(cost)
                if best is not None and total.rank(self.rest) >= best.rank(self.rest):
                    break
                high = live[index + 1].start if index + 1 < len(live) else arena.size
                if low + size <= high:
                    best = total
                    found = total, live[first : index + 1], low
                    break
        return found

    def _cost(self, region: Region) -> Cost | None:
        """What it costs if the space of a buffer is taken; None if it cannot be."""
        due = self._resting.get(region)
        if due is not None:
            return Cost(max(0, due - self.clock), NEVER, 0)
        held = self._held.get(region)
        if held is None or held.pins:
            return None
        use = held.next_use(self.now)
        moved = 0
        if use < NEVER:
            moved = region.size * (2 if isinstance(held, Piece) and held.dirty else 1)
        return Cost(max(0, held.touched + self.rest - self.clock), use, moved)

    def _evict(self, held: Held, rest: bool = False) -> None:
        """Drop a block; a piece that is read again and not in DRAM yet is stored first."""
        if isinstance(held, Piece):
            if held.dirty:
                if held.next_use(self.now + rest) < NEVER:
                    self.write_back(held)
                else:
                    self._lost.setdefault(held.tensor, []).append(held.valid)
            self.pieces[held.tensor].remove(held)
        elif isinstance(held, Copy) and self._copies.get(held.key) is held:
            del self._copies[held.key]
        del self._held[held.region]
        if rest:
            self.release(held.region, self.rest // 2 if isinstance(held, Piece) else None)
        else:
            self.arenas[held.region.space].release(held.region, self.clock)

    # -- copies -----------------------------------------------------------------------------

    def cached(self, key: CacheKey) -> Region | None:
        """The copy with this key if it is on chip; it stays there until `unpin`.

        A copy of a tensor that is not constant belongs to the `read` noted before.
        """
        if key[0] in self.constants:
            self.now += 1
        if self.rehearsing:
            self.trace.read_copy(key, self.now)
        copy = self._copies.get(key)
        if copy is None:
            return None
        self.pin(copy)
        return copy.region

    def keep(self, key: CacheKey, size: int, space: Space) -> Region:
        """A buffer that stays on chip under `key` while there is room; pinned until `unpin`."""
        region = self.allocate(space, size)
        if not self.rehearsing:
            copy = Copy(region, self.trace.uses_of_copy(key), self.clock, key=key)
            self._copies[key] = copy
            self._held[region] = copy
            self.pin(copy)
        return region

    def pin(self, held: Held) -> None:
        """Let a block stay until `unpin`."""
        held.touched = self.clock
        held.pins += 1
        self._pinned.append(held)

    def unpin(self, mark: int = 0) -> None:
        """Let the blocks used since `mark` be replaced."""
        for held in self._pinned[mark:]:
            held.pins -= 1
            held.touched = self.clock
            if not held.pins and held.next_use(self.now + 1) == NEVER and held.region in self._held:
                self._evict(held, rest=True)
        del self._pinned[mark:]

    def mark(self) -> int:
        """The blocks pinned so far."""
        return len(self._pinned)

    def forget(self, region: Region) -> None:
        """Drop all that is held of a DRAM region that is released."""
        self._forget_copies(region)
        for piece in self.pieces.pop(region, []):
            self.release(piece.region)
            del self._held[piece.region]
        self._lost.pop(region, None)

    def _forget_copies(self, region: Region) -> None:
        for key in [key for key in self._copies if key[0] is region]:
            copy = self._copies.pop(key)
            del self._held[copy.region]
            self.release(copy.region)

    # -- pieces -----------------------------------------------------------------------------

    def adopt(self, buffer: Region, tensor: Region, rect: Rect, near: int) -> None:
        """Keep a buffer that holds a rectangle of a tensor; the caller gives it up."""
        self.now += 1
        if self.rehearsing:
            return
        uses = self.trace.uses_of_rect(tensor, rect)
        piece = Piece(buffer, uses, self.clock, tensor=tensor, room=rect, valid=rect, near=near)
        self.pieces.setdefault(tensor, []).append(piece)
        self._held[buffer] = piece

    def place_for(
        self, tensor: Region, rect: Rect, room: Rect, space: Space
    ) -> tuple[Region, int, int]:
        """Where a rectangle of a tensor is to be written: buffer, offset, bytes between rows.

        In a piece that it continues, else in a new one with space for `room`. Pinned.
        """
        self.now += 1
        if self.rehearsing:
            return Region(space, 0, room.rows * room.width), 0, room.width
        if tensor in self.rewritten:
            self._outdate(tensor)
        pieces = self.pieces.get(tensor, ())
        home = next((p for p in pieces if p.space_for(rect) is not None), None)
        # Another piece that holds part of it goes: what it holds is about to be old.
        for piece in [p for p in pieces if p is not home and touching(p.valid, rect)]:
            self.flush(piece)
            self._drop(piece)
        if home is not None:
            place = home.space_for(rect)
            assert place is not None, "what has been granted once is granted again"
            home.dirty = True
            self.pin(home)
            return home.region, *place
        lost = self._lost.get(tensor)
        if lost:
            self._lost[tensor] = [other for other in lost if not touching(other, rect)]
        buffer = self.allocate(space, room.rows * room.width, lasting=True)
        uses = self.trace.uses_of_rect(tensor, room)
        piece = Piece(
            buffer, uses, self.clock, tensor=tensor, room=room, valid=rect, near=room.width
        )
        self.pieces.setdefault(tensor, []).append(piece)
        self._held[buffer] = piece
        self.pin(piece)
        return buffer, 0, room.width

    def _outdate(self, tensor: Region) -> None:
        """What has been loaded of a tensor that is written in place is not what it holds now."""
        for key in [key for key in self._copies if key[0] is tensor]:
            copy = self._copies.pop(key)
            copy.uses = []

    def _drop(self, piece: Piece) -> None:
        self.pieces[piece.tensor].remove(piece)
        del self._held[piece.region]
        self.release(piece.region)

    def flush(self, piece: Piece) -> None:
        """Bring a piece to DRAM if it is not there."""
        if piece.dirty:
            self.write_back(piece)

    def read(self, tensor: Region, rect: Rect) -> tuple[Piece, int, int] | None:
        """Note a read; the piece that holds all of the rectangle, pinned, if there is one, the
        offset in its buffer, and bytes between rows there."""
        self.require(tensor, rect.end, rect)
        self.now += 1
        if self.rehearsing:
            self.trace.read_rect(tensor, rect, self.now)
            return None
        found = self.find(tensor, rect)
        if found is None and any(touching(lost, rect) for lost in self._lost.get(tensor, ())):
            raise AssertionError(
                f"{self.working_on()} reads {rect} of DRAM tensor {tensor.number}, which was dropped: "
                "the rehearsal did not see this read"
            )
        return found

    def find(self, tensor: Region, rect: Rect) -> tuple[Piece, int, int] | None:
        """As `read`, of a part of what has been noted as read."""
        found = first_covering(self.pieces.get(tensor, ()), rect)
        if found is not None:
            self.pin(found[0])
        return found

    def spill(self) -> None:
        """Store to DRAM what is read again, and keep no piece on chip."""
        for piece in [piece for pieces in self.pieces.values() for piece in pieces]:
            self._evict(piece, rest=True)

    def note_read(self, tensor: Region, start: int, size: int) -> None:
        """Note that bytes of a DRAM region are about to be read in some order."""
        rect = Rect(start, 1, size, size)
        self.require(tensor, rect.end, rect)
        self.now += 1
        if self.rehearsing:
            self.trace.read_rect(tensor, rect, self.now)

    def require(self, tensor: Region, end: int, rect: Rect | None = None) -> None:
        """Have the producer of a tensor make its bytes up to `end` (of them those of `rect`), if it
        works on demand; and one block more, so that units behind the array work ahead of it."""
        demand = self.sources.get(tensor)
        if demand is not None:
            source = demand.source
            rows = demand.rows_before(end, rect)
            while source.ready < rows + source.ahead and source.advance():
                pass

    def settle(self, tensor: Region) -> None:
        """Bring all of a tensor to DRAM."""
        self.note_read(tensor, 0, tensor.size)
        for piece in self.pieces.get(tensor, ()):
            self.flush(piece)


class Source:
    """Results that are made block by block when somebody reads them."""

    def __init__(self, blocks: Generator[int], panel: int = 0, ahead: int = 1):
        """`blocks` makes one block each time and gives the rows complete from the first on: of the
        result, or with a `panel` of so many columns, of one panel after the other."""
        self.panel = panel
        self._blocks = blocks
        self.ready = 0
        self.ahead = ahead
        """Rows made ahead of what is read: those of the largest block so far, at least."""
        self._busy = False

    def advance(self) -> bool:
        """Make one block; False if there is none left, or if one is being made: what takes the
        place of an operand reads that operand where it lies."""
        if self._busy:
            return False
        self._busy = True
        try:
            ready = max(self.ready, next(self._blocks))
            self.ahead = max(self.ahead, ready - self.ready)
            self.ready = ready
        except StopIteration:
            return False
        finally:
            self._busy = False
        return True


@dataclass(frozen=True)
class Demand:
    """A result in DRAM that a source makes: `rows` rows, `row` bytes apart; `panel` bytes of each
    are made before the rest, all of them if 0."""

    source: Source
    row: int
    rows: int
    panel: int = 0

    def rows_before(self, end: int, rect: Rect | None) -> int:
        """How many rows must be complete (counted panel by panel) that a rectangle is there, or
        all bytes up to `end`."""
        rows = -(-end // self.row)
        if not self.panel:
            return rows
        right = self.row if rect is None else min(self.row, rect.start % self.row + rect.width)
        return (right - 1) // self.panel * self.rows + rows
