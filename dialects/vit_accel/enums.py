"""Enumerations of the instruction set: engines, element types, roundings, array mappings."""

from enum import IntEnum


class Engine(IntEnum):
    """The engines; each has its own in-order instruction queue."""

    LD = 0
    ST = 1
    MAC = 2
    DW = 3
    SHIFT = 4
    SOFTMAX = 5
    NORM = 6
    TABLE = 7


class DType(IntEnum):
    """Element types in memory.

    `i4` is one element a byte with the range of four bits; `i4x2` two elements a byte, low nibble
    first; `log2` a code c that stands for 2^(14-c), or 0 for c = 15.
    """

    I4 = 0
    I8 = 1
    UI8 = 2
    I16 = 3
    UI16 = 4
    I32 = 5
    UI32 = 6
    I64 = 7
    I4X2 = 8
    LOG2 = 9

    @property
    def size(self) -> int:
        """Bytes of an element (an `i4x2` pair is one byte)."""
        return _SIZES[self]

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest code."""
        if self is DType.LOG2:
            return 0, 15
        bits = 4 if self in (DType.I4, DType.I4X2) else 8 * self.size
        if self.name.startswith("U"):
            return 0, (1 << bits) - 1
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


_SIZES = {
    DType.I4: 1,
    DType.I8: 1,
    DType.UI8: 1,
    DType.I16: 2,
    DType.UI16: 2,
    DType.I32: 4,
    DType.UI32: 4,
    DType.I64: 8,
    DType.I4X2: 1,
    DType.LOG2: 1,
}


class Rounding(IntEnum):
    """Roundings of a right shift: half up, half to even, towards minus infinity."""

    RHU = 0
    RHE = 1
    FLOOR = 2


class MacMap(IntEnum):
    """Axes on the MAC array: the first letter on the lanes, the second on a lane's multipliers.

    m: rows of the result, n: columns of the result, k: reduction; the third axis runs in time.
    """

    NM = 0
    MN = 1
    NK = 2
    MK = 3
    KN = 4
    KM = 5


class PoolMode(IntEnum):
    """What a pooling window computes."""

    MAX = 0
    SUM = 1


class DivMode(IntEnum):
    """Divisor of a normalisation: 16-bit reciprocal, or nearest power of two."""

    RECIP = 0
    POT = 1


class Flag(IntEnum):
    """A switch."""

    OFF = 0
    ON = 1
