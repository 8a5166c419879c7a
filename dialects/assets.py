"""Weights outside the IR: an attribute that names an array, and the store that holds it.

Text never carries a large array. An operation holds `#vit.asset<"name", "digest", type>`, and the
array itself lies in the `AssetStore` of the `VitContext`, found by its digest (a hash of dtype,
shape and bytes, so that a wrong or stale sidecar cannot be mistaken for the right one). The store
also carries what passes need beyond the IR: statistics and calibration batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.context import Context
from xdsl.dialects.builtin import BytesAttr as _BytesAttr
from xdsl.dialects.builtin import (
    DenseIntOrFPElementsAttr,
    Float32Type,
    Float64Type,
    IntegerType,
    Signedness,
    StringAttr,
    TensorType,
    f32,
    f64,
    i1,
    i8,
    i16,
    i32,
    i64,
)
from xdsl.ir import Attribute, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.npz import read_npz

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

__all__ = [
    "AssetAttr",
    "AssetStore",
    "VitContext",
    "array_attribute",
    "assets_of",
    "attribute_array",
    "digest_of",
]

INLINE_LIMIT = 64
"""Arrays of up to this many elements are written into the IR as `dense<...>`."""


def ui(width: int) -> IntegerType:
    """Unsigned builtin integer type of a width."""
    return IntegerType(width, Signedness.UNSIGNED)


_DTYPE_OF: dict[Attribute, str] = {
    IntegerType(4): "int8",
    i1: "bool",
    i8: "int8",
    i16: "int16",
    i32: "int32",
    i64: "int64",
    ui(8): "uint8",
    ui(16): "uint16",
    ui(32): "uint32",
    ui(64): "uint64",
    f32: "float32",
    f64: "float64",
}
_TYPE_OF: dict[str, IntegerType | Float32Type | Float64Type] = {
    name: cast("IntegerType | Float32Type | Float64Type", type_)
    for type_, name in _DTYPE_OF.items()
    if type_ != IntegerType(4)
}


def dtype_of(element: Attribute) -> np.dtype[Any]:
    """The numpy dtype that holds elements of a builtin type (i4 takes one byte each).

    Raises VitError for a type that has no numpy counterpart here.
    """
    import numpy as np

    name = _DTYPE_OF.get(element)
    if name is None:
        raise VitError(f"no array storage for element type {element}")
    return np.dtype(name)


def element_type_of(dtype: np.dtype[Any]) -> IntegerType | Float32Type | Float64Type:
    """The builtin element type of a numpy dtype."""
    found = _TYPE_OF.get(dtype.name)
    if found is None:
        raise VitError(f"arrays of dtype {dtype.name} cannot be held in the IR")
    return found


def digest_of(array: Array) -> str:
    """Sixteen hex digits that identify dtype, shape and contents of an array."""
    import numpy as np

    hasher = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    hasher.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return hasher.hexdigest()[:16]


@irdl_attr_definition
class AssetAttr(ParametrizedAttribute):
    """`#vit.asset<"blocks.0.qkv.weight", "9f86d081884c7d65", tensor<576x192xi8>>`."""

    name = "vit.asset"

    key: StringAttr
    digest: StringAttr
    type: TensorType

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            key = parser.parse_str_literal(" in asset name")
            parser.parse_punctuation(",")
            digest = parser.parse_str_literal(" in asset digest")
            parser.parse_punctuation(",")
            type_ = parser.parse_type()
        if not isinstance(type_, TensorType):
            parser.raise_error(f"the type of an asset is a tensor, got {type_}")
        return StringAttr(key), StringAttr(digest), cast("TensorType[Attribute]", type_)

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.key.data)
            printer.print_string(", ")
            printer.print_string_literal(self.digest.data)
            printer.print_string(", ")
            printer.print_attribute(self.type)


ArrayAttribute: TypeAlias = "DenseIntOrFPElementsAttr[Any] | AssetAttr"


@dataclass
class AssetStore:
    """Arrays by digest, with the statistics and batches that calibration works on."""

    arrays: dict[str, Array] = field(default_factory=dict["str", "Array"])
    """Every array that the IR refers to, and the exponent vectors of long types."""

    statistics: dict[str, Any] = field(default_factory=dict[str, Any])
    """What `calibrate` observed, by value name."""

    batches: list[dict[str, Array]] = field(default_factory=list["dict[str, Array]"])
    """Calibration inputs: real-valued arrays of batch 1 by input name."""

    reports: dict[str, list[dict[str, Any]]] = field(
        default_factory=dict[str, "list[dict[str, Any]]"]
    )
    """What passes that change numbers say about it: rows of a table, by pass name."""

    def add(self, key: str, array: Array) -> AssetAttr:
        """Keep an array and return the attribute that names it."""
        import numpy as np

        array = np.ascontiguousarray(array)
        digest = digest_of(array)
        self.arrays.setdefault(digest, array)
        type_ = TensorType(element_type_of(array.dtype), array.shape)
        return AssetAttr(StringAttr(key), StringAttr(digest), type_)

    def array(self, asset: AssetAttr) -> Array:
        """The array that an attribute names; read it, do not write to it.

        Raises VitError if it is missing, or of another shape or dtype than the attribute says.
        """
        found = self.by_digest(asset.digest.data, f'weight "{asset.key.data}"')
        if (
            found.shape != asset.type.get_shape()
            or dtype_of(asset.type.get_element_type()) != found.dtype
        ):
            raise VitError(
                f'weight "{asset.key.data}" is {found.dtype}{list(found.shape)} in the weight '
                f"file, but the IR says {asset.type}"
            )
        return found

    def by_digest(self, digest: str, what: str) -> Array:
        """The array with a digest; raises VitError naming `what` if it is not here."""
        found = self.arrays.get(digest)
        if found is None:
            raise VitError(
                f"{what} (digest {digest}) is not loaded; name its weight file with --weights-in"
            )
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def keep(self, digests: Iterable[str]) -> None:
        """Forget all arrays but those with these digests."""
        self.arrays = {key: self.arrays[key] for key in digests if key in self.arrays}

    def save(self, path: Path, digests: Iterable[str]) -> None:
        """Write the arrays with these digests to an .npz file (by way of a temporary file)."""
        import numpy as np

        temporary = path.with_name(path.name + ".part")
        with temporary.open("wb") as stream:
            arrays = {digest: self.by_digest(digest, "array") for digest in sorted(set(digests))}
            np.savez(stream, allow_pickle=False, **arrays)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Read arrays from an .npz file; every one must match its digest."""
        for digest, array in read_npz(path).items():
            if digest_of(array) != digest:
                raise VitError(f"{path}: array {digest} does not match its digest")
            self.arrays.setdefault(digest, array)


@dataclass
class VitContext(Context):
    """An xDSL context that carries an asset store."""

    assets: AssetStore = field(default_factory=AssetStore)

    def clone(self) -> VitContext:
        copy = super().clone()
        return VitContext(
            copy.allow_unregistered,
            copy._loaded_dialects,  # pyright: ignore[reportPrivateUsage]
            copy._loaded_ops,  # pyright: ignore[reportPrivateUsage]
            copy._loaded_attrs,  # pyright: ignore[reportPrivateUsage]
            copy._loaded_types,  # pyright: ignore[reportPrivateUsage]
            copy._registered_dialects,  # pyright: ignore[reportPrivateUsage]
            self.assets,
        )


def assets_of(ctx: Context) -> AssetStore:
    """The asset store of a context; a plain xDSL context has an empty one."""
    return ctx.assets if isinstance(ctx, VitContext) else AssetStore()


def array_attribute(
    store: AssetStore, key: str, array: Array, *, inline: bool | None = None
) -> ArrayAttribute:
    """An array as an attribute: inline when small, else in the store.

    `inline` overrides the size rule (a plain xDSL context has nowhere else to keep an array).
    """
    import numpy as np

    if inline is None:
        inline = array.size <= INLINE_LIMIT
    if not inline:
        return store.add(key, array)
    type_ = TensorType(element_type_of(array.dtype), array.shape)
    return DenseIntOrFPElementsAttr(type_, _BytesAttr(np.ascontiguousarray(array).tobytes()))


def attribute_array(store: AssetStore, value: Attribute) -> Array:
    """The array behind a `dense` or `#vit.asset` attribute (read-only).

    Raises VitError for other attributes, and for a `dense` with the wrong number of elements.
    """
    import numpy as np

    if isinstance(value, AssetAttr):
        return store.array(value)
    if not isinstance(value, DenseIntOrFPElementsAttr):
        raise VitError(f"expected dense or #vit.asset, got {value}")
    dense = cast("DenseIntOrFPElementsAttr[Any]", value)
    dtype = dtype_of(dense.get_element_type())
    shape = dense.get_shape()
    flat = np.frombuffer(dense.data.data, dtype)
    if flat.size != int(np.prod(shape, dtype=np.int64)):
        if flat.size != 1:
            raise VitError(f"dense of shape {list(shape)} holds {flat.size} elements")
        return np.broadcast_to(flat, shape)
    return flat.reshape(shape)
