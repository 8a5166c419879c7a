"""The critical path of a run: which instructions its length consists of.

From the last completion backwards: an instruction that began as soon as its engine was free is there
because of the one before it in its queue; one that waited is there because of the engine that it
waited for, at the moment when that engine let it go. The cycles on the way add up to those of the
run, so that every cycle belongs to one instruction, and through it to one layer and one engine: the
one that would have had to be faster. What runs beside the path costs nothing.

The cycles of `wait` and `signal` and DRAM's latency belong to the instruction before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vit_opt.backends.accel.events import BUS, Event
from vit_opt.backends.accel.image import Image
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Space


class Piece(NamedTuple):
    """A piece of the critical path."""

    engine: Engine
    place: int
    """Of its instruction in the program."""
    cycles: int


def critical_path(
    image: Image, events: Sequence[Event], ends: Mapping[int, int], arch: AccelTarget
) -> list[Piece]:
    """The pieces of the path, from the end of the run to its beginning; `ends` has the completion
    of every instruction, by its place in the program."""
    if not ends:
        return []
    place = max(ends, key=lambda index: (ends[index], index))
    time, engine = ends[place], _engine_of(image, place)
    queues: dict[Engine, list[Event]] = {each: [] for each in Engine}
    for event in events:
        queues[event.engine].append(event)
    pieces: list[Piece] = []
    latency = arch.dram_latency
    while time > 0:
        queue = queues[engine]
        while (
            queue and queue[-1].start + queue[-1].cycles + _late(image, queue[-1], latency) > time
        ):
            queue.pop()
        if not queue:
            pieces.append(Piece(engine, place, time))
            break
        event = queue.pop()
        end, place = event.start + event.cycles, event.place
        pieces.append(Piece(engine, place, time - end))
        waited = _waited_for(event)
        if waited is None:
            pieces.append(Piece(engine, place, event.cycles))
            time, latency = event.start, 0
        else:
            time, engine, latency = end, waited, arch.dram_latency
    return pieces


def _engine_of(image: Image, place: int) -> Engine:
    inst = image.code[place]
    assert isinstance(inst, isa.UnitInst | isa.ControlInst), "there are no others"
    return inst.engine


def _late(image: Image, event: Event, latency: int) -> int:
    """By how much a completion comes later than the work: a transfer's, by DRAM's latency."""
    inst = image.code[event.place]
    if event.cause is not None or not isinstance(inst, isa.TransferInst):
        return 0
    return latency if Space.DRAM in (inst.src.space, inst.dst.space) else 0


def _waited_for(event: Event) -> Engine | None:
    """The engine that ended a stall; None for work, and where a memory's banks were the cause."""
    if event.cause is None:
        return None
    if event.cause == BUS:
        return Engine.ST if event.engine is Engine.LD else Engine.LD
    return Engine.__members__.get(event.cause.upper())
