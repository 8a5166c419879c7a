"""Comparing integer results with the float model."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


def run_float(model: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of an ONNX model on real inputs with a leading batch, one inference at a time.

    By onnxruntime where it is installed, else by our interpreter of the float graph.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return _by_interpreter(model, inputs)
    return _by_onnxruntime(model, inputs)


def _single(inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    count = next(iter(inputs.values())).shape[0] if inputs else 1
    return [{name: a[i : i + 1] for name, a in inputs.items()} for i in range(count)]


def _by_onnxruntime(model: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    import numpy as np
    import onnxruntime  # pyright: ignore[reportMissingTypeStubs]

    if not model.exists():
        raise VitError(f"{model}: no such file")
    runtime: Any = onnxruntime
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common class of their own
        raise VitError(f"{model}: onnxruntime cannot load it: {error}") from error
    names = [output.name for output in session.get_outputs()]
    try:
        runs = [session.run(names, _typed(each, session)) for each in _single(inputs)]
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise VitError(f"{model}: onnxruntime cannot run it on these inputs: {reason}") from error
    return {name: np.concatenate([run[i] for run in runs]) for i, name in enumerate(names)}


def _typed(inputs: Mapping[str, Array], session: Any) -> dict[str, Array]:
    """Inputs as the session types them: those that hold integers are real numbers elsewhere."""
    types = {
        port.name: port.type.removeprefix("tensor(").rstrip(")") for port in session.get_inputs()
    }
    narrow = ("uint8", "int8", "uint16", "int16")
    return {n: a.astype(types[n]) if types.get(n) in narrow else a for n, a in inputs.items()}


def _by_interpreter(model: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    import numpy as np

    from vit_opt.backends.reference import run_reference
    from vit_opt.tools.steps import import_onnx, new_context

    context = new_context()
    shapes = {name: (1, *array.shape[1:]) for name, array in inputs.items()}
    module = import_onnx(model, shapes=shapes, context=context)
    runs = [run_reference(module, context.assets, each).reals for each in _single(inputs)]
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def sqnr_db(reference: Array, array: Array) -> float:
    """Signal to quantisation noise in dB: 10 log10(sum r^2 / sum (r - a)^2)."""
    import numpy as np

    wide = reference.astype(np.float64)
    noise = float(np.square(wide - array).sum())
    signal = float(np.square(wide).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def compare(
    reference: Mapping[str, Array], result: Mapping[str, Array]
) -> dict[str, dict[str, float]]:
    """Per output: `sqnr_db`, `max_abs_error`, and `top1_agreement` for scores [N, C].

    Raises VitError if an output is missing or has another shape.
    """
    import numpy as np

    found: dict[str, dict[str, float]] = {}
    for name, floats in reference.items():
        array = result.get(name)
        if array is None or array.shape != floats.shape:
            given = "is missing" if array is None else f"has shape {list(array.shape)}"
            raise VitError(f"output '{name}' {given}; the float model gives {list(floats.shape)}")
        found[name] = {
            "sqnr_db": sqnr_db(floats, array),
            "max_abs_error": float(np.abs(floats - array).max()) if floats.size else 0.0,
        }
        if floats.ndim == 2 and floats.shape[-1] > 1:
            agreement = floats.argmax(axis=-1) == array.argmax(axis=-1)
            found[name]["top1_agreement"] = float(agreement.mean())
    return found
