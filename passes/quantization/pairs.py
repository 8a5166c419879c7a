"""The roundings that a QDQ model brings along: QuantizeLinear and DequantizeLinear in pairs.

A pair says in which format its author wants a value. It leaves the graph, so that sums, softmax and
products are seen as what they are, and the format is given to whoever asks for integers of the
value. Zero point 128 of unsigned bytes is zero point 0 of signed ones; a scale that is a power of
two becomes a fixed format, which folding leaves as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import Rewriter

from vit_opt.dialects import onnx
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType, ScaledType, storage_of
from vit_opt.passes.float_graph import Constants, is_pair
from vit_opt.passes.quantization.formats import power_exponent


@dataclass(frozen=True)
class Given:
    """A format that the model gives to a value."""

    type: QuantizedType

    exclusive: bool
    """Whether everything that reads the value reads it in this format."""

    def fits(self, bits: int, *, symmetric: bool, pot: bool) -> bool:
        """Whether it is a format of up to `bits` bits as a reader may want it."""
        wide = self.type.storage.width.data
        if wide > bits or (bits > 8 and not self.exclusive):
            return False
        if symmetric and self.type.zero_point:
            return False
        return isinstance(self.type, FixedType) or not pot


def format_of_pair(op: onnx.QuantizeLinear, constants: Constants) -> QuantizedType | None:
    """The format that a QuantizeLinear rounds to; None for a scale per channel."""
    scale = constants.array(op.inputs[1])
    zeros = constants.array(op.inputs[2]) if len(op.inputs) > 2 else None
    if scale is None or scale.size != 1:
        return None
    unsigned = zeros is None or zeros.dtype.kind == "u"
    width = 8 if zeros is None else 8 * zeros.dtype.itemsize
    zero = 0 if zeros is None else int(zeros.flat[0])
    if unsigned and zero == 1 << (width - 1):
        unsigned, zero = False, 0
    storage, step = storage_of(f"{'u' if unsigned else ''}i{width}"), float(scale.flat[0])
    exponent = power_exponent(step)
    return (
        ScaledType(storage, step, zero) if exponent is None else FixedType(storage, -exponent, zero)
    )


def absorb_pairs(func: FuncOp, constants: Constants) -> dict[SSAValue, Given]:
    """Take all pairs out of a function; the formats they gave, by value.

    A value that is rounded in two ways gets the first format for both. Pairs with a scale per
    channel leave no format behind.
    """
    given: dict[SSAValue, Given] = {}
    for op in list(func.body.block.ops):
        if not (isinstance(op, onnx.DequantizeLinear) and is_pair(op)):
            continue
        quantize = op.inputs[0].owner
        assert isinstance(quantize, onnx.QuantizeLinear)
        value = quantize.inputs[0]
        type_ = format_of_pair(quantize, constants)
        if type_ is not None and value not in given and constants.array(value) is None:
            given[value] = Given(type_, _only_quantized(use.operation for use in value.uses))
        op.y.replace_all_uses_with(value)
        for each in (op, quantize):
            if not any(result.first_use for result in each.results):
                Rewriter.erase_op(each)
    return given


def _only_quantized(readers: Iterable[Operation]) -> bool:
    return all(isinstance(reader, onnx.QuantizeLinear) for reader in readers)
