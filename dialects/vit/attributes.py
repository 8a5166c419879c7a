"""Number formats: how the integers of a `vit` tensor stand for real values.

    !vit.fixed<i8, 5>                    real = int * 2^-5
    !vit.fixed<ui8, 5, zp = 3>           real = (int - 3) * 2^-5
    !vit.fixed<i8, [5, 6, 5], axis = 1>  real = int * 2^-frac[c] along dimension 1
    !vit.scaled<i8, 0.0173, zp = 3>      real = (int - 3) * 0.0173 (before pot-fold)
    !vit.log2                            code c in 0..14 stands for 2^-c, code 15 for zero

The number in `fixed` is always **frac**, the fractional bits; it may be negative (a grid coarser
than one). A fixed format is the special case of a scaled one whose scale is 2^-frac, so everything
that asks for a scale works on both.

Exponents and scales of long channel dimensions are not spelled out in text: above
`PRINT_LIMIT` channels they are written as `[192 x "digest"]` and resolved in the asset store.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.dialects.builtin import BytesAttr, FloatData, IntAttr, IntegerType, NoneAttr, Signedness
from xdsl.ir import Attribute, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.assets import assets_of, digest_of
from vit_opt.dialects.errors import VitError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = "NDArray[np.float64]"
    Ints: TypeAlias = "NDArray[np.int64]"

PRINT_LIMIT = 16
"""Channel vectors of up to this many entries are spelled out in text."""

STORAGE_WIDTHS = {False: (4, 8, 16, 32, 64), True: (8, 16, 32)}
"""Widths of the storage types, by unsignedness."""

ZERO_POINT_WIDTH = 16
"""Widest storage that may have a zero point."""

FRAC_LIMIT = 126
"""Largest magnitude of frac: scales stay normal in single precision."""


def storage_of(name: str) -> IntegerType:
    """The storage type of a name such as `i8` or `ui16`."""
    unsigned = name.startswith("u")
    width = int(name.lstrip("ui"))
    return IntegerType(width, Signedness.UNSIGNED if unsigned else Signedness.SIGNLESS)


def is_unsigned(storage: IntegerType) -> bool:
    """Whether a storage type is unsigned (a signless builtin integer counts as signed)."""
    return storage.signedness.data == Signedness.UNSIGNED


def storage_range(storage: IntegerType) -> tuple[int, int]:
    """Smallest and largest code of a storage type."""
    width = storage.width.data
    if is_unsigned(storage):
        return 0, (1 << width) - 1
    return -(1 << (width - 1)), (1 << (width - 1)) - 1


@dataclass(frozen=True, init=False)
class QuantizedType(ParametrizedAttribute, TypeAttribute):
    """What `!vit.fixed` and `!vit.scaled` share: storage, zero point and channel axis.

    A dataclass, since the equality of a subclass covers only the fields of dataclasses.
    """

    storage: IntegerType
    zp: IntAttr
    axis: IntAttr | NoneAttr

    @abstractmethod
    def channel_scales(self) -> Floats:
        """Scale of one code: shape () per tensor, (channels,) per channel; float64, exact."""

    @property
    def is_per_channel(self) -> bool:
        """Whether the scale varies along `channel_axis`."""
        return isinstance(self.axis, IntAttr)

    @property
    def channel_axis(self) -> int | None:
        """The dimension along which the scale varies, or None."""
        return self.axis.data if isinstance(self.axis, IntAttr) else None

    @property
    def zero_point(self) -> int:
        """The code of real zero."""
        return self.zp.data

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest code."""
        return storage_range(self.storage)

    def channels(self) -> int | None:
        """Number of channels of a per-channel format, else None."""
        return self.channel_scales().size if self.is_per_channel else None

    @abstractmethod
    def with_axis(self, axis: int) -> QuantizedType:
        """The same per-channel format along another dimension."""

    def _verify_shared(self) -> None:
        width = self.storage.width.data
        signed = self.storage.signedness.data == Signedness.SIGNED
        if signed or width not in STORAGE_WIDTHS[is_unsigned(self.storage)]:
            raise VerifyException(
                f"storage {self.storage} is not one of i4, i8, ui8, i16, ui16, i32, ui32, i64"
            )
        low, high = self.bounds
        if not low <= self.zero_point <= high:
            raise VerifyException(f"zp {self.zero_point} lies outside of {self.storage}")
        if self.zero_point and width > ZERO_POINT_WIDTH:
            raise VerifyException(
                f"zp {self.zero_point} of storage {self.storage}: accumulators have zero point 0, "
                f"only storage of up to {ZERO_POINT_WIDTH} bits may have another"
            )
        if isinstance(self.axis, IntAttr) and self.axis.data < 0:
            raise VerifyException(f"axis {self.axis.data} is negative")

    def _print_tail(self, printer: Printer) -> None:
        if isinstance(self.axis, IntAttr):
            printer.print_string(f", axis = {self.axis.data}")
        if self.zero_point:
            printer.print_string(f", zp = {self.zero_point}")


def _parse_channels(parser: AttrParser, number: Any, dtype: str) -> bytes:
    """Parse `a, b, ...]` or `COUNT x "digest"]`, the opening bracket already seen."""
    import numpy as np

    first = number()
    if parser.parse_optional_keyword("x") is not None:
        digest = parser.parse_str_literal(" for the digest of the channel vector")
        parser.parse_punctuation("]")
        try:
            values = assets_of(parser.ctx).by_digest(digest, "a channel vector of a type")
        except VitError as error:
            parser.raise_error(str(error))
        if values.size != first or values.dtype != np.dtype(dtype):
            parser.raise_error(f"channel vector {digest} does not hold {first} values of {dtype}")
        return values.tobytes()
    numbers = [first]
    while parser.parse_optional_punctuation(",") is not None:
        numbers.append(number())
    parser.parse_punctuation("]")
    worst = max(abs(float(number)) for number in numbers)
    if np.dtype(dtype).kind == "i" and worst > FRAC_LIMIT:
        parser.raise_error(f"frac of magnitude {worst:.0f} exceeds {FRAC_LIMIT}")
    return np.array(numbers, dtype).tobytes()


def _parse_tail(parser: AttrParser) -> tuple[IntAttr, IntAttr | NoneAttr]:
    """Parse the optional `, axis = A` and `, zp = Z`."""
    zp, axis = 0, None
    while parser.parse_optional_punctuation(",") is not None:
        key = parser.parse_identifier(" (axis or zp)")
        parser.parse_punctuation("=")
        if key == "axis":
            axis = parser.parse_integer(allow_boolean=False, allow_negative=False)
        elif key == "zp":
            zp = parser.parse_integer(allow_boolean=False)
        else:
            parser.raise_error(f"unknown field '{key}' of a number format, expected axis or zp")
    return IntAttr(zp), NoneAttr() if axis is None else IntAttr(axis)


def _print_channels(printer: Printer, values: NDArray[Any]) -> None:
    if values.size > PRINT_LIMIT:
        printer.print_string(f'[{values.size} x "{digest_of(values)}"]')
        return
    printer.print_string("[" + ", ".join(map(_number_text, values.tolist())) + "]")


def _number_text(value: float) -> str:
    """A number in the digits that read back to the same value, in MLIR's spelling."""
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}.0e{power}" if exponent and "." not in mantissa else text


@irdl_attr_definition
class FixedType(QuantizedType):
    """`!vit.fixed<storage, frac[, axis = A][, zp = Z]>`: real = (int - Z) * 2^-frac."""

    name = "vit.fixed"

    exponents: IntAttr | BytesAttr

    def __init__(
        self,
        storage: IntegerType | str,
        frac: int | Sequence[int] | NDArray[Any],
        zp: int = 0,
        axis: int | None = None,
    ):
        import numpy as np

        if isinstance(storage, str):
            storage = storage_of(storage)
        if axis is None:
            exponents = IntAttr(int(cast("int", frac)))
        else:
            exponents = BytesAttr(np.asarray(frac, np.int16).tobytes())
        super().__init__(
            storage, IntAttr(zp), NoneAttr() if axis is None else IntAttr(axis), exponents
        )

    @property
    def frac(self) -> int:
        """Fractional bits of a per-tensor format; raises ValueError for a per-channel one."""
        if not isinstance(self.exponents, IntAttr):
            raise ValueError(f"{self} has a frac per channel")
        return self.exponents.data

    def channel_fracs(self) -> Ints:
        """Fractional bits: shape () per tensor, (channels,) per channel; int64."""
        import numpy as np

        if isinstance(self.exponents, IntAttr):
            return np.array(self.exponents.data, np.int64)
        return np.frombuffer(self.exponents.data, np.int16).astype(np.int64)

    def channel_vector(self) -> NDArray[Any] | None:
        """The exponents as stored (int16), if they are long enough to stay out of the text."""
        import numpy as np

        if isinstance(self.exponents, IntAttr):
            return None
        values = np.frombuffer(self.exponents.data, np.int16)
        return values if values.size > PRINT_LIMIT else None

    def channel_scales(self) -> Floats:
        import numpy as np

        return np.exp2(-self.channel_fracs().astype(np.float64))

    def with_axis(self, axis: int) -> FixedType:
        return FixedType(self.storage, self.channel_fracs(), self.zero_point, axis)

    def verify(self) -> None:
        import numpy as np

        self._verify_shared()
        if isinstance(self.exponents, BytesAttr) != self.is_per_channel:
            raise VerifyException("a list of fractional bits needs an axis, and an axis a list")
        fracs = self.channel_fracs()
        if fracs.size == 0:
            raise VerifyException("a per-channel format needs at least one channel")
        worst = int(np.abs(fracs).max())
        if worst > FRAC_LIMIT:
            raise VerifyException(f"frac of magnitude {worst} exceeds {FRAC_LIMIT}")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            storage = _parse_storage(parser)
            if parser.parse_optional_punctuation("[") is not None:
                exponents = BytesAttr(_parse_channels(parser, parser.parse_integer, "int16"))
            else:
                exponents = IntAttr(parser.parse_integer(allow_boolean=False))
            zp, axis = _parse_tail(parser)
        return storage, zp, axis, exponents

    def print_parameters(self, printer: Printer) -> None:
        import numpy as np

        with printer.in_angle_brackets():
            printer.print_attribute(self.storage)
            printer.print_string(", ")
            if isinstance(self.exponents, IntAttr):
                printer.print_string(str(self.exponents.data))
            else:
                _print_channels(printer, np.frombuffer(self.exponents.data, np.int16))
            self._print_tail(printer)


@irdl_attr_definition
class ScaledType(QuantizedType):
    """`!vit.scaled<storage, scale[, axis = A][, zp = Z]>`: real = (int - Z) * scale."""

    name = "vit.scaled"

    scale_values: FloatData | BytesAttr

    def __init__(
        self,
        storage: IntegerType | str,
        scale: float | Sequence[float] | NDArray[Any],
        zp: int = 0,
        axis: int | None = None,
    ):
        import numpy as np

        if isinstance(storage, str):
            storage = storage_of(storage)
        if axis is None:
            values = FloatData(float(cast("float", scale)))
        else:
            values = BytesAttr(np.asarray(scale, np.float64).tobytes())
        super().__init__(
            storage, IntAttr(zp), NoneAttr() if axis is None else IntAttr(axis), values
        )

    def channel_vector(self) -> NDArray[Any] | None:
        """The scales as stored (float64), if they are long enough to stay out of the text."""
        values = self.channel_scales()
        return values if self.is_per_channel and values.size > PRINT_LIMIT else None

    def channel_scales(self) -> Floats:
        import numpy as np

        if isinstance(self.scale_values, FloatData):
            return np.array(self.scale_values.data, np.float64)
        return np.frombuffer(self.scale_values.data, np.float64)

    def with_axis(self, axis: int) -> ScaledType:
        return ScaledType(self.storage, self.channel_scales(), self.zero_point, axis)

    def verify(self) -> None:
        import numpy as np

        self._verify_shared()
        if isinstance(self.scale_values, BytesAttr) != self.is_per_channel:
            raise VerifyException("a list of scales needs an axis, and an axis a list")
        scales = self.channel_scales()
        if scales.size == 0:
            raise VerifyException("a per-channel format needs at least one channel")
        bad = scales[~(np.isfinite(scales) & (scales > 0))]
        if bad.size:
            raise VerifyException(f"scale {bad.flat[0]} is not a positive finite number")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            storage = _parse_storage(parser)
            if parser.parse_optional_punctuation("[") is not None:
                values = BytesAttr(_parse_channels(parser, parser.parse_number, "float64"))
            else:
                values = FloatData(float(parser.parse_number()))
            zp, axis = _parse_tail(parser)
        return storage, zp, axis, values

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_attribute(self.storage)
            printer.print_string(", ")
            if isinstance(self.scale_values, FloatData):
                printer.print_string(_number_text(self.scale_values.data))
            else:
                _print_channels(printer, self.channel_scales())
            self._print_tail(printer)


@irdl_attr_definition
class Log2Type(ParametrizedAttribute, TypeAttribute):
    """`!vit.log2`: a 4-bit code in a byte; c in 0..14 stands for 2^-c, 15 for zero (FQ-ViT)."""

    name = "vit.log2"


def _parse_storage(parser: AttrParser) -> IntegerType:
    """Parse the storage type and the comma behind it."""
    storage = parser.parse_type()
    if not isinstance(storage, IntegerType):
        parser.raise_error(f"the storage of a number format is an integer type, got {storage}")
    parser.parse_punctuation(",")
    return cast("IntegerType", storage)
