"""How much of a memory one block of work may take: as much as fits as often as it must be there.

Engines overlap, so that more than one block is on chip at a time. How many follows from what becomes
of a block, and nothing else decides its room:

    LOADED   2   operands: one in work, the next on its way
    PASSING  3   buffers of a single turn: one in work, and as many as rest
    MADE     4   results: one in work, one that is read, and as many as rest

An address rests for RESTING blocks of work before it is written again: what the block before left is
still being read, and an engine that had to wait for that would stand still.
"""

from __future__ import annotations

from vit_opt.dialects.vit.targets import AccelTarget

RESTING = 2
"""Blocks of work for which an address rests before it is used again, at least (`lowering/memory.py`
tells for how many cycles)."""

LOADED = 2
"""Blocks of an operand that are on chip at a time: one in work, and one on its way."""

PASSING = 1 + RESTING
"""Blocks of what comes and goes within a turn."""

MADE = 2 + RESTING
"""Blocks of results: one in work, and one that is read."""

ELEMENT = 8
"""Bytes of an element of a block of results at most, with what follows it on chip: an accumulator
and four bytes made of it."""


def room(arch: AccelTarget, memory: str, blocks: int) -> int:
    """Bytes for a block of which so many are in a memory at a time."""
    return arch.memory_size(memory) // blocks


def elements(arch: AccelTarget) -> int:
    """Elements of a block of results, whatever follows them."""
    return room(arch, "obuf", MADE) // ELEMENT


def for_data(arch: AccelTarget) -> int:
    """Bytes of all memories for operands and results; parameters have their own."""
    return sum(memory.size for memory in arch.memories if memory.name != "pbuf")


def on_chip(arch: AccelTarget) -> int:
    """Bytes that may stay on chip besides the blocks in work: all memories for data, but for the
    accumulators of the blocks that are made, and for a block of weights on its way."""
    return for_data(arch) - MADE * 4 * elements(arch) - room(arch, "bbuf", LOADED)


def on_chip_beside(arch: AccelTarget) -> int:
    """Of these, the bytes for an operand that is read again for every block of rows: its own memory,
    as rows and their results go by in the others."""
    return arch.memory_size("bbuf")
