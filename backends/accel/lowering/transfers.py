"""Moving elements between DRAM and the chip, past what already lies there."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from vit_opt.backends.accel.lowering.arena import Region, Use
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.residency import Piece
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit_accel import isa

Dim = tuple[int, int, int]
"""Count, stride in DRAM, stride on chip."""

_COUNT_MAX = (1 << 16) - 1
_RUN_MAX = (1 << 24) - 1


class Move(NamedTuple):
    """Runs of contiguous bytes in a nest of loops: where they lie far off, which is in DRAM or in a
    piece on chip, and where in the buffer."""

    far: Region
    source: int
    """First byte in `far`."""
    near: Region
    offset: int
    """First byte in `near`."""
    dims: tuple[Dim, ...]
    """Outermost first; strides count bytes."""
    run: int
    """Bytes of a run."""

    @property
    def end(self) -> int:
        """Behind the last byte in `far`."""
        return self.source + _span(self.dims, self.run)

    def step(self, index: int) -> Move:
        """One step of the outermost dim."""
        _, far, near = self.dims[0]
        return self._replace(
            source=self.source + index * far, offset=self.offset + index * near, dims=self.dims[1:]
        )

    def steps(self, first: int, count: int, position: int = 0) -> Move:
        """Some steps of a dim, the outermost unless told."""
        _, far, near = self.dims[position]
        return self._replace(
            source=self.source + first * far,
            offset=self.offset + first * near,
            dims=(*self.dims[:position], (count, far, near), *self.dims[position + 1 :]),
        )

    def part(self, first: int, size: int) -> Move:
        """Some bytes of every run."""
        return self._replace(source=self.source + first, offset=self.offset + first, run=size)


def transfer(
    builder: Builder,
    tensor: Region,
    source: int,
    item: int,
    dims: Sequence[Dim],
    region: Region,
    offset: int,
    store: bool,
) -> None:
    """Move elements of `item` bytes between a tensor, from byte `source` on, and a buffer, in as
    few instructions as their layout allows.

    What of the tensor lies on chip is copied from there.
    """
    if builder.rehearsing:
        return
    run = item
    inner: list[Dim] = [dim for dim in dims if dim[0] > 1]
    while inner and inner[-1][1] == run and inner[-1][2] == run:
        run *= inner.pop()[0]
    merged: list[Dim] = []
    for count, far, near in inner:
        if merged and merged[-1][1] == count * far and merged[-1][2] == count * near:
            merged[-1] = (merged[-1][0] * count, far, near)
        else:
            merged.append((count, far, near))
    move = Move(tensor, source, region, offset, tuple(merged), run)
    if store:
        _split(builder, move, store=True)
    else:
        _fetch(builder, move)


def _span(dims: Sequence[Dim], run: int, axis: int = 1) -> int:
    """Bytes from the first to behind the last, far off (axis 1) or in the buffer (axis 2)."""
    return run + sum((dim[0] - 1) * dim[axis] for dim in dims)


def _fetch(builder: Builder, move: Move) -> None:
    """Load, part by part from the pieces on chip and from DRAM."""
    pieces = [
        piece
        for piece in builder.pieces.get(move.far, ())
        if piece.valid.start < move.end and move.source < piece.valid.end
    ]
    for piece in pieces:
        found = _within(piece, move)
        if found is not None:
            builder.pin(piece)
            _split(builder, found, store=False)
            return
    if not any(_meets(piece, move) for piece in pieces):
        _split(builder, move, store=False)
        return
    if not move.dims:
        # Whole rows of parts: as rows again, so that neighbouring rows go together.
        pitch = max(piece.valid.pitch for piece in pieces)
        rows = move.run // pitch
        whole = move._replace(dims=((rows, pitch, pitch),), run=pitch)
        if rows > 1 and _fetch_bands(builder, whole, pieces):
            move = move.part(rows * pitch, move.run % pitch)
        _fetch_run(builder, move, pieces)
        return
    head = _common_run(pieces, move.source, move.run)
    if head < move.run and _is_uniform(pieces, move.part(0, head)):
        _fetch(builder, move.part(0, head))
        _fetch(builder, move.part(head, move.run - head))
        return
    if len(move.dims) == 1 and _fetch_bands(builder, move, pieces):
        return
    _fetch_steps(builder, move, pieces)


def _fetch_steps(builder: Builder, move: Move, pieces: Sequence[Piece]) -> None:
    """Load step by step of the outermost dim: those that lie in one piece, or in none, together."""

    def owner(index: int) -> int:
        """Which piece holds all of one step of the outermost dim; -1 DRAM; -2 - i nobody alone."""
        step = move.step(index)
        for number, piece in enumerate(pieces):
            if _within(piece, step) is not None:
                return number
        meets = any(_meets(piece, step) for piece in pieces)
        return -2 - index if meets else -1

    for who, group in groupby(range(move.dims[0][0]), owner):
        steps = list(group)
        part = move.steps(steps[0], len(steps))
        if who == -1:
            _split(builder, part, store=False)
        elif who >= 0 and _within(pieces[who], part) is not None:
            _fetch(builder, part)
        else:
            for index in steps:
                _fetch(builder, move.step(index))


def _fetch_bands(builder: Builder, move: Move, pieces: Sequence[Piece]) -> bool:
    """Load rows (the only dim) that several pieces share by columns: neighbouring rows that are cut
    alike together, a transfer for each part. False if there is nothing to gain."""
    count = move.dims[0][0]
    cuts = [_cuts(pieces, move.step(index)) for index in range(count)]
    bands = [list(group) for _, group in groupby(range(count), lambda index: cuts[index])]
    if len(bands) == count or max(map(len, cuts)) == 1:
        return False
    for band in bands:
        rows = move.steps(band[0], len(band)) if len(band) > 1 else move.step(band[0])
        done = 0
        for _, head in cuts[band[0]]:
            _fetch(builder, rows.part(done, head))
            done += head
    return True


def _cuts(pieces: Sequence[Piece], move: Move) -> tuple[tuple[int, int], ...]:
    """The parts of a single run: the piece that each lies in (-1: none), and its length."""
    found: list[tuple[int, int]] = []
    done = 0
    while done < move.run:
        head = _common_run(pieces, move.source + done, move.run - done)
        inside = (_within(piece, move.part(done, head)) is not None for piece in pieces)
        found.append((next((i for i, there in enumerate(inside) if there), -1), head))
        done += head
    return tuple(found)


def _is_uniform(pieces: Sequence[Piece], move: Move) -> bool:
    """Whether all elements lie in one piece, or in none."""
    if any(_within(piece, move) is not None for piece in pieces):
        return True
    return not any(_meets(piece, move) for piece in pieces)


def _fetch_run(builder: Builder, move: Move, pieces: Sequence[Piece]) -> None:
    """Load a single run that begins in one piece and ends in another, or in none."""
    done = 0
    while done < move.run:
        head = _common_run(pieces, move.source + done, move.run - done)
        part = move.part(done, head)
        for piece in pieces:
            found = _within(piece, part)
            if found is not None:
                builder.pin(piece)
                _split(builder, found, store=False)
                break
        else:
            _split(builder, part, store=False)
        done += head


def _within(piece: Piece, move: Move) -> Move | None:
    """The same from a piece instead of DRAM; None if not all elements lie there."""
    valid, pitch = piece.valid, piece.valid.pitch
    if move.source < valid.start or move.end > valid.end:
        return None
    first = move.source - piece.room.start
    if valid.width == pitch == piece.near:
        return move._replace(far=piece.region, source=first)
    row, col = divmod(move.source - valid.start, pitch)
    height, width = _extent(move, pitch)
    if row + height > valid.rows or col + width > valid.width:
        return None
    dims = [
        (count, far // pitch * piece.near if far % pitch == 0 else far, near)
        for count, far, near in move.dims
    ]
    source = first // pitch * piece.near + first % pitch
    return move._replace(far=piece.region, source=source, dims=tuple(dims))


def _extent(move: Move, pitch: int) -> tuple[int, int]:
    """Rows and bytes of a row that elements span, where rows are `pitch` apart."""
    height, width = 1, move.run
    for count, far, _ in move.dims:
        if far % pitch == 0:
            height += (count - 1) * (far // pitch)
        else:
            width += (count - 1) * far
    return height, width


def _meets(piece: Piece, move: Move) -> bool:
    """Whether elements may share a byte with a piece that DRAM does not hold."""
    if not piece.dirty:
        return False
    valid, pitch = piece.valid, piece.valid.pitch
    if move.source >= valid.end or move.end <= valid.start:
        return False
    row, col = divmod(move.source - valid.start, pitch)
    height, width = _extent(move, pitch)
    if col + width > pitch:
        return bool(move.dims) or col < valid.width or width > pitch or col + move.run > pitch
    return col < valid.width and -height < row < valid.rows


def _common_run(pieces: Sequence[Piece], source: int, run: int) -> int:
    """Bytes from `source` on that lie in one piece, or in none."""
    head = run
    for piece in pieces:
        valid = piece.valid
        row, col = divmod(source - valid.start, valid.pitch)
        if 0 <= row < valid.rows and col < valid.width:
            flat = valid.width == valid.pitch == piece.near
            return min(run, valid.end - source if flat else valid.width - col)
        following = valid.start + max(0, row + 1) * valid.pitch
        if source < following < min(source + head, valid.end):
            head = following - source
    return head


def _split(builder: Builder, move: Move, store: bool) -> None:
    """One instruction for up to three dims and a run; more are unrolled."""
    far, source, near, offset, dims, run = move
    if run > _RUN_MAX:
        raise VitError(f"a contiguous run of {run} bytes is longer than an instruction can hold")
    if len(dims) > 3:
        for index in range(dims[0][0]):
            _split(builder, move.step(index), store)
        return
    for position, (count, _, _) in enumerate(dims):
        if count > _COUNT_MAX:
            for index in range(0, count, _COUNT_MAX):
                steps = min(_COUNT_MAX, count - index)
                _split(builder, move.steps(index, steps, position), store)
            return
    padded = [(1, 0, 0)] * (3 - len(dims)) + list(dims)
    counts, fars, nears = zip(*padded, strict=True)
    far_use = Use(far, source, move.end)
    near_use = Use(near, offset, offset + _span(dims, run, 2))
    there, here = far.addr(source), near.addr(offset)
    if store:
        builder.emit(isa.Store(there, here, run, *counts, *fars, *nears), [near_use], [far_use])
    else:
        builder.emit(isa.Load(here, there, run, *counts, *nears, *fars), [far_use], [near_use])
