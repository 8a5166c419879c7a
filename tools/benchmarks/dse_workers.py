"""Where the points of `vit-bench dse` are worked on: processes of this machine, or a Dask cluster.

A worker is sent the model once, as the bytes of its text and of its weights, and keeps it: tiling a
module anew undoes the tiling before. What differs between points is the architecture record.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from vit_opt.dialects.assets import VitContext

PROCESSES, DASK = "processes", "dask"

CONNECT_SECONDS = 15
"""How long a Dask scheduler may take to answer."""


@dataclass(frozen=True)
class PreparedModel:
    """A model before `tile`, to be sent to workers."""

    text: bytes
    weights: bytes
    digest: str

    @staticmethod
    def of(text: Path, weights: Path) -> PreparedModel:
        """A module and its weights from their files."""
        try:
            parts = text.read_bytes(), weights.read_bytes() if weights.exists() else b""
        except OSError as error:
            raise VitError(f"{text}: cannot be read: {error.strerror}") from error
        return PreparedModel(*parts, hashlib.sha256(b"".join(parts)).hexdigest())


@dataclass(frozen=True)
class Evaluated:
    """What came of a point: figures, or the reason why the model does not fit the machine."""

    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    """As `vit_opt.backends.accel.metrics` gives them."""
    seconds: float = 0.0
    """On the host."""
    error: str | None = None


def require_scheduler(scheduler: str) -> None:
    """Raise VitError for a scheduler that does not exist or is not installed."""
    if scheduler == PROCESSES:
        return
    if scheduler != DASK and not scheduler.startswith(f"{DASK}://"):
        raise VitError(f"--scheduler {scheduler}: expected processes, dask or dask://HOST:PORT")
    if importlib.util.find_spec("distributed") is None:
        raise VitError(f"--scheduler {scheduler} needs Dask: pip install 'vit-opt[cluster]'")


_kept: dict[str, tuple[ModuleOp, VitContext]] = {}
"""The model of this worker, by digest: one at a time."""


def module_of(prepared: PreparedModel) -> tuple[ModuleOp, VitContext]:
    """The module before `tile`, read once in a worker, and its context."""
    from vit_opt.tools.artefact import Artefact
    from vit_opt.tools.steps import new_context
    from vit_opt.tools.weights import sidecar_of

    if prepared.digest not in _kept:
        context = new_context()
        with TemporaryDirectory() as name:
            folder = Artefact(Path(name))
            folder.module.write_bytes(prepared.text)
            if prepared.weights:
                sidecar_of(folder.module).write_bytes(prepared.weights)
            module = folder.read_module(context)
        _kept.clear()
        _kept[prepared.digest] = module, context
    return _kept[prepared.digest]


def evaluate(prepared: PreparedModel, arch: AccelTarget) -> Evaluated:
    """Tile, lower and time a model for an architecture."""
    from vit_opt.backends.accel.lowering import lower_accel
    from vit_opt.backends.accel.metrics import metrics
    from vit_opt.backends.accel.run import time_accel
    from vit_opt.passes.tile import tile

    start = time.perf_counter()
    module, context = module_of(prepared)
    try:
        tile(module, arch)
        image = lower_accel(module, context.assets, arch)
        figures = metrics(time_accel(image, arch), arch, image)
    except VitError as error:
        return Evaluated(error=str(error))
    return Evaluated(figures | {"instructions": len(image.code)}, time.perf_counter() - start)


def evaluate_all(
    prepared: PreparedModel,
    machines: Sequence[AccelTarget],
    jobs: int,
    scheduler: str,
    say: Callable[[str], None],
) -> list[Evaluated]:
    """All points, in their order."""
    if scheduler != PROCESSES:
        return _on_dask(prepared, machines, jobs, scheduler, say)
    if jobs == 1 or len(machines) == 1:
        found: list[Evaluated] = []
        for index, arch in enumerate(machines, 1):
            say(f"{index} of {len(machines)}")
            found.append(evaluate(prepared, arch))
        return found
    with ProcessPoolExecutor(
        min(jobs, len(machines)), get_context("spawn"), _open_worker, (prepared,)
    ) as pool:
        futures = [pool.submit(_evaluate_kept, arch) for arch in machines]
        for index, future in enumerate(futures, 1):
            say(f"{index} of {len(machines)}")
            future.result()
        return [future.result() for future in futures]


_opened: list[PreparedModel] = []
"""What a process of the pool was opened with."""


def _open_worker(prepared: PreparedModel) -> None:
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    _opened.append(prepared)


def _evaluate_kept(arch: AccelTarget) -> Evaluated:
    return evaluate(_opened[0], arch)


def _on_dask(
    prepared: PreparedModel,
    machines: Sequence[AccelTarget],
    jobs: int,
    scheduler: str,
    say: Callable[[str], None],
) -> list[Evaluated]:
    """The same on a Dask cluster: the model is sent to every worker, points go where there is room."""
    distributed: Any = importlib.import_module("distributed")
    try:
        if scheduler == DASK:
            client = distributed.Client(
                n_workers=jobs, threads_per_worker=1, dashboard_address=None
            )
        else:
            address = f"tcp://{scheduler.removeprefix('dask://')}"
            client = distributed.Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise VitError(f"--scheduler {scheduler}: no such cluster: {error}") from error
    with client:
        say(f"{len(machines)} points on {len(client.nthreads())} workers")
        model = client.scatter(prepared, broadcast=True)
        futures = [client.submit(evaluate, model, arch, pure=False) for arch in machines]
        return list(client.gather(futures))
