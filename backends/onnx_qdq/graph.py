"""An ONNX graph under construction: nodes, initializers, QDQ pairs, and two layouts of images.

The `vit` dialect keeps images as [N, H, W, C], ONNX as [N, C, H, W]. A value is held in the layout
in which it was made, and turned when a reader needs the other one, once. Element by element
operations work in either, so that a chain of convolutions has no Transpose inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from xdsl.ir import SSAValue

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.attributes import (
    QuantizedType,
    ScaledType,
    is_unsigned,
    storage_of,
)
from vit_opt.dialects.vit.ops.base import format_of, shape_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)

CODES = {
    "i4": "INT4",
    "i8": "INT8",
    "ui8": "UINT8",
    "i16": "INT16",
    "ui16": "UINT16",
    "i32": "INT32",
}
"""Storage types that DequantizeLinear of opset 21 reads, and their names in ONNX."""

MOST_BITS = 16
"""Widest codes that QuantizeLinear makes."""


def code_type(format_: QuantizedType, what: str) -> int:
    """ONNX's number of a storage type; raises VitError for one that it cannot dequantise."""
    import onnx

    width = format_.storage.width.data
    name = CODES.get(f"{'u' if is_unsigned(format_.storage) else ''}i{width}")
    if name is None:
        raise VitError(
            f"--export-qdq: {what} has storage {format_.storage}, which ONNX cannot dequantise "
            f"(it has {', '.join(CODES)})"
        )
    return int(getattr(onnx.TensorProto, name))


def lifted(format_: QuantizedType) -> QuantizedType:
    """An i8 format with one scale as ui8 with its zero point 128 higher: the same real values.

    ONNX Runtime does the same on processors whose byte products take unsigned activations; versions
    up to 1.31 fail in it where they have moved a signed pair across a Reshape.
    """
    if format_.storage != storage_of("i8"):
        return format_
    return ScaledType("ui8", float(format_.channel_scales()), format_.zero_point + 128)


def packed(codes: Array, type_: int) -> bytes:
    """The raw bytes of codes: little-endian, two to a byte for 4 bits, the lower half first."""
    import numpy as np
    import onnx

    if type_ != onnx.TensorProto.INT4:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(type_)
        return np.ascontiguousarray(codes.astype(dtype)).tobytes()
    nibbles = codes.reshape(-1).astype(np.int8).view(np.uint8) & 15
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return (nibbles[0::2] | (nibbles[1::2] << 4)).tobytes()


@dataclass
class OnnxGraph:
    """Nodes and initializers by name, and the tensors that stand for values of the module."""

    nodes: list[onnx.NodeProto] = field(default_factory=list["onnx.NodeProto"])
    initializers: list[onnx.TensorProto] = field(default_factory=list["onnx.TensorProto"])
    tensors: dict[SSAValue, dict[bool, str]] = field(
        default_factory=dict["SSAValue", "dict[bool, str]"]
    )
    """Tensor names of a value, by whether they are [N, C, H, W] where the value is [N, H, W, C]."""

    _names: dict[str, int] = field(default_factory=dict[str, int])
    _shared: dict[tuple[Any, ...], str] = field(default_factory=dict["tuple[Any, ...]", str])

    def unique(self, hint: str) -> str:
        """A name that nothing else has."""
        count = self._names.get(hint, 0)
        self._names[hint] = count + 1
        return f"{hint}_{count}" if count else hint

    def node(self, operator: str, inputs: Sequence[str], hint: str, **attributes: Any) -> str:
        """Add an operator with one result, and return the result's name."""
        import onnx

        name = self.unique(hint)
        self.nodes.append(
            onnx.helper.make_node(operator, inputs, [f"{name}:0"], name=name, **attributes)
        )
        return f"{name}:0"

    def constant(self, array: Array, hint: str = "constant") -> str:
        """An initializer for a float32 or int64 array; equal small ones are shared."""
        import onnx

        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key is not None and key in self._shared:
            return self._shared[key]
        name = self.unique(hint)
        self.initializers.append(onnx.numpy_helper.from_array(array, name))
        if key is not None:
            self._shared[key] = name
        return name

    def floats(self, values: Any, hint: str = "scale") -> str:
        """An initializer of float32 numbers."""
        import numpy as np

        return self.constant(np.asarray(values, np.float32), hint)

    def integers(self, values: Sequence[int], hint: str = "sizes") -> str:
        """An initializer of int64 numbers."""
        import numpy as np

        return self.constant(np.asarray(values, np.int64), hint)

    def codes(self, array: Array, type_: int, hint: str) -> str:
        """An initializer of integer codes."""
        import onnx

        name = self.unique(hint)
        raw = packed(array, type_)
        self.initializers.append(onnx.helper.make_tensor(name, type_, array.shape, raw, raw=True))
        return name

    def parameters(self, format_: QuantizedType, what: str) -> tuple[list[str], int]:
        """Scale and zero point of a format as initializers, and ONNX's number of its storage."""
        import numpy as np

        type_, scales = code_type(format_, what), format_.channel_scales()
        key = (type_, format_.zero_point, scales.tobytes())
        if key not in self._shared:
            zeros = np.full(scales.shape, format_.zero_point, np.int64)
            self._shared[key] = self.codes(zeros, type_, "zero_point")
        return [self.floats(scales), self._shared[key]], type_

    def dequantized(
        self, codes: Array, format_: QuantizedType, hint: str, axis: int | None = None
    ) -> str:
        """An initializer of codes behind a DequantizeLinear; `axis` is the channels' dimension."""
        parameters, type_ = self.parameters(format_, hint)
        name = self.codes(codes, type_, f"{hint}.codes")
        inputs = [name, *parameters]
        attributes = {} if not format_.is_per_channel else {"axis": axis}
        return self.node("DequantizeLinear", inputs, hint, **attributes)

    def pair(self, name: str, format_: QuantizedType, hint: str, axis: int | None) -> str:
        """A tensor rounded to a format: QuantizeLinear, DequantizeLinear.

        With a scale per channel (`axis` from the end) channels are brought to the coarsest of their
        scales before and back behind: runtimes do not convolve activations with several scales.
        """
        import numpy as np

        scales = format_.channel_scales()
        if axis is None:
            return self.rounded(name, format_, hint)
        shape = [-1, *[1] * (-1 - axis)]
        up = np.asarray(scales.max() / scales).reshape(shape)
        common = ScaledType(format_.storage, float(scales.max()), format_.zero_point)
        raised = self.node("Mul", [name, self.floats(up)], f"{hint}.raised")
        rounded = self.rounded(raised, common, hint)
        return self.node("Mul", [rounded, self.floats(1 / up)], f"{hint}.lowered")

    def rounded(self, name: str, format_: QuantizedType, hint: str) -> str:
        """A tensor rounded to a format with one scale."""
        parameters, _ = self.parameters(lifted(format_), hint)
        codes = self.node("QuantizeLinear", [name, *parameters], f"{hint}.q")
        return self.node("DequantizeLinear", [codes, *parameters], f"{hint}.dq")

    def layout(self, value: SSAValue) -> bool:
        """Whether a value was made as [N, C, H, W]."""
        return next(iter(self.tensors[value]))

    def read(self, value: SSAValue, nchw: bool = False) -> str:
        """The tensor of a value, turned to the layout that a reader needs."""
        found = self.tensors[value]
        if nchw not in found:
            assert len(shape_of(value)) == 4
            perm = TO_NCHW if nchw else TO_NHWC
            source = found[not nchw]
            found[nchw] = self.node("Transpose", [source], f"{source[:-2]}.turned", perm=perm)
        return found[nchw]

    def write(
        self, value: SSAValue, name: str, hint: str, *, nchw: bool = False, rounds: bool = False
    ) -> None:
        """Let a tensor stand for a value; `rounds` says that its operation rounds to its format."""
        if rounds and format_of(value).storage.width.data <= MOST_BITS:
            format_ = format_of(value)
            axis = format_.channel_axis
            if axis is not None and nchw:
                axis = TO_NCHW.index(axis)
            rank = len(shape_of(value))
            name = self.pair(name, format_, hint, None if axis is None else axis - rank)
        self.tensors[value] = {nchw: name}
