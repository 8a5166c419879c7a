"""Second moments of the windows of convolutions: what error-compensated rounding knows of them.

A convolution is a linear layer on its windows (im2col).  Its weight [N, K], with K ordered as
[kh, kw, channels of a group], falls into *parts* that share no feature: the groups of a grouped or
depthwise convolution, and the *phases* of a transposed one with stride s, as output pixels of one
phase (position modulo s) see only every s-th tap.  Each part has moments of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vit_opt.passes.algorithms.rounding import Int64, Part, RealInput, Reals, SecondMoments

LARGEST_WINDOW = 2400
"""Features of a part up to which its moments are gathered."""

MOST_NUMBERS = LARGEST_WINDOW**2
"""Numbers that the moments of all groups of a convolution may take together."""

MOST_WINDOWS = 4096
"""Windows looked at in one image: of larger ones every n-th row and column."""

Taps: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """Where a convolution reads along one axis of an image."""

    size: int
    """Pixels of the input."""

    outputs: int
    kernel: int
    stride: int = 1
    pad: int = 0
    """Before the first pixel."""

    dilation: int = 1
    transposed: bool = False

    def phases(self) -> Iterator[tuple[Taps, Taps, Taps]]:
        """For each phase: its outputs, the pixels each reads [outputs, taps], and by which taps.

        Pixels may lie outside the image, where there are zeros.
        """
        outputs = np.arange(self.outputs)
        if not self.transposed:
            taps = np.arange(self.kernel)
            yield outputs, outputs[:, None] * self.stride - self.pad + taps * self.dilation, taps
            return
        for phase in range(min(self.stride, self.kernel)):
            mine = outputs[(outputs + self.pad) % self.stride == phase]
            taps = np.arange(phase, self.kernel, self.stride)
            yield mine, (mine[:, None] + self.pad - taps) // self.stride, taps


class WindowMoments:
    """Running second moments of a convolution's windows, part by part.

    ``axes`` are rows and columns, ``channels`` those of the input, in ``groups`` (1 where the
    convolution is transposed).
    """

    def __init__(self, axes: tuple[Axis, Axis], channels: int, groups: int = 1):
        self.axes, self.channels, self.groups = axes, channels, groups
        self._phases: list[tuple[Taps, Taps, Int64]] = []
        self._outputs: list[tuple[Taps, Taps]] = []
        self._pads = _border(axes[0]), _border(axes[1])
        depth = channels // groups
        for below, rows, row_taps in axes[0].phases():
            for beside, columns, column_taps in axes[1].phases():
                taps = (row_taps[:, None] * axes[1].kernel + column_taps).reshape(-1, 1)
                features = (taps * depth + np.arange(depth)).reshape(-1)
                above, before = self._pads[0][0], self._pads[1][0]
                phase = _thinned(rows + above), _thinned(columns + before), features
                self._phases.append(phase)
                self._outputs.append((_thinned(below), _thinned(beside)))
        sizes = [len(features) for *_, features in self._phases]
        self.moments = [SecondMoments(size) for size in sizes] if groups == 1 else []
        """Of each phase, of a convolution without groups."""
        self.of_groups = np.zeros((groups, sizes[0], sizes[0]) if groups > 1 else (0, 0, 0))
        """Of each group [G, K, K], else."""

    @staticmethod
    def fit(axes: tuple[Axis, Axis], channels: int, groups: int) -> bool:
        """Whether the moments of such a convolution are within the limits."""
        taps = [max(len(taps) for *_, taps in axis.phases()) for axis in axes]
        size = taps[0] * taps[1] * (channels // groups)
        return size <= LARGEST_WINDOW and groups * size**2 <= MOST_NUMBERS

    def update(self, x: RealInput) -> None:
        """Add an input [B, H, W, C] of float32 or float64, always the same."""
        for index, (windows, features) in enumerate(self._windows(x)):
            if self.groups == 1:
                self.moments[index].update(windows.reshape(-1, len(features)))
                continue
            parted = windows.reshape(
                -1, windows.shape[3] * windows.shape[4], self.groups, x.shape[-1] // self.groups
            )
            each = np.ascontiguousarray(parted.transpose(2, 1, 3, 0)).reshape(
                self.groups, len(features), -1
            )
            self.of_groups += each @ each.transpose(0, 2, 1)

    def _windows(self, x: RealInput) -> Iterator[tuple[RealInput, Int64]]:
        """For each phase its windows [B, rows, columns, kh, kw, C], and which features these are."""
        padded = np.pad(x, ((0, 0), *self._pads, (0, 0)))
        for rows, columns, features in self._phases:
            yield padded[:, rows[:, None, :, None], columns[None, :, None, :]], features

    @property
    def features(self) -> list[Int64]:
        """The features of each phase."""
        return [features for *_, features in self._phases]

    def rows(self, x: RealInput, y: RealInput) -> Iterator[tuple[RealInput, RealInput]]:
        """For each phase its windows [R, K] of x [B, H, W, C], and the outputs y that they give.

        The convolution has one group; y is [B, OH, OW, N], what is given for it is [R, N].
        """
        pairs = zip(self._windows(x), self._outputs, strict=True)
        for (windows, features), (rows, columns) in pairs:
            outputs = y[:, rows[:, None], columns[None, :]]
            yield windows.reshape(-1, len(features)), outputs.reshape(-1, y.shape[-1])

    def divide(self, factor: Reals) -> None:
        """As if each input channel had been divided by its entry of ``factor`` [C]."""
        by_group = factor.reshape(self.groups, -1)
        if self.groups == 1:
            for moments, (*_, features) in zip(self.moments, self._phases, strict=True):
                moments.divide(factor[features % self.channels])
        else:
            repeated = np.tile(by_group, (1, self.of_groups.shape[1] // by_group.shape[1]))
            self.of_groups /= repeated[:, :, None] * repeated[:, None, :]

    def parts(self, rows: int) -> list[Part]:
        """The parts of a weight of this many rows, ready for rounding."""
        if self.groups == 1:
            return [
                Part(np.arange(rows), features, moments.matrix())
                for moments, (*_, features) in zip(self.moments, self._phases, strict=True)
            ]
        each = np.arange(rows // self.groups)
        return [
            Part(each + g * len(each), self._phases[0][2], matrix)
            for g, matrix in enumerate(self.of_groups)
        ]


def unfold(
    x: RealInput,
    kernel: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
) -> RealInput:
    """The windows of a convolution: x [B, H, W, C] -> [B, OH, OW, kh * kw * C].

    The last axis is ordered as an OHWI weight reshaped to [O, kh * kw * C], so that a convolution is
    a linear layer on the result.  ``pads`` is (top, left, bottom, right), filled with zeros.
    """
    top, left, bottom, right = pads
    image = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(image, span, axis=(1, 2))
    picked = windows[
        :, :: strides[0], :: strides[1], :, :: dilations[0], :: dilations[1]
    ]  # [B, OH, OW, C, kh, kw]
    batch, height, width = picked.shape[:3]
    return np.ascontiguousarray(np.moveaxis(picked, 3, 5)).reshape(batch, height, width, -1)


def _border(axis: Axis) -> tuple[int, int]:
    """Zeros that a convolution reads before and behind an image."""
    pixels = [read for _, read, _ in axis.phases() if read.size]
    low = min((int(read.min()) for read in pixels), default=0)
    high = max((int(read.max()) for read in pixels), default=0)
    return max(0, -low), max(0, high + 1 - axis.size)


def _thinned(pixels: Taps) -> Taps:
    """Every n-th output along an axis, so that both axes keep `MOST_WINDOWS` together."""
    limit = int(MOST_WINDOWS**0.5)
    return pixels[:: max(1, -(-len(pixels) // limit))]


__all__: Sequence[str] = ["Axis", "Part", "WindowMoments"]
