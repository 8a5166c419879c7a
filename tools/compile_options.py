"""How a model is compiled: the options of `vit-compile`, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xdsl.passes import ModulePass, PassPipeline

from vit_opt.tools.command import UsageError
from vit_opt.tools.pass_options import checked_pipeline
from vit_opt.tools.recipe import IMAGES, Calibration, Recipe

TARGETS: Mapping[str, tuple[str, ...]] = {"c": ("c",), "accel": ("accel",), "all": ("c", "accel")}


@dataclass(frozen=True)
class CompileOptions:
    """How a model is compiled."""

    calib: Path | None = None
    """Calibration data; None: synthetic images, with a warning."""

    preprocess: str | None = None
    """How image files become inputs."""

    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """Shapes of inputs that the model leaves open."""

    target: str | None = None
    """c, accel or all; None: all that the scales allow."""

    arch: str = "p2vit"
    """Accelerator: a preset or a JSON file."""

    cpu: str = "host"
    """Instruction level of the C project: its kernels and the layout of its weights."""

    threads: int = 1
    """Threads that share an inference of the C project, at most."""

    scales: str = "pot"
    """pot, or dyadic (multiplier and shift, not for the accelerator)."""

    passes: str = ""
    """Passes of the road with other options than the default ones, as in `vit-opt -p`."""

    images: int = IMAGES
    """Largest number of calibration inputs."""

    seed: int = 0
    """Of synthetic images."""

    recipe: Path | None = None
    """Where to write all settings, to be replayed; they are in the output folder anyway."""

    qdq: Path | None = None
    """Where to write the quantised model as ONNX with QDQ pairs."""

    def targets(self) -> tuple[str, ...]:
        """The backends; raises UsageError for dyadic scales on the accelerator."""
        if self.scales == "dyadic" and self.target in ("accel", "all"):
            raise UsageError(
                "the accelerator requantises by shifts alone: --scales dyadic needs --target c"
            )
        default = "all" if self.scales == "pot" else "c"
        return TARGETS[self.target or default]

    def overrides(self) -> dict[str, ModulePass]:
        """The passes given with options, by name."""
        from vit_opt.passes import get_all_passes
        from vit_opt.passes.pipelines import OPTIONAL, ROAD_OPTIONS, ROADS

        spec = ",".join(filter(None, (ROAD_OPTIONS[self.scales], self.passes)))
        road = ROADS[self.scales]
        advice = f"; the road is {', '.join(road)}"
        spec = checked_pipeline("--passes", spec, get_all_passes(), advice)
        try:
            given = PassPipeline.parse_spec(get_all_passes(), spec).passes
        except ValueError as error:
            raise UsageError(f"--passes: {error}") from error
        for each in given:
            if each.name not in road and OPTIONAL.get(each.name) not in road:
                raise UsageError(f"--passes: {each.name} is not on the {self.scales} road")
        return {each.name: each for each in given}

    def tiling(self, target: str, overrides: Mapping[str, ModulePass]) -> tuple[ModulePass, ...]:
        """The pass `tile` for a backend and its architecture, unless it was given with options."""
        from vit_opt.passes.tile import TilePass, TileRecordPass
        from vit_opt.tools.architectures import read_arch

        if "tile" in overrides:
            return (overrides["tile"],)
        return (TilePass("c") if target == "c" else TileRecordPass(read_arch(self.arch)),)

    def settings(self, model: Path) -> Recipe:
        """Everything that decides the bits of a model."""
        from vit_opt.passes.pipelines import ROADS, passes_of

        given = self.overrides()
        names = [name for name in ROADS[self.scales] if name != "tile" or name in given]
        return Recipe(
            model=model.name,
            scales=self.scales,
            target=self.target,
            arch=self.arch,
            cpu=self.cpu,
            threads=self.threads,
            shapes=self.shapes,
            calibration=Calibration(self.calib, None, self.preprocess, self.images),
            seed=self.seed,
            passes=passes_of(names, given),
        )
