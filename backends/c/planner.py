"""Offsets of buffers in the caller's arena.

A buffer lives from the call that first touches it to the last one. Two buffers may share memory if
their lives do not overlap. Placing by falling size, each at the lowest free offset, is the usual
heuristic for this (dynamic storage allocation is NP-hard) and is within a few per cent of the
largest set that is alive at once on the models here.
"""

from __future__ import annotations

from dataclasses import dataclass

from vit_opt.backends.c.code import Buffer, Call
from vit_opt.backends.c.memory import aligned


@dataclass
class Lifetime:
    """The calls, by index, between which a buffer must keep its contents."""

    buffer: Buffer
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are alive at some call."""
        return self.first <= other.last and other.first <= self.last


def lifetimes(calls: list[Call]) -> list[Lifetime]:
    """Lifetimes of the arena's buffers over a list of calls."""
    found: dict[Buffer, Lifetime] = {}
    for index, call in enumerate(calls):
        for pointer in call.pointers():
            if pointer.buffer.space != "arena":
                continue
            life = found.setdefault(pointer.buffer, Lifetime(pointer.buffer, index, index))
            life.last = index
    return list(found.values())


def plan(calls: list[Call], scratch: Buffer) -> int:
    """Set the offset of every arena buffer and of the scratch block; returns the arena's bytes.

    Scratch is used by one call at a time but by almost every one, so it lies behind the rest.
    """
    placed: list[Lifetime] = []
    top = 0
    for life in sorted(lifetimes(calls), key=lambda life: -life.buffer.size):
        size = aligned(life.buffer.size)
        offset = 0
        for other in sorted(placed, key=lambda other: other.buffer.offset):
            if not life.overlaps(other):
                continue
            if offset + size <= other.buffer.offset:
                break
            offset = max(offset, other.buffer.offset + aligned(other.buffer.size))
        life.buffer.offset = offset
        placed.append(life)
        top = max(top, offset + size)
    scratch.offset = top
    return top + aligned(scratch.size)


def peak(calls: list[Call]) -> int:
    """Bytes of the buffers that are alive at the busiest call: a lower bound of any plan."""
    lives = lifetimes(calls)
    return max(
        (
            sum(aligned(life.buffer.size) for life in lives if life.first <= index <= life.last)
            for index in range(len(calls))
        ),
        default=0,
    )
