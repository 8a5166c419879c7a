"""The `vit` graph under construction: integers that stand for float values.

Every float value has a `Record` with the integers that its operation produced, in their raw form:
an int32 accumulator, 8 or 16 bits, or the two results of a deferred softmax. A consumer asks for
the form it can take, and the graph requantises at most once for each form. So an accumulator goes
straight into a residual sum, and through 8 bits only where the MAC array reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from xdsl.ir import Attribute, Operation, OpResult, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from vit_opt.dialects import onnx
from vit_opt.dialects.assets import array_attribute
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType
from vit_opt.dialects.vit.ops.base import VitOp, format_of, i64_array, is_fixed, shape_of
from vit_opt.passes.calibrate import clip_of, range_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.formats import covering_type, mean_type, quantized_array
from vit_opt.passes.quantization.options import QuantizeOptions
from vit_opt.passes.quantization.pairs import Given

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

NHWC = (0, 2, 3, 1)
"""The axes of an image [B, C, H, W] in the order that makes it channels last."""

NCHW = (0, 3, 1, 2)
"""The inverse."""

HEADROOM = 1.5
"""How far values of 16 bits may go beyond their calibrated range: they can afford the half bit, and
sums are where other inputs exceed what calibration saw."""

OpT = TypeVar("OpT", bound=Operation)


@dataclass
class Record:
    """The integers of one float value."""

    value: SSAValue
    """The float value."""

    raw: SSAValue
    """Its integers, as the operation gave them."""

    channels_last: bool = False
    """Whether `raw` is NHWC where the float value is NCHW."""

    total: SSAValue | None = None
    """Row sums: `raw` holds the exponentials of a deferred softmax, to be divided by them."""

    forms: dict[tuple[Attribute, bool], SSAValue] = field(
        default_factory=dict["tuple[Attribute, bool]", "SSAValue"]
    )
    """Requantised and transposed versions, by format and layout."""


@dataclass
class IntegerGraph:
    """Builds integer operations before `point` and hands out the integers of float values."""

    constants: Constants
    point: Operation
    options: QuantizeOptions = field(default_factory=QuantizeOptions)
    softmax_forms: dict[Operation, str] = field(default_factory=dict["Operation", "str"])
    """Softmaxes with a form of their own, whatever the options say."""

    records: dict[SSAValue, Record] = field(default_factory=dict["SSAValue", "Record"])
    given: Mapping[SSAValue, Given] = field(default_factory=dict["SSAValue", "Given"])
    """Formats that the model brings along."""

    def emit(self, op: OpT, origin: Operation | None = None) -> OpT:
        """Insert an operation, under the node name of the float operation it came from."""
        if isinstance(op, VitOp) and isinstance(origin, onnx.OnnxOp):
            op.node_name = op.node_name or origin.node_name
        Rewriter.insert_op(op, InsertPoint.before(self.point))
        return op

    def define(
        self,
        value: SSAValue,
        raw: SSAValue,
        *,
        channels_last: bool = False,
        total: SSAValue | None = None,
    ) -> None:
        """Record the integers of a float value."""
        self.records[value] = Record(value, raw, channels_last, total)

    def constant(
        self, key: str, master: Array, type_: QuantizedType, statistics: Attribute | None = None
    ) -> SSAValue:
        """A constant rounded to a format, with its real values as master."""
        import numpy as np

        store, inline = self.constants.store, self.constants.inline
        exact = array_attribute(store, key, np.asarray(master, np.float32), inline=inline)
        codes = quantized_array(master, type_)
        constant = ops.ConstantOp.make(store, key, codes, type_, master=exact, inline=inline)
        if statistics is not None:
            constant.attributes["vit.stats"] = statistics
        return self.emit(constant).result

    def range(self, value: SSAValue) -> tuple[float, float]:
        """The calibrated range of a float value (of the constant itself for constants)."""
        array = self.constants.array(value)
        found = range_of(value) if array is None else (float(array.min()), float(array.max()))
        if found is None:
            raise VitError(
                f"{label_of(value)}: no calibrated range; run calibrate first (values that are not "
                f"floating point have none, and are not quantised)"
            )
        return found

    def span(self, value: SSAValue, bits: int) -> tuple[float, float]:
        """The calibrated range, in 8 bits the part of it that the observer of `calibrate` chose."""
        found = self.range(value)
        if bits == 8 and self.constants.array(value) is None:
            return clip_of(value) or found
        return found

    def record(self, value: SSAValue) -> Record:
        """The record of a value that is not constant."""
        found = self.records.get(value)
        if found is None:
            raise VitError(f"{label_of(value)}: used before it is computed")
        return found

    def type_for(
        self, value: SSAValue, bits: int, *, symmetric: bool = False, pot: bool = False
    ) -> QuantizedType:
        """A format that covers the calibrated range of a value, with headroom in 16 bits.

        In 8 bits the part of the range that the observer of `calibrate` chose. A format that the
        model brings along comes first, where the reader can take it.
        """
        own = self.given.get(value)
        if own is not None and own.fits(bits, symmetric=symmetric, pot=pot):
            return own.type
        low, high = self.span(value, bits)
        if bits == 16:
            low, high = HEADROOM * low, HEADROOM * high
        return covering_type(low, high, bits, symmetric=symmetric, pot=pot)

    def averaged_type(self, value: SSAValue, source: QuantizedType, bits: int) -> QuantizedType:
        """A signed format for a value whose scale differs from the source's by a power of two."""
        own = self.given.get(value)
        if own is not None and own.fits(bits, symmetric=True, pot=True) and is_fixed(source):
            return own.type
        return mean_type(source, *self.span(value, bits), bits)

    def codes(
        self,
        value: SSAValue,
        bits: int,
        *,
        symmetric: bool = False,
        pot: bool = False,
        channels_last: bool = False,
        channelwise: bool = False,
    ) -> SSAValue:
        """The integers of a value in at most `bits` bits, requantised if the raw form has more.

        `symmetric` excludes a zero point, `pot` asks for a power-of-two scale, `channels_last` for
        the layout NHWC of a value that is NCHW. `channelwise` lets each channel have its own scale.
        """
        array = self.constants.array(value)
        if array is None:
            self.settle(self.record(value))
            raw = format_of(self.record(value).raw)
            fits = raw.storage.width.data <= bits and (channelwise or not raw.is_per_channel)
            if fits and not (symmetric and raw.zero_point) and not (pot and not is_fixed(raw)):
                return self.typed(value, raw, channels_last=channels_last)
        type_ = self.type_for(value, bits, symmetric=symmetric or array is not None, pot=pot)
        return self.typed(value, type_, channels_last=channels_last)

    def typed(
        self, value: SSAValue, type_: QuantizedType, *, channels_last: bool = False
    ) -> SSAValue:
        """The integers of a value in exactly this format."""
        array = self.constants.array(value)
        if array is not None:
            turned = array.transpose(NHWC) if channels_last else array
            return self.constant(label_of(value), turned, type_)
        record = self.record(value)
        self.settle(record)
        if (type_, channels_last) not in record.forms:
            raw = record.raw
            if format_of(raw) != type_:
                raw = self.requantized(record, type_)
            if record.channels_last != channels_last:
                raw = self.transposed(raw, NHWC if channels_last else NCHW)
            record.forms[type_, channels_last] = raw
        return record.forms[type_, channels_last]

    def requantized(self, record: Record, type_: QuantizedType) -> SSAValue:
        """The raw integers of a record in another format, in the record's own layout."""
        own = (type_, record.channels_last)
        if own not in record.forms:
            requant = ops.RequantOp.of(record.raw, type=type_)
            record.forms[own] = self.emit(requant, owner_of(record.value)).result
        return record.forms[own]

    def transposed(self, value: SSAValue, permutation: tuple[int, ...]) -> SSAValue:
        """A value with its dimensions permuted."""
        return self.emit(ops.TransposeOp.of(value, permutation=permutation)).result

    def operand(self, value: SSAValue) -> SSAValue:
        """The raw integers for a sum: an accumulator if this is its only use, else 16 bits."""
        if self.constants.array(value) is None:
            record = self.record(value)
            self.settle(record)
            if len(list(value.uses)) == 1 and not record.channels_last:
                return record.raw
        return self.codes(value, 16)

    def settle(self, record: Record) -> None:
        """Divide a deferred softmax by its row sums, for a reader other than a product."""
        if record.total is None:
            return
        owner = owner_of(record.value)
        wide = self.emit(ops.PotRequantOp.of(record.raw, type=FixedType("i32", 0)), owner).result
        normalized = ops.NormalizeOp.of(wide, record.total, type=FixedType("ui8", 8))
        record.raw, record.total = self.emit(normalized, owner).result, None


def owner_of(value: SSAValue) -> Operation | None:
    """The operation that makes a value, None for arguments."""
    return value.op if isinstance(value, OpResult) else None


def label_of(value: SSAValue) -> str:
    """A name for messages: the node that makes a value, or the input."""
    owner = owner_of(value)
    if isinstance(owner, onnx.OnnxOp):
        return owner.label
    return value.name_hint or "an input"


__all__ = ["NCHW", "NHWC", "IntegerGraph", "Record", "i64_array", "label_of", "shape_of"]
