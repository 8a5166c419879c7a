"""Programs without loops: what the engines execute, one instruction after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vit_opt.backends.accel.image import Origins
from vit_opt.backends.accel.sequencer import Sequencer, fill_queues
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Addr, Inst, layout

MAX_UNROLLED = 1_000_000
"""Instructions of a queue with loops written out; more is a damaged program."""


def unroll(
    code: Sequence[Inst], origins: Origins, most: int = MAX_UNROLLED
) -> tuple[tuple[Inst, ...], Origins]:
    """A program without loops and registers; the inverse of `lowering.loops.roll`.

    The instructions of a loop stand where it began. VitError for loops that are not closed, and for
    more than `most` instructions in a queue.
    """
    engines = [Sequencer(engine) for engine in Engine]
    fill_queues(engines, code)
    result: list[tuple[int, str, Inst]] = []
    for engine in engines:
        place = steps = 0
        while engine.position < len(engine.queue):
            steps += 1
            if steps > most:
                raise VitError(f"the loops make more than {most} instructions")
            index, inst = engine.queue[engine.position]
            if not engine.loops:
                place = index
            if isinstance(inst, isa.ControlInst) and not isinstance(inst, (isa.Wait, isa.Signal)):
                engine.control(inst)
            else:
                result.append((place, origins.of(index), _resolved(inst, engine)))
            engine.position += 1
        if engine.loops:
            raise VitError(f"the queue of {engine.engine.name.lower()} ends inside a loop")
    result.sort(key=lambda part: part[0])
    return tuple(inst for *_, inst in result), Origins.from_names(name for _, name, _ in result)


def _resolved(inst: Inst, engine: Sequencer) -> Inst:
    """An instruction with the addresses that its registers stand for."""
    addresses = {
        slot.name: engine.resolve(value)
        for slot in layout(type(inst)).slots
        if type(value := getattr(inst, slot.name)) is Addr and value.areg
    }
    return replace(inst, **addresses) if addresses else inst
