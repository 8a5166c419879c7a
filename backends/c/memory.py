"""Buffers of a model: where every value lives, and the weights file.

Constants go into one weights file, each once (equal contents share a place) and aligned, so that
firmware may place the file anywhere with a single address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import SSAValue

from vit_opt.backends.c.code import ALIGNMENT, Buffer, Call, Pointer, Symbol, Value
from vit_opt.backends.c.graph import Graph
from vit_opt.backends.c.levels import PORTABLE, Level
from vit_opt.dialects.assets import AssetStore, attribute_array
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import Log2Type, QuantizedType, is_unsigned
from vit_opt.dialects.vit.ops.base import format_of, shape_of, tensor_type

Array: TypeAlias = NDArray[Any]


def aligned(size: int) -> int:
    """`size` rounded up to the alignment of buffers."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def storage_name(value: SSAValue) -> str:
    """The storage of a value in memory as the kernels name it, such as `S8` or `U16`.

    Nibbles take a byte each, except in weights packed by `pack_int4`.
    """
    element = tensor_type(value).get_element_type()
    if isinstance(element, Log2Type):
        return "LOG2"
    if not isinstance(element, QuantizedType):
        raise VitError(f"a value of type {value.type} is not integers; run pot-fold first")
    width = max(8, element.storage.width.data)
    return f"{'U' if is_unsigned(element.storage) else 'S'}{width}"


def element_size(value: SSAValue) -> int:
    """Bytes of one element in memory."""
    name = storage_name(value)
    return 1 if name == "LOG2" else int(name[1:]) // 8


def element_symbol(value: SSAValue) -> Symbol:
    """The enumerator of a value's storage."""
    return Symbol(f"VIT_{storage_name(value)}")


def size_of(value: SSAValue) -> int:
    """Bytes of a value in memory."""
    return prod(shape_of(value)) * element_size(value)


def pack_int4(codes: Array) -> Array:
    """Two codes a byte, low nibble first, each row of the last dimension padded to a byte."""
    rows = codes.reshape(-1, codes.shape[-1]).astype(np.uint8) & 15
    if rows.shape[1] % 2:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    return rows[:, ::2] | (rows[:, 1::2] << 4)


@dataclass
class Weights:
    """The contents of the weights file."""

    buffer: Buffer = field(default_factory=lambda: Buffer("weights", 0, "weights"))
    chunks: list[Array] = field(default_factory=list["Array"])
    _places: dict[tuple[bytes, str], int] = field(default_factory=dict["tuple[bytes, str]", int])

    def add(self, array: Array) -> Pointer:
        """Place an array (little-endian) and return its address."""
        import hashlib

        data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        key = hashlib.sha256(data.data if data.size else b"").digest(), data.dtype.str
        if key not in self._places:
            self._places[key] = self.buffer.size
            self.chunks.append(data)
            self.buffer.size += aligned(data.nbytes)
        return Pointer(self.buffer, self._places[key])

    def tobytes(self) -> bytes:
        """The file."""
        parts: list[bytes] = []
        for chunk in self.chunks:
            parts += [chunk.tobytes(), bytes(aligned(chunk.nbytes) - chunk.nbytes)]
        return b"".join(parts)


@dataclass
class Memory:
    """Addresses of values, and the calls made so far."""

    graph: Graph
    store: AssetStore
    level: Level = PORTABLE
    threads: int = 1
    """Workers at most, each of which needs scratch of its own."""
    weights: Weights = field(default_factory=Weights)
    calls: list[Call] = field(default_factory=list[Call])
    places: dict[SSAValue, Pointer] = field(default_factory=dict["SSAValue", Pointer])
    outputs: dict[SSAValue, Buffer] = field(default_factory=dict["SSAValue", Buffer])
    """Values that are computed straight into an output of the caller."""

    def constant(self, value: SSAValue) -> Array | None:
        """The codes of a constant, or None for a computed value."""
        owner = self.graph.root(value).owner
        if not isinstance(owner, ops.ConstantOp):
            return None
        return attribute_array(self.store, owner.value).reshape(shape_of(value))

    def address(self, value: SSAValue) -> Pointer:
        """Where the codes of a value are; a constant is placed when first asked for."""
        root = self.graph.root(value)
        if root not in self.places:
            array = self.constant(root)
            if array is None:
                raise AssertionError(f"{value} is read before it is computed")
            self.places[root] = self.weights.add(array)
        return self.places[root]

    def allocate(self, value: SSAValue) -> Pointer:
        """Memory for a computed value, if it has none yet."""
        if value in self.places:
            return self.places[value]
        part = self.graph.parts.get(value)
        if part is not None:
            whole, column = part
            base = self.allocate(whole)
            place = Pointer(base.buffer, base.offset + column * element_size(value))
        else:
            buffer = self.outputs.get(value)
            place = Pointer(buffer or Buffer(value.name_hint or "", size_of(value), "arena"))
        self.places[value] = place
        return place

    def row_distance(self, value: SSAValue) -> int:
        """Elements from row to row of a value computed into a larger one; 0 for any other."""
        part = self.graph.parts.get(value)
        return 0 if part is None else shape_of(part[0])[-1]

    def vector(self, values: Array, dtype: str = "int32") -> Pointer:
        """A parameter vector in the weights file; raises VitError where it does not fit."""
        info = np.iinfo(dtype)
        if values.size and (int(values.min()) < info.min or int(values.max()) > info.max):
            raise VitError(
                f"a kernel parameter does not fit {dtype}: {values.min()}..{values.max()}"
            )
        return self.weights.add(values.astype(dtype))

    def parameter(self, name: str, values: Array) -> dict[str, Value]:
        """The field `name` if all values agree, else `name_c` with one value per channel."""
        flat = values.reshape(-1)
        if (flat == flat[0]).all():
            return {name: int(flat[0])} if flat[0] else {}
        return {f"{name}_c": self.vector(flat)}

    def call(
        self,
        kernel: str,
        arguments: list[Value],
        comment: str,
        scratch: int | None = None,
        in_place: tuple[Buffer, Buffer] | None = None,
    ) -> None:
        """Append a call; with `scratch` bytes, a scratch pointer becomes its last argument.

        None is for kernels without that argument, 0 passes a null pointer.
        """
        call = Call(kernel, arguments, comment, in_place)
        if scratch is not None:
            count = self.threads if call.is_shared else 1
            own = aligned(scratch)
            size = scratch + (count - 1) * own
            block = Buffer("scratch", size, "arena", per_worker=own if count > 1 else 0)
            call.arguments = [*arguments, Pointer(block) if scratch else None]
        self.calls.append(call)


def zero_point(value: SSAValue) -> int:
    """The zero point of a value; log2 codes have none."""
    element = tensor_type(value).get_element_type()
    return 0 if isinstance(element, Log2Type) else format_of(value).zero_point


def without_zeros(fields: Mapping[str, Value]) -> dict[str, Value]:
    """Fields that differ from what C puts there anyway."""
    return {key: value for key, value in fields.items() if value not in (0, None)}


def saturation(value: SSAValue) -> dict[str, Value]:
    """Code limits and zero point of a result."""
    low, high = format_of(value).bounds
    return without_zeros({"lo": low, "hi": high, "zp": zero_point(value)})


def rounding(op: object) -> dict[str, Value]:
    """The rounding of an operation, where it is not half up."""
    name = getattr(op, "rounding").data  # noqa: B009 - operations without a common base
    return {} if name == "rhu" else {"rounding": Symbol(f"VIT_{name.upper()}")}


def describe(op: object, *values: SSAValue) -> str:
    """Name of an operation, its node in the model, and the shapes it works on."""
    assert isinstance(op, ops.VitOp)
    node = f" {op.node_name.data}" if op.node_name is not None else ""
    return f"{op.name}{node}" + (f": {', '.join(map(type_text, values))}" if values else "")


def type_text(value: SSAValue) -> str:
    """Shape and storage of a value, such as `1x197x192 s8`."""
    return "x".join(map(str, shape_of(value))) + f" {storage_name(value).lower()}"
