"""What `vit-run` shows of the accelerator: layers, and figures in the papers' units."""

from __future__ import annotations

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

    @cached_property
    def layers(self) -> list[dict[str, Any]]:
        """The operations of the model as plain data."""
        return [layer.facts(self.profile.arch) for layer in self.profile.layers()]

    def print(self, *, layers: bool) -> None:
        """Show the figures, and the table of layers if asked for."""
        from vit_opt.backends.accel.metrics import metrics_lines

        print("\n".join(metrics_lines(self.figures)))
        if layers:
            print_layers(self.profile)


def record(artefact: Artefact, gpu: str | None = None) -> Record:
    """Time a folder's image; `gpu` is what a GPU takes, as MS,WATTS."""
    from vit_opt.backends.accel.metrics import GpuFigure, metrics

    figure = None if gpu is None else GpuFigure.parse(gpu)
    profile, stats = Accelerator(artefact).profile()
    return Record(profile, metrics(stats, profile.arch, profile.image.macs, figure))


def print_layers(profile: Profile) -> None:
    """A table of the layers: cycles, use of the multipliers, stalls of the array, bytes, energy."""
    from vit_opt.dialects.vit_accel.fields import Space
    from vit_opt.tools.tables import print_table

    layers = profile.layers()
    total = sum(layer.cycles for layer in layers)
    rows: list[list[str]] = []
    for layer in layers:
        used = layer.utilisation(profile.arch)
        waits = sorted(layer.stalled.get("mac", {}).items(), key=lambda item: -item[1])
        energy = sum(layer.counts.energy_pj(profile.arch.energy).values())
        rows.append(
            [
                layer.name,
                f"{layer.cycles:,}",
                f"{layer.cycles / total:.1%}",
                "" if used is None else f"{used:.1%}",
                f"{layer.busy.get('mac', 0):,}",
                ", ".join(f"{cause} {cycles:,}" for cause, cycles in waits),
                f"{layer.counts.bytes.get(Space.DRAM, 0) / 1e3:,.1f}",
                f"{layer.counts.sram_bytes / 1e3:,.1f}",
                f"{energy * 1e-6:,.2f}",
            ]
        )
    header = ("layer", "cycles", "share", "used", "array", "array waits for", "DRAM kB")
    print_table((*header, "SRAM kB", "uJ"), rows)
