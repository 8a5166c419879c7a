"""One model, quantised in several ways and measured on data: what ablation and accuracy share.

The model is imported and calibrated once for each set of calibration options; every variant starts
from a copy. The C backend executes it (or the reference), ONNX Runtime gives the float outputs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from vit_opt.dialects.assets import AssetStore, VitContext
from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

TURNS = 8
"""Copies of a square image: as it is and mirrored, each turned by quarters."""

Options: TypeAlias = Mapping[str, "Mapping[str, Any] | None"]
"""Options by pass; a pass with None is left out, one that is not on the road is added."""

UNNEEDED = ("verify-integer", "prove-ranges", "tile")
"""Passes of the road that change no number; `tile` is done for the backend."""


def merged(*several: Options) -> dict[str, dict[str, Any] | None]:
    """Options of several sets together, those of later sets first; leaving out a pass wins."""
    result: dict[str, dict[str, Any] | None] = {}
    for options in several:
        for name, given in options.items():
            before = result.get(name, {})
            result[name] = None if given is None or before is None else {**before, **given}
    return result


def passes_for(options: Options, road: str = "pot") -> tuple[ModulePass, ...]:
    """The passes of a road with these options, those left out that change no number.

    Raises VitError for a pass or an option that does not exist.
    """
    from vit_opt.passes.pipelines import OPTIONAL, ROADS

    unknown = set(options) - set(ROADS[road]) - set(OPTIONAL)
    if unknown:
        raise VitError(f"no pass {', '.join(sorted(unknown))} on the {road} road")
    passes: list[ModulePass] = []
    for name in ROADS[road]:
        if name not in UNNEEDED and options.get(name, {}) is not None:
            passes.append(_built(name, options, road))
        passes += [_built(more, options, road) for more in _following(name, options)]
    return tuple(passes)


def _following(name: str, options: Options) -> list[str]:
    """Added passes that come after a pass of the road."""
    from vit_opt.passes.pipelines import OPTIONAL

    return [
        more for more, place in OPTIONAL.items() if place == name and options.get(more) is not None
    ]


def _built(name: str, options: Options, road: str) -> ModulePass:
    """A pass with the options of its road and the given ones."""
    from xdsl.passes import PassPipeline

    from vit_opt.passes import get_all_passes, pass_class
    from vit_opt.passes.pipelines import ROAD_OPTIONS

    usual = PassPipeline.parse_spec(get_all_passes(), ROAD_OPTIONS[road]).passes
    values: dict[str, Any] = {}
    for each in usual:
        if each.name == name:
            values = {key: value for key, value in vars(each).items() if key != "name"}
    try:
        return pass_class(name)(**{**values, **(options.get(name) or {})})
    except TypeError as error:
        raise VitError(f"{name}: {error}") from error


def turned(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Square images [N, C, S, S] in eight positions each: [8 N, C, S, S], those of one together.

    The error of one image is close to chance; that of many, which see the same quantiser, is not.
    Raises VitError for inputs that are not square images.
    """
    import numpy as np

    result: dict[str, Array] = {}
    for name, array in inputs.items():
        if array.ndim != 4 or array.shape[2] != array.shape[3]:
            shape = "x".join(map(str, array.shape))
            raise VitError(f"--turned needs square images [N, C, S, S]; '{name}' is {shape}")
        both = (array, array[..., ::-1])
        copies = [np.rot90(each, turn, (2, 3)) for each in both for turn in range(TURNS // 2)]
        result[name] = np.stack(copies, axis=1).reshape(-1, *array.shape[1:])
    return result


@dataclass
class Variants:
    """A model with its data, and what was calibrated so far."""

    model: Path
    calib: Path | None
    inputs: Mapping[str, Array]
    """Inputs to measure on, [N, ...] by name."""

    labels: Array | None = None
    backend: str = "c"
    preprocess: str | None = None
    _floats: dict[str, Array] = field(default_factory=dict[str, "Array"])
    _calibrated: dict[str, tuple[ModuleOp, AssetStore]] = field(
        default_factory=dict[str, "tuple[ModuleOp, AssetStore]"]
    )

    def floats(self) -> Mapping[str, Array]:
        """Outputs of the float model."""
        from vit_opt.tools.check import run_float

        if not self._floats:
            self._floats = run_float(self.model, self.inputs)
        return self._floats

    def measure(
        self, options: Options, road: str = "pot", say: Callable[[str], None] = lambda _: None
    ) -> dict[str, Any]:
        """Quantise with options and measure: `quality` of the first output, each_db and seconds.

        `each_db` are the decibels of every input; `seconds` those of quantisation, calibration and
        backend left out.
        """
        from vit_opt.tools.report.evaluation import each_db, quality
        from vit_opt.tools.steps import run_pipeline

        passes = passes_for(options, road)
        split = 1 + next(i for i, each in enumerate(passes) if each.name == "calibrate")
        module, context = self._start(passes[:split], say)
        start = time.perf_counter()
        run_pipeline(module, context, passes[split:], say)
        seconds = time.perf_counter() - start
        say(f"run on {self.backend}")
        reals = self._run(module, context)
        [name, *_] = reals
        pair = self.floats()[name], reals[name]
        return {
            **quality(*pair, self.labels),
            "each_db": each_db(*pair).tolist(),
            "seconds": seconds,
        }

    def _start(
        self, passes: tuple[ModulePass, ...], say: Callable[[str], None]
    ) -> tuple[ModuleOp, VitContext]:
        """A calibrated module of its own, in a context of its own."""
        from vit_opt.tools.steps import import_onnx, new_context, provide_batches, run_pipeline

        key = ",".join(str(each) for each in passes)
        if key not in self._calibrated:
            context = new_context()
            module = import_onnx(self.model, context=context)
            provide_batches(module, context, self.calib, self.preprocess)
            run_pipeline(module, context, passes, say)
            self._calibrated.clear()
            self._calibrated[key] = module, context.assets
        module, store = self._calibrated[key]
        context = new_context()
        context.assets = AssetStore(
            dict(store.arrays), copy.deepcopy(store.statistics), list(store.batches)
        )
        return module.clone(), context

    def _run(self, module: ModuleOp, context: VitContext) -> dict[str, Array]:
        """Real outputs of an integer module, all inputs."""
        import numpy as np

        from vit_opt.backends.reference import run_reference
        from vit_opt.tools.execution import split_batch

        shapes = {name: [1, *array.shape[1:]] for name, array in self.inputs.items()}
        batch = split_batch(self.inputs, shapes)
        if self.backend == "reference":
            runs = [run_reference(module, context.assets, each).reals for each in batch]
        else:
            runs = self._run_c(module, context, batch)
        return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}

    def _run_c(
        self, module: ModuleOp, context: VitContext, batch: list[dict[str, Array]]
    ) -> list[dict[str, Array]]:
        from vit_opt.backends.c.run import CModel
        from vit_opt.passes.tile import TilePass
        from vit_opt.tools.build import build_c
        from vit_opt.tools.steps import run_pipeline

        run_pipeline(module, context, (TilePass("c"),))
        with TemporaryDirectory() as folder:
            build_c(module, context, Path(folder) / "c")
            compiled = CModel(Path(folder) / "c")
            return [dict(compiled.reals(compiled.run(each))) for each in batch]


__all__ = ["Options", "Variants", "merged", "passes_for", "turned"]
