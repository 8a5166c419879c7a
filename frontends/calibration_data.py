"""Calibration data: model inputs from files, one at a time, or seeded synthetic ones.

Data may be

* an .npz file with one array per input, under the input's name;
* a folder of .npy files: any number of them for a model with one input, else one per input,
  named after it; a single .npy file for a model with one input;
* a folder of images, or one image, with a preprocessing (see `images.py`).

Arrays hold real values and carry a leading batch dimension of any size, which is split: every
batch that is yielded has the shapes of the model's inputs, with batch 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Attribute
from xdsl.utils.hints import isa

from vit_opt.dialects.assets import dtype_of
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import input_names, main_function, value_names
from vit_opt.dialects.npz import read_npz
from vit_opt.frontends.images import SUFFIXES, parse_preprocess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Batch: TypeAlias = dict[str, Array]


@dataclass(frozen=True)
class ModelInput:
    """Name, static shape (batch 1 first) and dtype of an input."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    integers: bool = False
    """Whether it takes integers as well, as their real values."""


def model_inputs(module: ModuleOp) -> tuple[ModelInput, ...]:
    """The inputs of a module's @main; raises VitError for one that is not a plain tensor."""
    func = main_function(module)
    integers = value_names(func, "vit.integer_inputs", 0, "")
    result: list[ModelInput] = []
    for name, type_ in zip(input_names(func), func.function_type.inputs, strict=True):
        if not isa(type_, TensorType[Attribute]):
            raise VitError(f"input {name} has type {type_}, expected a tensor")
        dtype = dtype_of(type_.get_element_type())
        result.append(ModelInput(name, type_.get_shape(), dtype, name in integers))
    return tuple(result)


def read_calibration_data(
    path: str | Path, inputs: Sequence[ModelInput], preprocess: str | None = None
) -> Iterator[Batch]:
    """Yield batches of one from a file or folder; see the module docstring.

    Raises VitError, naming file and array, if the path is missing, unreadable or holds no data, or
    if names, shapes, dtypes or values (NaN, infinity) are wrong.
    """
    path = Path(path)
    if not path.exists():
        raise VitError(f"{path}: no such file or folder")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    arrays = [file for file in files if file.suffix.lower() == ".npy"]
    if preprocess is not None and not images:
        raise VitError(f"{path}: --preprocess is for images, and here is none")
    if path.suffix == ".npz" and path.is_file():
        batches = _from_npz(path, inputs)
    elif arrays:
        batches = _from_npy(arrays, inputs)
    elif images:
        batches = _from_images(images, inputs, preprocess)
    else:
        raise VitError(f"{path}: no calibration data; expected .npz, .npy files or images")
    count = 0
    for count, batch in enumerate(batches, 1):  # noqa: B007
        yield batch
    if count == 0:
        raise VitError(f"{path}: the calibration data is empty")


def _from_npz(path: Path, inputs: Sequence[ModelInput]) -> Iterator[Batch]:
    arrays = read_npz(path)
    yield from split_batches(arrays, inputs, str(path))


def _from_npy(files: Sequence[Path], inputs: Sequence[ModelInput]) -> Iterator[Batch]:
    if len(inputs) == 1:
        for file in files:
            yield from split_batches({inputs[0].name: _load(file)}, inputs, str(file))
        return
    arrays = {file.stem: _load(file) for file in files}
    yield from split_batches(arrays, inputs, str(files[0].parent))


def _load(file: Path) -> Array:
    """The array of an .npy file; never one of pickled objects."""
    import numpy as np
    from numpy.lib import format as npy

    try:
        with file.open("rb") as stream:
            if stream.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
                raise VitError(f"{file}: not an .npy file")
            stream.seek(0)
            return np.load(stream, allow_pickle=False)
    except OSError as error:
        raise VitError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError, TypeError) as error:
        objects = "allow_pickle" in str(error)
        reason = "it holds objects, no numbers" if objects else "the file is damaged or truncated"
        raise VitError(f"{file}: cannot be read as .npy: {reason}") from error


def split_batches(
    arrays: Mapping[str, Array], inputs: Sequence[ModelInput], where: str
) -> Iterator[Batch]:
    """Check arrays by input name against the inputs and split their leading batch.

    `where` names the source in messages. Raises VitError as `read_calibration_data` does.
    """
    names = [each.name for each in inputs]
    missing = [name for name in names if name not in arrays]
    unknown = [name for name in arrays if name not in names]
    if missing or unknown:
        raise VitError(
            f"{where}: holds arrays {', '.join(arrays) or 'none'}, but the inputs of the model are "
            f"{', '.join(names)}"
        )
    checked = {each.name: _checked(arrays[each.name], each, where) for each in inputs}
    counts = {name: array.shape[0] for name, array in checked.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise VitError(f"{where}: the batch sizes of the inputs differ: {text}")
    for index in range(next(iter(counts.values()), 0)):
        yield {name: array[index : index + 1] for name, array in checked.items()}


def _checked(array: Array, wanted: ModelInput, where: str) -> Array:
    import numpy as np

    label = f"{where}: array {wanted.name}"
    if array.ndim != len(wanted.shape) or array.shape[1:] != wanted.shape[1:]:
        shape = ["N", *wanted.shape[1:]]
        text = ", ".join(map(str, shape))
        raise VitError(f"{label} has shape {list(array.shape)}, the model takes [{text}]")
    if array.dtype.kind != wanted.dtype.kind and not (wanted.integers and array.dtype.kind in "iu"):
        raise VitError(
            f"{label} has dtype {array.dtype}, the model takes {wanted.dtype}; convert it first"
        )
    with np.errstate(over="ignore"):
        converted = array.astype(wanted.dtype, copy=False)
    if array.dtype.kind == "f" and not np.isfinite(converted).all():
        raise VitError(f"{label} contains NaN, infinity, or values too large for {wanted.dtype}")
    return converted


def _from_images(
    files: Sequence[Path], inputs: Sequence[ModelInput], preprocess: str | None
) -> Iterator[Batch]:
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise VitError("images need a model with one input of shape [1, C, H, W]; use .npz")
    if preprocess is None:
        raise VitError(f"{files[0].parent}: images need --preprocess, for example imagenet")
    wanted, steps = inputs[0], parse_preprocess(preprocess)
    for file in files:
        array = steps.array(file, wanted.shape[1])
        if array.shape != wanted.shape:
            raise VitError(
                f"{file}: preprocess '{preprocess}' gives {list(array.shape)}, the model takes "
                f"{list(wanted.shape)}; set crop or resize"
            )
        yield {wanted.name: array}


def synthetic_batches(inputs: Sequence[ModelInput], seed: int = 0, count: int = 8) -> list[Batch]:
    """Reproducible random inputs: images of soft blotches with noise, of mean 0 and deviation 1.

    Inputs that are not [1, C, H, W] get normal random numbers, integer inputs 0..127 (as bytes may
    have a sign).
    """
    import numpy as np

    random = np.random.default_rng(seed)
    return [{each.name: _synthetic(each, random) for each in inputs} for _ in range(count)]


def _synthetic(wanted: ModelInput, random: np.random.Generator) -> Array:
    import numpy as np

    if wanted.dtype.kind != "f" or wanted.integers:
        return random.integers(0, 128, wanted.shape).astype(wanted.dtype)
    values = random.standard_normal(wanted.shape)
    if len(wanted.shape) == 4:
        _, channels, height, width = wanted.shape
        for blocks in (2, 4, 8, 16):
            coarse = random.standard_normal((channels, blocks, blocks))
            rows = np.arange(height) * blocks // height
            columns = np.arange(width) * blocks // width
            values[0] += 2.0 * coarse[:, rows][:, :, columns]
    return ((values - values.mean()) / max(float(values.std()), 1e-6)).astype(wanted.dtype)
