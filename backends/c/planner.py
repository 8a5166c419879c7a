"""Offsets of buffers in the caller's arena.

A buffer lives from the call that first touches it to the last one; the scratch of a call is a buffer
that lives for that call. Two buffers may share memory if their lives do not overlap, or if a kernel
computes one in the place of the other (a residual sum over its residual). Placing by falling size,
each at the lowest free offset, is the usual heuristic for this (dynamic storage allocation is
NP-hard) and is within a few per cent of the largest set alive at once on the models here.
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


def share(calls: list[Call]) -> None:
    """Let results take over the memory of operands that nothing reads afterwards.

    Only where the call allows it, and where the operand's memory is read through that one pointer.
    """
    last: dict[Buffer, int] = {}
    for index, call in enumerate(calls):
        last.update({pointer.buffer: index for pointer in call.pointers()})
    for index, call in enumerate(calls):
        if call.in_place is None:
            continue
        result, operand = call.in_place[0], call.in_place[1].root()
        readers = sum(pointer.buffer.root() is operand for pointer in call.pointers())
        if result.space == operand.space == "arena" and last[operand] == index and readers == 1:
            result.home = operand
            last[operand] = last[result]


def lifetimes(calls: list[Call]) -> list[Lifetime]:
    """Lifetimes of the arena's buffers over a list of calls."""
    found: dict[Buffer, Lifetime] = {}
    for index, call in enumerate(calls):
        for pointer in call.pointers():
            buffer = pointer.buffer.root()
            if buffer.space != "arena":
                continue
            life = found.setdefault(buffer, Lifetime(buffer, index, index))
            life.last = index
    return list(found.values())


def plan(calls: list[Call]) -> int:
    """Set the offset of every arena buffer; returns the bytes of the arena."""
    share(calls)
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
    return top


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
