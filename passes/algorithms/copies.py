"""Altered copies of images: mirrored, or a corner enlarged to the whole.

They show a network values that its calibration images do not, at the cost of no further image.  Only
images, float arrays of shape [1, C, H, W], are altered.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Copy: TypeAlias = Callable[[Array], Array]

CORNERS = ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0))
"""Where enlarged parts of an image lie: the share of the room above and to the left."""

CROP = 0.6
"""Height and width of an enlarged part, as a share of the image's."""


def is_image(array: Array) -> bool:
    """Whether there are altered copies of an input: a float array [1, C, H, W]."""
    return array.ndim == 4 and array.dtype.kind == "f"


def flipped(axes: tuple[int, ...], array: Array) -> Array:
    """The image mirrored along some axes."""
    if not axes or not is_image(array):
        return array
    return np.ascontiguousarray(np.flip(array, axes))


def cropped(corner: tuple[float, float], array: Array, share: float = CROP) -> Array:
    """A share of the image, enlarged to its size by linear interpolation between pixels."""
    if not is_image(array):
        return array
    for axis, place in zip((2, 3), corner, strict=True):
        size = array.shape[axis]
        span = max(1.0, size * share) - 1
        points = place * (size - 1 - span) + np.linspace(0.0, span, size)
        low = np.minimum(points.astype(np.int64), max(0, size - 2))
        weight = np.expand_dims(points - low, tuple(range(1, 4 - axis))).astype(array.dtype)
        near, far = (np.take(array, np.minimum(i, size - 1), axis) for i in (low, low + 1))
        array = near + (far - near) * weight
    return array


def negative(array: Array) -> Array:
    """The image with the largest and the smallest value of each channel swapped, and so on."""
    if not is_image(array):
        return array
    low, high = (end(array, axis=(2, 3), keepdims=True) for end in (np.min, np.max))
    return low + high - array


def tiled(array: Array) -> Array:
    """Four copies of the image, every second pixel each, mirrored so that they meet at their edges."""
    if not is_image(array):
        return array
    rows = np.concatenate([array[:, :, ::2], array[:, :, ::2][:, :, ::-1]], axis=2)
    both = np.concatenate([rows[..., ::2], rows[..., ::2][..., ::-1]], axis=3)
    return np.ascontiguousarray(both[:, :, : array.shape[2], : array.shape[3]])


AUGMENTS: dict[str, list[Copy]] = {
    "none": [partial(flipped, ())],
    "flip": [partial(flipped, axes) for axes in ((), (3,))],
    "flips": [partial(flipped, axes) for axes in ((), (3,), (2,), (2, 3))],
    "crops": [partial(flipped, ()), *(partial(cropped, corner) for corner in CORNERS)],
}
"""What makes the copies of an image, by the name of the choice; the unaltered one first."""

FEW = 7
"""Inputs up to which `few` takes crops."""

HELD_OUT: tuple[Copy, ...] = (
    negative,
    tiled,
    partial(flipped, (3,)),
    partial(cropped, (0.5, 0.5), share=0.35),
)
"""Copies that choices made on the images themselves are tested on, in turn: unlike `crops`."""
