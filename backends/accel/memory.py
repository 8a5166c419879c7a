"""The emulator's memories: byte arrays in which every access is checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Addr, Space

_NUMPY: dict[DType, np.dtype[Any]] = {
    DType.I4: np.dtype(np.int8),
    DType.I8: np.dtype(np.int8),
    DType.UI8: np.dtype(np.uint8),
    DType.I16: np.dtype("<i2"),
    DType.UI16: np.dtype("<u2"),
    DType.I32: np.dtype("<i4"),
    DType.UI32: np.dtype("<u4"),
    DType.I64: np.dtype("<i8"),
    DType.I4X2: np.dtype(np.uint8),
    DType.LOG2: np.dtype(np.uint8),
}

MAX_ELEMENTS = 1 << 24
"""Elements that one access may touch; more is a damaged program."""


class AccessError(VitError):
    """An access outside a memory, or one too large to be meant."""


def numpy_dtype(dtype: DType) -> np.dtype[Any]:
    """The numpy type of an element in memory."""
    return _NUMPY[dtype]


def unpack_int4(packed: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """`count` two's complement nibbles along the last axis, low nibble first."""
    low = (packed & 15).astype(np.int8)
    high = (packed >> 4).astype(np.int8)
    pairs = np.stack((low, high), axis=-1).reshape(*packed.shape[:-1], 2 * packed.shape[-1])
    return ((pairs ^ 8) - 8)[..., :count]


def pack_int4(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Two codes -8..7 a byte along the last axis, low nibble first, rows padded to a byte."""
    if values.shape[-1] % 2:
        pad = [(0, 0)] * (values.ndim - 1) + [(0, 1)]
        values = np.pad(values, pad)
    nibbles = values.astype(np.uint8) & 15
    return np.asarray(nibbles[..., 0::2] | nibbles[..., 1::2] << 4, np.uint8)


class Memories:
    """DRAM and the on-chip memories of an architecture."""

    def __init__(self, arch: AccelTarget, dram_size: int):
        names = {space.name.lower(): space for space in Space}
        self.bytes: dict[Space, NDArray[np.uint8]] = {
            names[memory.name]: np.zeros(memory.size, np.uint8) for memory in arch.memories
        }
        try:
            self.bytes[Space.DRAM] = np.zeros(dram_size, np.uint8)
        except MemoryError:
            raise AccessError(
                f"the program asks for {dram_size} bytes of DRAM, which this host does not have"
            ) from None

    def check(
        self, addr: Addr, dtype: DType, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> NDArray[np.uint8]:
        """The memory that a strided view of elements is in; AccessError if any lies outside it."""
        memory = self.bytes.get(addr.space)
        if memory is None:
            raise AccessError(f"the machine has no memory {addr.space.name.lower()}")
        count, last = 1, addr.offset + _NUMPY[dtype].itemsize
        for size, stride in zip(shape, strides, strict=True):
            count *= size
            last += (size - 1) * stride
        if count == 0:
            sizes = " x ".join(map(str, shape))
            raise AccessError(f"an empty operand of {sizes} elements at {addr}")
        name = addr.space.name.lower()
        if addr.offset < 0 or last > memory.size:
            raise AccessError(
                f"{name}[{addr.offset:#x}..{last:#x}] leaves the {memory.size} bytes of {name}"
            )
        if count > MAX_ELEMENTS:
            raise AccessError(f"an operand of {count} elements at {addr}")
        return memory

    def view(
        self, addr: Addr, dtype: DType, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> NDArray[Any]:
        """A strided view of elements at a resolved address; AccessError if any lies outside."""
        memory = self.check(addr, dtype, shape, strides)
        return np.ndarray(shape, _NUMPY[dtype], memory.data, addr.offset, strides)
