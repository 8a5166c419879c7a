"""Import, calibration data and pipelines: the steps that the commands share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass, PassPipeline

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.passes import get_all_passes
from vit_opt.passes.pipelines import passes_of, remaining
from vit_opt.tools.recipe import IMAGES
from vit_opt.tools.weights import release_weights, return_memory

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Shapes: TypeAlias = Mapping[str, Sequence[int]]


def new_context() -> VitContext:
    """A context that knows all dialects and has an empty asset store."""
    from xdsl.universe import Universe

    from vit_opt.dialects.onnx import Onnx

    context = VitContext()
    for name, factory in Universe.get_multiverse().all_dialects.items():
        context.register_dialect(name, factory)
    context.register_dialect("onnx", lambda: Onnx)
    return context


def import_onnx(
    source: str | Path | bytes | onnx.ModelProto,
    *,
    shapes: Shapes | None = None,
    context: VitContext,
) -> ModuleOp:
    """An ONNX model, from a file, its bytes or in memory, as a module of the `onnx` dialect."""
    from vit_opt.frontends.onnx_import import import_onnx as import_model

    if isinstance(source, bytes):
        source = _model_of(source)
    return import_model(source, shapes=shapes, context=context)


def _model_of(data: bytes) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        raise VitError("standard input: not an ONNX model") from error


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`--shape` options, `NAME=1x3x224x224` each, as shapes by input name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        parts = sizes.split("x")
        if not name or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise VitError(f"--shape {text}: expected NAME=1x3x224x224")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


RELEASE_GROWTH = 1.2
"""Growth of the asset store from which on a pipeline looks for weights that are no longer used."""


def releaser(context: VitContext) -> Callable[[ModuleOp], None]:
    """What to call after each pass on a module, the only one that needs the weights in a context:
    those that passes have replaced are forgotten once they are many."""
    kept = context.assets.nbytes

    def release(module: ModuleOp) -> None:
        nonlocal kept
        if context.assets.nbytes > RELEASE_GROWTH * kept:
            release_weights(module, context.assets)
            kept = context.assets.nbytes
        return_memory()

    return release


def run_pipeline(
    module: ModuleOp,
    context: VitContext,
    passes: str | Sequence[ModulePass],
    say: Callable[[str], None] = lambda _: None,
    *,
    release: bool = False,
) -> None:
    """Run passes, given as in `-p` or as instances, and verify the module after each.

    `say` is called with the name of every pass before it runs. `release` says that no other module
    needs the weights in the context: those that passes replace are forgotten.
    """
    if isinstance(passes, str):
        try:
            passes = PassPipeline.parse_spec(get_all_passes(), passes).passes
        except ValueError as error:
            raise VitError(str(error)) from error

    forget = releaser(context)

    def callback(_: ModulePass | None, module: ModuleOp, following: ModulePass | None) -> None:
        module.verify()
        if release:
            forget(module)
        if following is not None:
            say(following.name)

    PassPipeline(tuple(passes), callback).apply(context, module)


SYNTHETIC = (
    "no calibration data (--calib): calibrating on synthetic images; expect a loss of accuracy"
)

SYNTHETIC_REST = (
    "no calibration data (--calib): values for which the model brings no scale are calibrated on "
    "synthetic images"
)


def provide_batches(
    module: ModuleOp,
    context: VitContext,
    data: str | Path | None,
    preprocess: str | None = None,
    count: int = IMAGES,
    seed: int = 0,
) -> str | None:
    """Put calibration inputs into the store; returns the warning if they are synthetic, or constant.

    `data` is a file or folder as in `vit_opt.frontends.calibration_data`, of which `count` inputs
    are taken; without it, images come from a generator with this seed. Inputs that a caller has put
    into the store stay.
    """
    from vit_opt.frontends.calibration_data import (
        model_inputs,
        read_calibration_data,
        synthetic_batches,
    )

    inputs = model_inputs(module)
    if data is not None:
        batches = read_calibration_data(data, inputs, preprocess)
        context.assets.batches = list(islice(batches, count))
        return constant_inputs(context.assets.batches)
    if context.assets.batches:
        return None
    context.assets.batches = synthetic_batches(inputs, seed)
    has_scales = any(op.name == "onnx.QuantizeLinear" for op in module.walk())
    return SYNTHETIC_REST if has_scales else SYNTHETIC


def constant_inputs(batches: Sequence[Mapping[str, Array]]) -> str | None:
    """The warning if inputs have one value only, or one a channel, as black images do."""
    found = Counter(name for batch in batches for name, array in batch.items() if _is_flat(array))
    if not found:
        return None
    said = ", ".join(f"'{name}' in {count} of {len(batches)}" for name, count in found.items())
    return f"calibration data: nothing but one value a channel, {said}; check them, ranges come from them"


def _is_flat(array: Array) -> bool:
    """Whether an input is constant along the axes of its image, NCHW or NHWC, or its last two."""
    import numpy as np

    axes = tuple(range(array.ndim))
    planes = (axes[-2:], axes[1:3]) if array.ndim == 4 else (axes[-2:],)
    return array.dtype.kind == "f" and any(
        math.prod(array.shape[axis] for axis in plane) > 1 and not np.ptp(array, axis=plane).any()
        for plane in planes
    )


def calibrate(
    module: ModuleOp,
    context: VitContext,
    data: Path | Sequence[Mapping[str, Array]] | None = None,
    preprocess: str | None = None,
) -> str | None:
    """Raise an imported module and record its ranges on calibration data.

    `data` is a file or folder, or batches of arrays by input name; None takes synthetic images and
    returns the warning to show.
    """
    if data is None or isinstance(data, Path):
        note = provide_batches(module, context, data, preprocess)
    else:
        context.assets.batches = [dict(batch) for batch in data]
        note = constant_inputs(context.assets.batches)
    run_pipeline(module, context, passes_of((*remaining(module, "calibrate"), "calibrate")))
    return note
