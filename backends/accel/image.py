"""Binary images: what the accelerator loads.

Layout, little-endian::

    0   magic "VITACCEL"                8 bytes
    8   image format version            u16
    10  ISA version                     u16
    12  architecture name               32 bytes, zero-padded
    44  architecture digest             32 bytes, sha256 of its record
    76  total size of the image         u64
    84  size of DRAM needed             u64
    92  MACs of the model               u64
    100 code, data, io: offset, length  3 x 2 x u64
    148 sections
    end sha256 of everything before     32 bytes

`code` is one stream of instructions, with their loops. `data` holds the initial
contents of DRAM: a count (u32), then per segment address (u64), length (u64) and bytes. `io` is
a JSON object that describes the model's inputs and outputs: names, places, number formats.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.targets import AccelTarget, accel_target
from vit_opt.dialects.vit_accel.encoding import decode_stream, encode_stream
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import FieldError, Inst
from vit_opt.dialects.vit_accel.isa import ISA_VERSION

MAGIC = b"VITACCEL"
FORMAT_VERSION = 1
_HEADER = struct.Struct("<8sHH32s32sQQQ6Q")
_SEGMENT = struct.Struct("<QQ")
_CHECKSUM = 32
MAX_ZP = 1 << 32
"""Largest zero point, either way: what a field of an instruction can hold."""

MAX_FRAC = 1000
"""Largest frac, either way: powers of two that a double holds."""

MAX_DRAM = 1 << 33
"""Largest DRAM that an address can reach."""


class ImageError(VitError):
    """A binary image that cannot be loaded: truncated, damaged, or made for something else."""


@dataclass(frozen=True)
class Segment:
    """Initial contents of DRAM from `address` on."""

    address: int
    data: bytes


@dataclass(frozen=True)
class Port:
    """An input or output of the model: a tensor at `address` in DRAM, row-major.

    real = (code - zp) * 2^-frac; `fracs` has one entry, or one per channel along `axis`.
    """

    name: str
    address: int
    dtype: DType
    shape: tuple[int, ...]
    fracs: tuple[int, ...] = (0,)
    zp: int = 0
    axis: int | None = None

    def __post_init__(self) -> None:
        if min(self.shape, default=1) < 1 or len(self.shape) > 8:
            raise ImageError(f"'{self.name}' has shape {list(self.shape)}")
        if self.axis is not None and not 0 <= self.axis < len(self.shape):
            raise ImageError(f"'{self.name}' has axis {self.axis}")
        if len(self.fracs) != (1 if self.axis is None else self.shape[self.axis]):
            raise ImageError(f"'{self.name}' has {len(self.fracs)} fracs")
        if abs(self.zp) > MAX_ZP or max(map(abs, self.fracs)) > MAX_FRAC:
            raise ImageError(f"'{self.name}' has a zero point or frac that no number format has")

    @property
    def size(self) -> int:
        """Bytes occupied."""
        return math.prod(self.shape) * self.dtype.size

    def scales(self) -> NDArray[np.float64]:
        """2^-frac, shaped to broadcast against the tensor."""
        scales = np.exp2(-np.array(self.fracs, np.float64))
        if self.axis is None:
            return scales.reshape(())
        shape = [1] * len(self.shape)
        shape[self.axis] = len(self.fracs)
        return scales.reshape(shape)


@dataclass(frozen=True)
class Origins:
    """Which operation of the model each instruction is a part of, in runs of instructions.

    Not part of the binary; a file of its own beside it, for those who look at a run.
    """

    runs: tuple[tuple[str, int], ...] = ()
    """Operations and how many instructions in a row they have."""

    @cached_property
    def _names(self) -> list[str]:
        return [name for name, count in self.runs for _ in range(count)]

    def of(self, index: int) -> str:
        """The operation of an instruction, 'program' where none is known."""
        return self._names[index] if index < len(self._names) else "program"

    @staticmethod
    def from_names(names: Iterable[str]) -> Origins:
        """Origins from one name per instruction."""
        return Origins(tuple((name, len(list(run))) for name, run in groupby(names)))

    def to_json(self) -> str:
        """The text of the file."""
        return json.dumps(self.runs) + "\n"

    @staticmethod
    def from_plain(runs: Any, instructions: int) -> Origins:
        """The origins that a file holds for a program of so many instructions; ImageError if these
        are none."""
        if not isinstance(runs, list) or not all(map(_is_run, cast("list[Any]", runs))):
            raise ImageError("not a list of operations and counts")
        result = Origins(
            tuple((name, count) for name, count in cast("list[tuple[str, int]]", runs))
        )
        counts = [count for _, count in result.runs]
        if sum(counts) != instructions or min(counts, default=1) < 1:
            raise ImageError(
                f"it names the operations of {sum(counts)} instructions, the image has "
                f"{instructions}; compile the model again"
            )
        return result


def _is_run(entry: Any) -> bool:
    """Whether this is an operation and a count."""
    return (
        isinstance(entry, list)
        and len(pair := cast("list[Any]", entry)) == 2
        and isinstance(pair[0], str)
        and type(pair[1]) is int
    )


@dataclass(frozen=True)
class Image:
    """An executable program with its data."""

    arch: str
    code: tuple[Inst, ...]
    segments: tuple[Segment, ...] = ()
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    dram_size: int = 0
    macs: int = 0
    """MACs of the model, the numerator of utilisation."""
    arch_digest: str = ""
    """Digest of the architecture record; empty: that of the preset."""
    origins: Origins = field(default=Origins(), compare=False)
    """Operations behind the instructions, not saved with the image."""
    packing_saves: int = field(default=0, compare=False)
    """Bytes that the weights would take more at a byte each, not saved with the image."""

    def __post_init__(self) -> None:
        if not self.arch_digest:
            object.__setattr__(self, "arch_digest", accel_target(self.arch).digest())

    @property
    def compulsory_bytes(self) -> int:
        """DRAM bytes that an inference cannot do without: constants once, inputs and outputs."""
        ports = sum(port.size for port in (*self.inputs, *self.outputs))
        return ports + sum(len(segment.data) for segment in self.segments)

    def check_target(self, arch: AccelTarget) -> None:
        """ImageError if the image was made for another machine than `arch`."""
        if (self.arch, self.arch_digest) != (arch.name, arch.digest()):
            raise ImageError(
                f"image is made for architecture '{self.arch}' ({self.arch_digest[:12]}), the "
                f"machine is '{arch.name}' ({arch.digest()[:12]}); compile the model again for it"
            )

    def to_bytes(self) -> bytes:
        """The image's bytes; ImageError for what no image can hold."""
        _check_places(self)
        name = self.arch.encode()
        if len(name) > 32:
            raise ImageError(f"architecture name '{self.arch}' is longer than 32 bytes")
        code = encode_stream(self.code)
        data = bytearray(struct.pack("<I", len(self.segments)))
        for segment in self.segments:
            data += _SEGMENT.pack(segment.address, len(segment.data)) + segment.data
        io = json.dumps(
            {
                "inputs": [_port_to_json(port) for port in self.inputs],
                "outputs": [_port_to_json(port) for port in self.outputs],
            }
        ).encode()
        places: list[int] = []
        offset = _HEADER.size
        for section in (code, data, io):
            places += [offset, len(section)]
            offset += len(section)
        header = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            ISA_VERSION,
            name.ljust(32, b"\0"),
            bytes.fromhex(self.arch_digest),
            offset + _CHECKSUM,
            self.dram_size,
            self.macs,
            *places,
        )
        body = b"".join((header, code, bytes(data), io))
        return body + hashlib.sha256(body).digest()

    def save(self, path: Path) -> None:
        """Write the image (by way of a temporary file)."""
        temporary = path.with_name(path.name + ".part")
        temporary.write_bytes(self.to_bytes())
        temporary.replace(path)

    @staticmethod
    def load(path: Path) -> Image:
        """Read an image; ImageError naming the file and the reason if it is not a sound one."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: cannot read the image: {error.strerror}") from error
        try:
            return Image.from_bytes(raw)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from None

    @staticmethod
    def from_bytes(raw: bytes) -> Image:
        """The image in `raw`; ImageError with the reason if it is not a sound one."""
        if len(raw) < _HEADER.size + _CHECKSUM:
            raise ImageError(f"truncated image: {len(raw)} bytes, the header alone has more")
        magic, version, isa, name, digest, size, dram, macs, *places = _HEADER.unpack_from(raw)
        if magic != MAGIC:
            raise ImageError("not an accelerator image (wrong magic number)")
        if version != FORMAT_VERSION or isa != ISA_VERSION:
            raise ImageError(
                f"image has format version {version} and ISA version {isa}, this tool reads "
                f"{FORMAT_VERSION} and {ISA_VERSION}; compile the model again"
            )
        if size != len(raw):
            raise ImageError(f"truncated image: {len(raw)} of {size} bytes")
        if hashlib.sha256(raw[:-_CHECKSUM]).digest() != raw[-_CHECKSUM:]:
            raise ImageError("bad checksum: the image is damaged")
        code, data, io = (
            _section(raw, places[2 * i], places[2 * i + 1], section)
            for i, section in enumerate(("code", "data", "io"))
        )
        inputs, outputs = _ports(io)
        image = Image(
            _text(name.rstrip(b"\0")),
            _code(code),
            _segments(data),
            inputs,
            outputs,
            dram,
            macs,
            digest.hex(),
        )
        _check_places(image)
        return image


def _section(raw: bytes, offset: int, length: int, name: str) -> bytes:
    if offset < _HEADER.size or offset + length > len(raw) - _CHECKSUM:
        raise ImageError(f"section '{name}' lies outside the image")
    return raw[offset : offset + length]


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ImageError("a name in the image is not UTF-8") from None


def _code(raw: bytes) -> tuple[Inst, ...]:
    try:
        return decode_stream(raw)
    except FieldError as error:
        raise ImageError(str(error)) from None


def _segments(data: bytes) -> tuple[Segment, ...]:
    if len(data) < 4:
        raise ImageError("section 'data' is truncated")
    (count,) = struct.unpack_from("<I", data)
    offset = 4
    segments: list[Segment] = []
    for index in range(count):
        if offset + _SEGMENT.size > len(data):
            raise ImageError(f"data segment {index} is truncated")
        address, length = _SEGMENT.unpack_from(data, offset)
        offset += _SEGMENT.size
        if offset + length > len(data):
            raise ImageError(f"data segment {index} is truncated")
        segments.append(Segment(address, data[offset : offset + length]))
        offset += length
    return tuple(segments)


def _check_places(image: Image) -> None:
    """Everything that is put into DRAM before the start lies inside it, and it can be addressed."""
    if not 0 <= image.dram_size <= MAX_DRAM:
        raise ImageError(
            f"image asks for {image.dram_size} bytes of DRAM, at most {MAX_DRAM} exist"
        )
    if not image.arch.isprintable():
        raise ImageError(f"architecture name {image.arch!r} is not text on one line")
    if not 0 <= image.macs < 1 << 64:
        raise ImageError(f"{image.macs} MACs are not a number of 64 bits")
    for index, segment in enumerate(image.segments):
        if not 0 <= segment.address <= image.dram_size - len(segment.data):
            raise ImageError(f"data segment {index} lies outside the {image.dram_size} B of DRAM")
    for port in (*image.inputs, *image.outputs):
        if port.address < 0 or port.address + port.size > image.dram_size:
            raise ImageError(f"'{port.name}' lies outside the {image.dram_size} bytes of DRAM")


def _port_to_json(port: Port) -> dict[str, object]:
    return {
        "name": port.name,
        "address": port.address,
        "dtype": port.dtype.name.lower(),
        "shape": list(port.shape),
        "fracs": list(port.fracs),
        "zp": port.zp,
        "axis": port.axis,
    }


def _ports(raw: bytes) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    try:
        table: dict[str, list[dict[str, Any]]] = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"section 'io' is not JSON: {error}") from error
    try:
        inputs = tuple(_port_from_json(entry) for entry in table["inputs"])
        outputs = tuple(_port_from_json(entry) for entry in table["outputs"])
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ImageError("section 'io' is not a description of inputs and outputs") from error
    return inputs, outputs


def _port_from_json(entry: dict[str, Any]) -> Port:
    axis = entry["axis"]
    return Port(
        str(entry["name"]),
        int(entry["address"]),
        DType[str(entry["dtype"]).upper()],
        _integers(entry["shape"]),
        _integers(entry["fracs"]),
        int(entry["zp"]),
        None if axis is None else int(axis),
    )


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
