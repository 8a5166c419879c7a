"""Whether a choice made on few inputs can be expected to carry over to others.

A change has to help on the inputs it is made by and on altered copies held out, in the mean over the
inputs of the logarithm of the error, so that no loud input decides alone; and no input may lose much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
    Reals: TypeAlias = NDArray[np.float64]

GAIN = 0.01
"""Least mean gain (in the logarithm of the error) for which a format is changed."""

LOSS = 0.02
"""Most that any batch may lose: a finer grid saturates first on inputs unlike the others."""


def held_out(batches: Sequence[Mapping[str, Array]], count: int) -> list[dict[str, Array]]:
    """Altered copies of batches, one of each in turn; none where nothing is an image."""
    from vit_opt.passes.algorithms.copies import HELD_OUT

    copies: list[dict[str, Array]] = []
    for index in range(min(count, len(batches))):
        alter = HELD_OUT[index % len(HELD_OUT)]
        altered = {name: alter(array) for name, array in batches[index].items()}
        if all(altered[name] is array for name, array in batches[index].items()):
            return []
        copies.append(altered)
    return copies


def better(errors: Reals, best: Reals, seen: int) -> bool:
    """Whether errors [B, ways] are an improvement, on the first `seen` inputs and on the others."""
    return bearable(errors, best) and all(
        bool(_change(errors[part], best[part]).mean() < -GAIN)
        for part in (slice(0, seen), slice(seen, None))
        if best[part].size
    )


def bearable(errors: Reals, best: Reals) -> bool:
    """Whether no input, in no way that it is looked at, loses more than LOSS: any same shape."""
    return bool((_change(errors, best) < LOSS).all())


def _change(errors: Reals, best: Reals) -> Reals:
    """The logarithm of how many times as large errors are."""
    import numpy as np

    tiny = np.finfo(np.float64).tiny
    return np.asarray(np.log(np.maximum(errors, tiny)) - np.log(np.maximum(best, tiny)))


__all__ = ["GAIN", "LOSS", "bearable", "better", "held_out"]
