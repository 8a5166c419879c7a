"""Reading the golden vectors of `test/vectors` (what they hold: INDEX.md there)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

VECTORS = Path(__file__).parent / "vectors"

I8 = (-128, 127)
I16 = (-32768, 32767)
U8 = (0, 255)


class Golden:
    """One .npz file: integers widened to int64, scalars through `number` and `real`."""

    def __init__(self, name: str) -> None:
        with np.load(VECTORS / f"{name}.npz") as data:
            self.arrays = {key: data[key] for key in data.files}

    def __getitem__(self, key: str) -> npt.NDArray[np.generic]:
        array = self.arrays[key]
        return array.astype(np.int64) if array.dtype.kind == "i" else array

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def number(self, key: str) -> int:
        """An integer scalar."""
        return int(self.arrays[key].reshape(-1)[0])

    def real(self, key: str) -> float:
        """A real scalar."""
        return float(self.arrays[key].reshape(-1)[0])

    def cases(self, separator: str = "/") -> list[str]:
        """What stands before the separator in the keys, in order, each once."""
        return list(dict.fromkeys(k.split(separator)[0] for k in self.arrays if separator in k))

    def stems(self, suffix: str) -> Iterator[str]:
        """Keys that end with ``suffix``, without it."""
        return (key.removesuffix(suffix) for key in self.arrays if key.endswith(suffix))


def assert_equal(actual: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> None:
    """Equality of shape and every element; the message counts the differences."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    different = int((actual != expected).sum())
    assert different == 0, f"{different} of {expected.size} elements differ"
