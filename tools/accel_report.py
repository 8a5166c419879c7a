"""What `vit-run` shows of the accelerator: layers, and figures in the papers' units."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vit_opt.tools.execution import Accelerator

if TYPE_CHECKING:
    from vit_opt.backends.accel.profile import Profile
    from vit_opt.tools.artefact import Artefact


@dataclass(frozen=True)
class Record:
    """One inference on a folder's accelerator."""

    profile: Profile
    figures: dict[str, Any]
    """In the papers' units."""
    seconds: float
    """Duration on the host, loading left out."""

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """The operations of the model as plain data."""
        return [layer.facts(self.profile.arch) for layer in self.profile.layers()]

    @cached_property
    def work(self) -> list[dict[str, Any]]:
        """What the multipliers did by kind of work, as plain data."""
        return [work.facts(self.profile.arch) for work in self.profile.work()]

    def print(self, *, layers: bool) -> None:
        """Show the figures, and the table of layers if asked for."""
        from vit_opt.backends.accel.metrics import metrics_lines, work_lines

        print("\n".join([*metrics_lines(self.figures), *work_lines(self.work)]))
        if layers:
            print_layers(self.layers)


def record(artefact: Artefact, gpu: str | None = None) -> Record:
    """Time a folder's image; `gpu` is what a GPU takes, as MS,WATTS."""
    from vit_opt.backends.accel.metrics import GpuFigure, metrics

    figure = None if gpu is None else GpuFigure.parse(gpu)
    accelerator = Accelerator(artefact)
    start = time.perf_counter()
    profile, stats = accelerator.profile()
    seconds = time.perf_counter() - start
    return Record(profile, metrics(stats, profile.arch, profile.image, figure), seconds)


def array_waits(facts: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What the array waits for on a layer, and how many cycles, the longest first."""
    return sorted(facts["stalled"].get("mac", {}).items(), key=lambda item: -item[1])


def bounds(facts: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The engines that a layer's cycles are due to, those of most cycles first."""
    return sorted(facts["path"].items(), key=lambda item: -item[1])


def energy_uj(facts: Mapping[str, Any]) -> tuple[float, float, float]:
    """Microjoules of a layer's operations, of its accesses on chip, and of those to DRAM."""
    parts = facts["energy_pj"]
    return (
        (parts["mac"] + parts["elements"]) * 1e-6,
        parts["sram"] * 1e-6,
        parts["dram"] * 1e-6,
    )


def print_layers(layers: Sequence[Mapping[str, Any]]) -> None:
    """A table of the layers: cycles, use of the multipliers, stalls of the array, bytes, energy."""
    from vit_opt.tools.tables import print_table

    total = sum(facts["cycles"] for facts in layers)
    rows: list[list[str]] = []
    sums = [0.0] * 5
    for facts in layers:
        used, amounts = facts["utilisation"], _amounts(facts)
        sums = [one + other for one, other in zip(sums, amounts, strict=True)]
        rows.append(
            [
                facts["name"],
                f"{facts['cycles']:,}",
                f"{facts['cycles'] / total:.1%}",
                ", ".join(f"{engine} {cycles:,}" for engine, cycles in bounds(facts)[:2]),
                "" if used is None else f"{used:.1%}",
                f"{facts['busy'].get('mac', 0):,}",
                ", ".join(f"{cause} {cycles:,}" for cause, cycles in array_waits(facts)),
                *_texts(amounts),
            ]
        )
    array = sum(facts["busy"].get("mac", 0) for facts in layers)
    rows.append(["all", f"{total:,}", "", "", "", f"{array:,}", "", *_texts(sums)])
    header = ("layer", "cycles", "share", "bound by", "used", "array", "array waits for")
    print_table((*header, "DRAM kB", "SRAM kB", "uJ work", "uJ SRAM", "uJ DRAM", "uJ all"), rows)


def _amounts(facts: Mapping[str, Any]) -> list[float]:
    """Kilobytes on the DRAM bus and on chip, microjoules of operations and of either access."""
    dram = facts["bytes"].get("dram", 0)
    return [dram / 1e3, (sum(facts["bytes"].values()) - dram) / 1e3, *energy_uj(facts)]


def _texts(amounts: Sequence[float]) -> list[str]:
    """The amounts to read, and the sum of the energies."""
    energies = [*amounts[2:], sum(amounts[2:])]
    return [*(f"{each:,.1f}" for each in amounts[:2]), *(f"{each:,.2f}" for each in energies)]
