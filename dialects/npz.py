"""Reading .npz files that users give."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name.

    Raises VitError if the file is missing, no .npz (a single .npy under that name, for one),
    damaged, or holds pickled objects, which are never loaded.
    """
    import zipfile
    import zlib

    import numpy as np

    if path.is_file() and not zipfile.is_zipfile(path):
        raise VitError(f"{path}: cannot be read as .npz: not a zip archive, or a truncated one")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except MemoryError as error:
        raise VitError(f"{path}: cannot be read as .npz: an array is too large") from error
    except OSError as error:
        raise VitError(f"{path}: cannot be read as .npz: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise VitError(f"{path}: cannot be read as .npz: {error}") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of what it does not know
            raise VitError(f"{path}: cannot be read as .npz: {name} is no array")
    return found
