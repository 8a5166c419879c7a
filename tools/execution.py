"""Inference of a compiled folder on one of its three backends."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError
from vit_opt.tools.artefact import ARCH, IMAGE, ORIGINS, Artefact, read_origins

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from vit_opt.backends.accel.emulator import Stats
    from vit_opt.backends.accel.profile import Profile

    Array: TypeAlias = NDArray[Any]
    Arrays: TypeAlias = dict[str, Array]

BACKENDS = ("reference", "c", "accel")

MIN_SHARE = 8
"""Inferences that are worth starting a process for."""


class Backend(ABC):
    """A loaded model."""

    @abstractmethod
    def infer(self, inputs: Mapping[str, Array]) -> tuple[Arrays, Arrays]:
        """Codes and real values by output name, for one inference.

        Float inputs are real values, integer inputs codes. Raises VitError for wrong inputs.
        """

    def measures(self) -> dict[str, Any]:
        """What was measured, over all inferences so far."""
        return {}


class Reference(Backend):
    """The definitions of the operations, in numpy."""

    def __init__(self, artefact: Artefact) -> None:
        from vit_opt.tools.steps import new_context

        self._context = new_context()
        self._module = artefact.read_module(self._context)

    def infer(self, inputs: Mapping[str, Array]) -> tuple[Arrays, Arrays]:
        from vit_opt.backends.reference import run_reference

        result = run_reference(self._module, self._context.assets, inputs)
        return result.codes, result.reals


class CompiledC(Backend):
    """The C project, built with the system's compiler and called in this process."""

    def __init__(self, artefact: Artefact) -> None:
        from vit_opt.backends.c.run import CModel

        if not artefact.c.is_dir():
            raise VitError(f"{artefact.folder}: compiled without --target c")
        self._model = CModel(artefact.c)
        self._seconds: list[float] = []

    def infer(self, inputs: Mapping[str, Array]) -> tuple[Arrays, Arrays]:
        codes = self._model.run(inputs)
        self._seconds.append(self._model.seconds)
        return codes, self._model.reals(codes)

    def measures(self) -> dict[str, Any]:
        return {"latency_ms": median(self._seconds) * 1e3}


class Accelerator(Backend):
    """The binary image on the emulator."""

    def __init__(self, artefact: Artefact) -> None:
        from vit_opt.backends.accel.image import Image
        from vit_opt.tools.architectures import read_arch

        if not artefact.accel.is_dir():
            raise VitError(f"{artefact.folder}: compiled without --target accel")
        self._image = Image.load(artefact.accel / IMAGE)
        self._origins = read_origins(artefact.accel / ORIGINS, len(self._image.code))
        self._arch = read_arch(str(artefact.accel / ARCH))
        self._measured: list[tuple[int, float, float]] = []

    def infer(self, inputs: Mapping[str, Array]) -> tuple[Arrays, Arrays]:
        from vit_opt.backends.accel.run import run_accel

        result = run_accel(self._image, inputs, self._arch)
        stats = result.stats
        self._measured.append((stats.cycles, stats.utilisation, stats.energy_uj))
        return result.codes, dict(result.reals)

    def profile(self) -> tuple[Profile, Stats]:
        """A record of one inference, its instructions named by the operations of the model.

        No data is computed: nothing of it depends on data.
        """
        from vit_opt.backends.accel.profile import Profile
        from vit_opt.backends.accel.run import time_accel

        image = replace(self._image, origins=self._origins)
        profile = Profile(image, self._arch)
        return profile, time_accel(image, self._arch, profile)

    def measures(self) -> dict[str, Any]:
        cycles, utilisation, energy = zip(*self._measured, strict=True)
        return {
            "cycles": int(median(cycles)),
            "utilisation": median(utilisation),
            "energy_uj": median(energy),
        }


_OPEN: dict[str, Callable[[Artefact], Backend]] = {
    "reference": Reference,
    "c": CompiledC,
    "accel": Accelerator,
}


@dataclass
class RunResult:
    """Outputs of a batch, its inferences stacked along the leading dimension."""

    backend: str
    codes: Arrays
    """Raw integers by output name."""
    reals: Arrays
    """Real values by output name."""
    measures: dict[str, Any]
    """`latency_ms`, or `cycles`, `utilisation` and `energy_uj`: medians per inference."""
    seconds: float
    """Duration of the whole batch on the host, loading and building left out."""


def open_backend(artefact: Artefact, backend: str) -> Backend:
    """Load a compiled folder for a backend; raises VitError if it has none."""
    return _OPEN[backend](artefact)


def split_batch(
    inputs: Mapping[str, Array], shapes: Mapping[str, Sequence[int]]
) -> list[dict[str, Array]]:
    """The single inferences in arrays with a leading batch of any size.

    Raises VitError for missing or unknown inputs, wrong shapes, and different batch sizes.
    """
    if set(inputs) != set(shapes):
        raise VitError(
            f"given are inputs {', '.join(inputs) or 'none'}; the model takes {', '.join(shapes)}"
        )
    counts: dict[str, int] = {}
    for name, shape in shapes.items():
        given = inputs[name].shape
        if len(given) != len(shape) or list(given[1:]) != list(shape[1:]) or shape[0] != 1:
            if list(given) != list(shape):
                raise VitError(
                    f"input '{name}' has shape {list(given)}, the model takes {list(shape)} "
                    "with any leading batch"
                )
            counts[name] = 1
        else:
            counts[name] = given[0]
    if len(set(counts.values())) > 1 or 0 in counts.values():
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise VitError(f"batch sizes must be equal and positive: {text}")
    total = next(iter(counts.values()), 1)
    if total == 1:
        return [dict(inputs)]
    return [{name: a[i : i + 1] for name, a in inputs.items()} for i in range(total)]


def run_batch(
    artefact: Artefact,
    name: str,
    batch: Sequence[Mapping[str, Array]],
    jobs: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> RunResult:
    """Run inferences one by one, in `jobs` processes, and stack what they give.

    The C backend, whose time is measured, always runs in this process.
    """
    import numpy as np

    if name == "c" or len(batch) < 2 * MIN_SHARE:
        jobs = 1
    jobs = min(jobs, max(1, len(batch) // MIN_SHARE))
    backend = open_backend(artefact, name) if jobs == 1 else None
    start = time.perf_counter()
    shares = [batch[len(batch) * i // jobs : len(batch) * (i + 1) // jobs] for i in range(jobs)]
    if backend is not None:
        found = [run_share(backend, shares[0], say)]
    else:
        say(f"{len(batch)} inferences in {jobs} processes")
        with ProcessPoolExecutor(jobs, get_context("spawn"), _single_threaded) as pool:
            arguments = [(artefact.folder, name, share) for share in shares]
            found = list(pool.map(_open_and_run, arguments))
    seconds = time.perf_counter() - start
    codes, reals = (
        {output: np.concatenate([share[i][output] for share in found]) for output in found[0][i]}
        for i in (0, 1)
    )
    return RunResult(name, codes, reals, found[0][2], seconds)


def run_share(
    backend: Backend,
    batch: Sequence[Mapping[str, Array]],
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """Stacked codes and real values of some inferences, and what was measured."""
    import numpy as np

    codes: dict[str, list[Array]] = {}
    reals: dict[str, list[Array]] = {}
    for index, inputs in enumerate(batch, 1):
        say(f"{index} of {len(batch)}")
        found = backend.infer(inputs)
        for parts, arrays in zip((codes, reals), found, strict=True):
            for output, array in arrays.items():
                parts.setdefault(output, []).append(array)
    return (
        {output: np.concatenate(parts) for output, parts in codes.items()},
        {output: np.concatenate(parts) for output, parts in reals.items()},
        backend.measures(),
    )


def _single_threaded() -> None:
    """Before numpy is loaded in a new process: its threads would compete with the processes."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"


def _open_and_run(
    share: tuple[Path, str, Sequence[Mapping[str, Array]]],
) -> tuple[Arrays, Arrays, dict[str, Any]]:
    folder, name, batch = share
    return run_share(open_backend(Artefact(folder), name), batch)
