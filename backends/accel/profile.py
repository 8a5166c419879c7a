"""Where the cycles, bytes and picojoules of a run went: a record of every instruction executed.

By layer. The lowering notes of which operation each instruction is a part (`Origins`). Engines work
on several layers at once, so a layer's `cycles` are those by which it moved the end of the program:
with E(n) the latest completion among all instructions of the first n layers, in the order in which
the program first has them,

    cycles(n) = E(n) - E(n - 1)

which add up to the cycles of the run. `busy` and `stalled` are cycles of single engines.

As a trace. `trace` gives the Chrome trace event format, which Perfetto (ui.perfetto.dev) and
chrome://tracing read: one track for each engine, with its instructions and its stalls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vit_opt.backends.accel.image import Image
from vit_opt.dialects.vit.targets import AccelTarget, EnergyTable
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Addr, Space
from vit_opt.dialects.vit_accel.isa_base import UnitInst

BUS = "dram"
"""The cause of a stall for the DRAM bus; otherwise it is the engine that was waited for, or the
memory on chip whose banks were."""


@dataclass
class Counts:
    """What costs energy."""

    macs: int = 0
    elements: int = 0
    """Operations on elements: shifts, additions, look-ups."""
    multiplications: int = 0
    """Elements that cost a wide multiplication."""
    bytes: dict[Space, int] = field(default_factory=dict[Space, int])
    """Bytes touched of each memory; of DRAM those on its bus, in whole bursts."""

    @property
    def sram_bytes(self) -> int:
        """Bytes touched of all memories on chip."""
        return sum(count for space, count in self.bytes.items() if space is not Space.DRAM)

    def energy_pj(self, table: EnergyTable) -> dict[str, float]:
        """Energy by cause: mac, elements, sram, dram."""
        return {
            "mac": self.macs * table.mac_int8,
            "elements": self.elements * table.add_int32 + self.multiplications * table.mul_int32,
            "sram": self.sram_bytes * table.sram_byte,
            "dram": self.bytes.get(Space.DRAM, 0) * table.dram_byte,
        }

    def operations_pj(self, table: EnergyTable) -> float:
        """Energy of the operations, without that of memory."""
        energy = self.energy_pj(table)
        return energy["mac"] + energy["elements"]

    def memory_pj(self, table: EnergyTable) -> dict[str, float]:
        """Energy of the accesses by memory."""
        costs = {Space.DRAM: table.dram_byte}
        return {
            space.name.lower(): count * costs.get(space, table.sram_byte)
            for space, count in sorted(self.bytes.items())
        }

    def add(self, inst: UnitInst, touched: Mapping[Space, int], times: int = 1) -> None:
        """Count an instruction and the bytes that it touches, executed so many times."""
        self.macs += times * inst.macs()
        if inst.multiplies:
            self.multiplications += times * inst.elements()
        else:
            self.elements += times * inst.elements()
        for space, count in touched.items():
            self.bytes[space] = self.bytes.get(space, 0) + times * count

    def include(self, other: Counts) -> None:
        """Add what others counted."""
        self.macs += other.macs
        self.elements += other.elements
        self.multiplications += other.multiplications
        for space, count in other.bytes.items():
            self.bytes[space] = self.bytes.get(space, 0) + count


class Event(NamedTuple):
    """An instruction at work, or a stall before it (`cause`), in cycles."""

    engine: Engine
    place: int
    """Its place in the program."""
    start: int
    cycles: int
    cause: str | None = None
    places: tuple[tuple[Addr, int], ...] = ()
    """Where its operands begin, and how many bytes it touches there."""


@dataclass
class Layer:
    """What one operation of the model cost."""

    name: str
    cycles: int = 0
    """By how much it moved the end of the program; see above."""
    busy: dict[str, int] = field(default_factory=dict[str, int])
    """Cycles of work by engine."""
    stalled: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """Cycles that an engine stalled before its instructions, by what it waited for."""
    engines: dict[Engine, Counts] = field(default_factory=dict[Engine, Counts])
    """What each engine did."""

    @property
    def counts(self) -> Counts:
        """What all engines did."""
        total = Counts()
        for counts in self.engines.values():
            total.include(counts)
        return total

    def utilisation(self, arch: AccelTarget) -> float | None:
        """MACs / (busy cycles * multipliers) of the engines that multiply; None without MACs.

        int4 weights count as MACs too, so that up to `int4_rate` is possible.
        """
        room = self.busy.get("mac", 0) * arch.lanes * arch.columns
        room += self.busy.get("dw", 0) * arch.dw_width
        return self.counts.macs / room if self.counts.macs and room else None

    def facts(self, arch: AccelTarget) -> dict[str, Any]:
        """The layer as plain data: cycles, bytes, picojoules."""
        counts, table = self.counts, arch.energy
        return {
            "name": self.name,
            "cycles": self.cycles,
            "utilisation": self.utilisation(arch),
            "macs": counts.macs,
            "busy": self.busy,
            "stalled": self.stalled,
            "bytes": {space.name.lower(): n for space, n in sorted(counts.bytes.items())},
            "energy_pj": counts.energy_pj(table),
            "engine_pj": {
                engine.name.lower(): part.operations_pj(table)
                for engine, part in sorted(self.engines.items())
            },
            "memory_pj": counts.memory_pj(table),
        }


class Profile:
    """Everything that happened in one run of an image."""

    def __init__(self, image: Image, arch: AccelTarget) -> None:
        self.image = image
        self.arch = arch
        self.events: list[Event] = []
        self.counts: dict[int, Counts] = {}
        """By place in the program."""
        self.ends: dict[int, int] = {}
        """Latest completion of each instruction."""

    def end(self, index: int, time: int) -> None:
        """Note that an instruction is complete."""
        self.ends[index] = max(time, self.ends.get(index, 0))

    def event(self, event: Event) -> None:
        """Note work or a stall."""
        if event.cycles:
            self.events.append(event)

    def layers(self) -> list[Layer]:
        """The layers of the program, in its order; instructions of unknown origin are 'program'."""
        origins = self.image.origins
        layers: dict[str, Layer] = {}
        ends: dict[str, int] = {}
        for index in range(len(self.image.code)):
            name = origins.of(index)
            layers.setdefault(name, Layer(name))
            ends[name] = max(ends.get(name, 0), self.ends.get(index, 0))
        frontier = 0
        for name, layer in layers.items():
            layer.cycles = max(0, ends[name] - frontier)
            frontier += layer.cycles
        for index, counts in self.counts.items():
            inst = self.image.code[index]
            assert isinstance(inst, UnitInst), "only units are counted"
            layers[origins.of(index)].engines.setdefault(inst.engine, Counts()).include(counts)
        for event in self.events:
            layer = layers[origins.of(event.place)]
            engine = event.engine.name.lower()
            stalled = event.cause is not None
            into = layer.stalled.setdefault(engine, {}) if stalled else layer.busy
            key = event.cause or engine
            into[key] = into.get(key, 0) + event.cycles
        return list(layers.values())

    def trace(self) -> dict[str, Any]:
        """The run in the Chrome trace event format; times in microseconds of the accelerator."""
        return {"displayTimeUnit": "ns", "traceEvents": list(self._trace_events())}

    def _trace_events(self) -> Iterator[dict[str, Any]]:
        name = f"accelerator {self.arch.name}"
        yield {"ph": "M", "name": "process_name", "pid": 0, "tid": 0, "args": {"name": name}}
        for engine in Engine:
            args = {"name": engine.name.lower()}
            yield {"ph": "M", "name": "thread_name", "pid": 0, "tid": int(engine), "args": args}
        for event in self.events:
            inst = self.image.code[event.place]
            stall = event.cause is not None
            yield {
                "ph": "X",
                "name": f"waits for {event.cause}" if stall else inst.name(),
                "cat": "stall" if stall else "work",
                "pid": 0,
                "tid": int(event.engine),
                "ts": event.start / self.arch.clock_mhz,
                "dur": event.cycles / self.arch.clock_mhz,
                "args": {
                    "layer": self.image.origins.of(event.place),
                    "instruction": event.place,
                    "cycle": event.start,
                    "cycles": event.cycles,
                },
            }
