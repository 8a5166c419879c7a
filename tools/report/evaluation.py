"""How good a compiled model is on data: closeness to the float model, and right answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.npz import read_npz
from vit_opt.tools.artefact import Artefact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

LABELS = ("label", "labels")
"""Names of the array of right answers in a file of inputs."""

MASK = 0.5
"""Threshold of a mask, for outputs that are maps of values from 0 to 1."""


def read_data(
    path: Path, ports: Mapping[str, Mapping[str, Any] | None], labels: Path | None = None
) -> tuple[dict[str, Array], Array | None]:
    """Real inputs by name, and labels where there are any, from .npz files.

    `ports` may say the shape of an input, [1, ...]. Bytes are pixels and become (pixel - 128) / 128,
    as in the examples, unless the input takes bytes as they are. Raises VitError for missing or empty
    inputs and those of another shape or without numbers, for labels of another number than the
    inputs, and those that are no integers.
    """
    import numpy as np

    arrays = read_npz(path)
    inputs: dict[str, Array] = {}
    for name in ports:
        if name not in arrays:
            raise VitError(f"{path}: no array for input '{name}'; it has {', '.join(arrays)}")
        array = arrays[name]
        _check_input(array, name, ports[name], path)
        if array.dtype == np.uint8:
            array = array.astype(np.float32)
            array = array if (ports[name] or {}).get("scale") == 1.0 else (array - 128) / 128
        inputs[name] = array
    found = arrays if labels is None else read_npz(labels)
    named = [found[name] for name in LABELS if name in found]
    if labels is not None and not named:
        named = list(found.values())[:1]
    count = next(iter(inputs.values())).shape[0]
    if not named:
        return inputs, None
    if named[0].shape != (count,):
        raise VitError(
            f"{labels or path}: labels have shape {list(named[0].shape)}, expected [{count}]"
        )
    if named[0].dtype.kind not in "iu":
        raise VitError(f"{labels or path}: labels are {named[0].dtype}, expected integers")
    return inputs, named[0]


def _check_input(array: Array, name: str, port: Mapping[str, Any] | None, path: Path) -> None:
    """Raise VitError for an array that is no batch of an input."""
    import numpy as np

    if array.dtype.kind not in "fiub":
        raise VitError(f"{path}: '{name}' holds {array.dtype}, no real numbers")
    shape = list(array.shape)
    wanted = shape[1:] if port is None else [int(size) for size in port["shape"][1:]]
    if not shape or shape[0] < 1 or shape[1:] != wanted:
        expected = ", ".join(["N", *map(str, wanted)])
        raise VitError(f"{path}: '{name}' is {shape}, expected [{expected}] with N at least 1")
    if not np.isfinite(array).all():
        raise VitError(f"{path}: '{name}' has values that are not finite")


def each_db(floats: Array, reals: Array) -> NDArray[np.float64]:
    """Signal to quantisation noise of every input of [N, ...] by itself, in dB."""
    import numpy as np

    a, b = (array.reshape(len(floats), -1).astype(np.float64) for array in (floats, reals))
    signal, noise = np.square(a).sum(axis=1), np.square(a - b).sum(axis=1)
    return 10 * np.log10(np.maximum(signal, 1e-300) / np.maximum(noise, 1e-300))


def quality(floats: Array, reals: Array, labels: Array | None = None) -> dict[str, float]:
    """Closeness of an output [N, ...] to the float model's, input by input.

    Keys: inputs, sqnr_db (all together), sqnr_mean_db and sqnr_worst_db (per input), cosine (mean),
    top1_agreement for scores [N, C], iou for maps of values in 0 .. 1 (of the masks above 1/2), and
    with labels top1 and float_top1. Raises VitError for labels that are no class.
    """
    import numpy as np

    count = floats.shape[0]
    a, b = (array.reshape(count, -1).astype(np.float64) for array in (floats, reals))
    signal, noise = np.square(a).sum(axis=1), np.square(a - b).sum(axis=1)
    each = each_db(floats, reals)
    norms = np.sqrt(signal * np.square(b).sum(axis=1))
    facts: dict[str, float] = {
        "inputs": count,
        "sqnr_db": float(10 * np.log10(max(signal.sum(), 1e-300) / max(noise.sum(), 1e-300))),
        "sqnr_mean_db": float(each.mean()),
        "sqnr_worst_db": float(each.min()),
        "cosine": float(((a * b).sum(axis=1) / np.maximum(norms, 1e-300)).mean()),
    }
    if floats.ndim == 2 and floats.shape[1] > 1:
        facts["top1_agreement"] = float((floats.argmax(axis=1) == reals.argmax(axis=1)).mean())
        if labels is not None:
            if labels.min() < 0 or labels.max() >= floats.shape[1]:
                raise VitError(
                    f"labels from {labels.min()} to {labels.max()} for {floats.shape[1]} classes"
                )
            facts["top1"] = float((reals.argmax(axis=1) == labels).mean())
            facts["float_top1"] = float((floats.argmax(axis=1) == labels).mean())
    elif floats.ndim >= 3 and floats.min() >= 0 and floats.max() <= 1:
        masks, ours = a > MASK, b > MASK
        union = np.maximum((masks | ours).sum(axis=1), 1)
        facts["iou"] = float(((masks & ours).sum(axis=1) / union).mean())
    return facts


def evaluate(
    artefact: Artefact, model: Path, data: Path, labels: Path | None, backend: str
) -> dict[str, dict[str, float]]:
    """`quality` of every output of a compiled folder on the inputs in a file."""
    from vit_opt.tools.check import run_float
    from vit_opt.tools.run import run_folder

    inputs, answers = read_data(data, artefact.read_report()["inputs"], labels)
    floats = run_float(model, inputs)
    reals = run_folder(artefact.folder, backend, inputs).reals
    return {name: quality(floats[name], reals[name], answers) for name in reals}
