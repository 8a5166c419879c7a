"""Models to measure: ONNX files, or architectures by name from the builders of a checkout.

The builders are torch modules with seeded weights in `test/models` of the source tree. They are not
installed with the package, so names work in a checkout with torch alone.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vit_opt.frontends.calibration_data import ModelInput

    Batch: TypeAlias = dict[str, NDArray[Any]]
    Shapes: TypeAlias = Mapping[str, Sequence[int]]

FAMILIES: Mapping[str, str] = {
    "deit": "vit",
    "vit": "vit",
    "swin": "swin",
    "efficientvit": "efficientvit",
    "cct": "cct",
    "tiny": "tinyvit",
    "dense": "dense",
}
"""Module in `test/models` that builds the names with this first word."""

BUILDERS = (
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swin_small_patch4_window7_224",
    "efficientvit_b0",
    "efficientvit_b1",
    "efficientvit_b2",
    "cct_7_3x1_32",
    "cct_14_7x2_224",
    "tiny_vit_5m_224",
    "dense_vit",
)
"""Names that `vit-bench models --builders` stands for."""

OPSET = 17


@dataclass(frozen=True)
class Source:
    """A model to measure."""

    name: str
    path: Path | None
    """Its ONNX file; None for the name of a builder."""

    def export(self, folder: Path, batch: int, shapes: Shapes) -> tuple[Path, int]:
        """An ONNX file with static shapes in `folder`, and the batch it takes.

        Builders are exported with this batch. A file with an open batch gets it; one with a fixed
        batch stays as it is. Raises VitError if a file has other open dimensions than the batch
        and `shapes` (by input name, with batch 1) does not give them.
        """
        target = folder / f"{self.name}-{batch}.onnx"
        if self.path is None:
            return _build(self.name, target, batch), batch
        return with_batch(self.path, target, batch, shapes)


def find_source(text: str) -> Source:
    """The model that a command line names; raises VitError if there is none.

    A builder's name may be followed by its options: `deit_tiny_patch16_224,pool=avg,registers=4`.
    """
    path = Path(text)
    if path.suffix == ".onnx":
        if not path.exists():
            raise VitError(f"{path}: no such file")
        plain = path.resolve().parent.name if path.stem == "model" else path.stem
        return Source(plain, path)
    if text.split("_")[0] not in FAMILIES:
        raise VitError(f"{text}: neither an .onnx file nor a builder such as {BUILDERS[0]}")
    require_builders()
    return Source(text, None)


def _test_folder() -> Path:
    return Path(__file__).resolve().parents[2] / "test"


def require_builders() -> None:
    """Raise VitError unless this is a checkout, and torch is installed."""
    if not (_test_folder() / "models" / "export.py").exists():
        raise VitError("the builders are part of the source tree: run this from a checkout")
    if importlib.util.find_spec("torch") is None:
        raise VitError("the builders need torch: pip install 'vit-opt[test]'")


def _build(name: str, target: Path, batch: int) -> Path:
    """Export a builder's model with a fixed batch."""
    require_builders()
    folder = str(_test_folder())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    family: Any = importlib.import_module(f"models.{FAMILIES[name.split('_')[0]]}")
    variant, *options = re.split(r",(?=\w+=)", name)
    fields = dict(_option(text) for text in options)
    try:
        model = family.create(*[] if variant == "dense_vit" else [variant], **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise VitError(f"{name}: the builders do not know this variant: {error}") from error
    torch: Any = importlib.import_module("torch")
    export: Any = importlib.import_module("models.export")
    size = model.config.image_size
    image = torch.zeros(batch, model.config.in_channels, size, size)
    export.export_onnx(model, target, OPSET, inputs=[image])
    return target


def _option(text: str) -> tuple[str, Any]:
    """`pool=avg` or `layer_scale=0.1` as the name and the value of a builder's option."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def with_batch(path: Path, target: Path, batch: int, shapes: Shapes) -> tuple[Path, int]:
    """A copy of an ONNX file with its open dimensions fixed, or the file itself if it has none.

    Returns the file and the batch it takes.
    """
    model = _load(path)
    sizes: dict[str, int] = {}
    for entry in _true_inputs(model):
        given = shapes.get(entry.name)
        for axis, dim in enumerate(entry.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                continue
            if axis > 0 and given is None:
                raise VitError(f"{path}: input '{entry.name}' has open dimensions: give --shape")
            sizes[dim.dim_param] = batch if axis == 0 or given is None else given[axis]
            dim.dim_value = sizes[dim.dim_param]
    if not sizes:
        fixed = {entry.type.tensor_type.shape.dim[0].dim_value for entry in _true_inputs(model)}
        return path, min(fixed)
    del model.graph.value_info[:]
    for entry in model.graph.output:
        for dim in entry.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    _save(model, target)
    return target, batch


def model_inputs(path: Path) -> tuple[ModelInput, ...]:
    """Names, shapes and dtypes of the inputs of an ONNX file with static shapes."""
    import onnx

    from vit_opt.frontends.calibration_data import ModelInput

    found: list[ModelInput] = []
    for entry in _true_inputs(_load(path)):
        tensor = entry.type.tensor_type
        shape = tuple(int(dim.dim_value) for dim in tensor.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        found.append(ModelInput(entry.name, shape, dtype))
    return tuple(found)


def feeds(path: Path, calib: Path | None, preprocess: str | None, count: int = 8) -> list[Batch]:
    """Inputs of an ONNX file with static shapes, from calibration data or synthetic ones.

    The data hold single inputs; the first `count` of them are put together to as many batches as
    the model takes, in turn from the start again where the last batch is not full.
    """
    from dataclasses import replace
    from itertools import cycle, islice

    import numpy as np

    from vit_opt.frontends.calibration_data import read_calibration_data, synthetic_batches

    inputs = model_inputs(path)
    batch = inputs[0].shape[0]
    single = tuple(replace(each, shape=(1, *each.shape[1:])) for each in inputs)
    if calib is None:
        singles = synthetic_batches(single, count=count)
    else:
        singles = list(islice(read_calibration_data(calib, single, preprocess), count))
    source = cycle(singles)
    groups = [list(islice(source, batch)) for _ in range(-(-len(singles) // batch))]
    names = [each.name for each in inputs]
    return [
        {name: np.concatenate([each[name] for each in group]) for name in names} for group in groups
    ]


def _true_inputs(model: Any) -> list[Any]:
    """Inputs that are not weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [entry for entry in model.graph.input if entry.name not in weights]


def _load(path: Path) -> Any:
    from google.protobuf.message import DecodeError

    onnx: Any = importlib.import_module("onnx")
    try:
        return onnx.load(str(path))
    except DecodeError as error:
        raise VitError(f"{path}: not an ONNX model") from error


def _save(model: Any, target: Path) -> None:
    onnx: Any = importlib.import_module("onnx")
    large = model.ByteSize() > 2_000_000_000
    onnx.save(model, str(target), save_as_external_data=large)
