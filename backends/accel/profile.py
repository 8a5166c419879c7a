"""Where the cycles, bytes and picojoules of a run went: a record of every instruction executed.

By layer. The lowering notes of which operation each instruction is a part (`Origins`). Engines work
on several layers at once, so a layer's `cycles` are those of the critical path (`critical`) that
belong to its instructions, by the engine whose instructions they are; over all layers they add up
to the cycles of the run. `busy` and `stalled` are cycles of single engines.

By kind of work. Products (matrix products, and convolutions of single pixels, grouped or not) can
fill the multipliers; convolutions with a window, depthwise ones above all, need other shapes; pooling
and divisions have no MACs. `Profile.work` tells how much of the multipliers each kind used while it
was at work.

As a trace. `trace` gives the Chrome trace event format, which Perfetto (ui.perfetto.dev) and
chrome://tracing read: one track for each engine, with its instructions and its stalls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vit_opt.backends.accel.critical import critical_path
from vit_opt.backends.accel.events import Event
from vit_opt.backends.accel.image import Image
from vit_opt.dialects.vit.targets import AccelTarget, EnergyTable
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Engine
from vit_opt.dialects.vit_accel.fields import Inst, Space
from vit_opt.dialects.vit_accel.isa_base import UnitInst


@dataclass
class Counts:
    """What costs energy."""

    macs: int = 0
    narrow_macs: int = 0
    """Those of them by weights of 4 bits."""
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
        self.narrow_macs += times * inst.narrow_macs()
        if inst.multiplies:
            self.multiplications += times * inst.elements()
        else:
            self.elements += times * inst.elements()
        for space, count in touched.items():
            self.bytes[space] = self.bytes.get(space, 0) + times * count

    def include(self, other: Counts) -> None:
        """Add what others counted."""
        self.macs += other.macs
        self.narrow_macs += other.narrow_macs
        self.elements += other.elements
        self.multiplications += other.multiplications
        for space, count in other.bytes.items():
            self.bytes[space] = self.bytes.get(space, 0) + count


@dataclass
class Layer:
    """What one operation of the model cost."""

    name: str
    path: dict[str, int] = field(default_factory=dict[str, int])
    """Cycles of the critical path by engine."""
    busy: dict[str, int] = field(default_factory=dict[str, int])
    """Cycles of work by engine."""
    stalled: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    """Cycles that an engine stalled before its instructions, by what it waited for."""
    engines: dict[Engine, Counts] = field(default_factory=dict[Engine, Counts])
    """What each engine did."""

    @property
    def cycles(self) -> int:
        """Cycles of the critical path."""
        return sum(self.path.values())

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
        return _used(self.counts.macs, self.busy, arch)

    def facts(self, arch: AccelTarget) -> dict[str, Any]:
        """The layer as plain data: cycles, bytes, picojoules."""
        counts, table = self.counts, arch.energy
        return {
            "name": self.name,
            "cycles": self.cycles,
            "path": self.path,
            "utilisation": self.utilisation(arch),
            "macs": counts.macs,
            "narrow_macs": counts.narrow_macs,
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


@dataclass
class Work:
    """What the multipliers did of one kind of work."""

    kind: str
    macs: int = 0
    busy: dict[str, int] = field(default_factory=dict[str, int])
    """Cycles of work by engine."""
    cycles: int = 0
    """Cycles in which at least one engine was at work on it."""

    def utilisation(self, arch: AccelTarget) -> float | None:
        """MACs / (cycles of work * multipliers), over both engines; None without MACs."""
        return _used(self.macs, self.busy, arch)

    def facts(self, arch: AccelTarget) -> dict[str, Any]:
        """The kind of work as plain data."""
        return {
            "kind": self.kind,
            "macs": self.macs,
            "cycles": self.cycles,
            "busy": self.busy,
            "utilisation": self.utilisation(arch),
        }


PRODUCTS, WINDOWS, REST = "products", "windows", "rest"
"""Kinds of work of the multipliers."""


def kind_of(inst: Inst) -> str | None:
    """The kind of work that an instruction is; None where it is none of the multipliers."""
    if not isinstance(inst, UnitInst) or inst.engine not in (Engine.MAC, Engine.DW):
        return None
    if isinstance(inst, isa.Matmul) or (isinstance(inst, isa.Conv) and inst.kh * inst.kw == 1):
        return PRODUCTS
    return WINDOWS if isinstance(inst, isa.Conv | isa.DepthwiseConv) else REST


def _used(macs: int, busy: Mapping[str, int], arch: AccelTarget) -> float | None:
    """Share of the multipliers used while their engines work; None without MACs."""
    room = busy.get("mac", 0) * arch.lanes * arch.columns + busy.get("dw", 0) * arch.dw_width
    return macs / room if macs and room else None


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
        layers = {name: Layer(name) for name in map(origins.of, range(len(self.image.code)))}
        for piece in critical_path(self.image, self.events, self.ends, self.arch):
            path, engine = layers[origins.of(piece.place)].path, piece.engine.name.lower()
            path[engine] = path.get(engine, 0) + piece.cycles
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

    def work(self) -> list[Work]:
        """What the multipliers did, by kind of work."""
        kinds = [kind_of(inst) for inst in self.image.code]
        found = {kind: Work(kind) for kind in (PRODUCTS, WINDOWS, REST)}
        for index, counts in self.counts.items():
            kind = kinds[index]
            if kind is not None:
                found[kind].macs += counts.macs
        until = dict.fromkeys(found, 0)
        for event in sorted(self.events, key=lambda event: event.start):
            kind = kinds[event.place]
            if kind is None or event.cause is not None:
                continue
            work, engine, end = found[kind], event.engine.name.lower(), event.start + event.cycles
            work.busy[engine] = work.busy.get(engine, 0) + event.cycles
            work.cycles += max(0, end - max(event.start, until[kind]))
            until[kind] = max(until[kind], end)
        return [work for work in found.values() if work.cycles]

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
