"""Changing one number format of a finished PoT graph, and all that depends on it.

Another frac of an activation moves the accumulators it feeds, so biases are rounded to the new grid,
tables are made anew, epsilons scaled, and derived formats follow. Nothing else changes: weights
keep their codes. Every change can be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from xdsl.dialects.builtin import IntegerAttr, i64
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.assets import attribute_array
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType
from vit_opt.dialects.vit.ops.base import VitOp, format_of
from vit_opt.dialects.vit.ops.linear import ConvBase
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.formats import quantized_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals: TypeAlias = NDArray[np.float64]

FREE = (
    ops.PotRequantOp,
    ops.LayerNormOp,
    ops.NormalizeOp,
    ops.AddOp,
    ops.MulOp,
    ops.MeanOp,
    ops.AvgPool2dOp,
    ops.LinearAttnOp,
    ops.LutOp,
)
"""Operations whose result format is a choice."""


class ImpossibleFormatError(Exception):
    """A format that some reader of the value cannot take."""


@dataclass
class Retyper:
    """Changes formats in a graph whose scales are powers of two."""

    constants: Constants
    biases: dict[Operation, Reals] = field(default_factory=dict["Operation", "Reals"])
    """The real bias of a product, as it was before any change: nothing is rounded twice."""

    undo: list[Callable[[], None]] = field(default_factory=list["Callable[[], None]"])

    def retype(self, op: VitOp, type_: FixedType) -> None:
        """Give the free result of an operation another format, of the same storage or not.

        Raises ImpossibleFormatError, with the graph as it was, where a reader cannot take it.
        """
        try:
            if isinstance(op, ops.LutOp):
                self._table(op, type_)
            self._infer(op, type_)
            op.verify_()
        except VerifyException as error:
            self.revert()
            raise ImpossibleFormatError(str(error)) from error
        except ImpossibleFormatError:
            self.revert()
            raise

    def shift_bias(self, op: ops.LinearOp, change: Reals) -> None:
        """Add real numbers [N] to a product's bias, in the format that it has.

        Raises ImpossibleFormatError where there is no constant bias, or the sum leaves its format.
        """
        before = self.real_bias(op)
        self.biases[op] = before + change

        def back() -> None:
            self.biases[op] = before

        self.undo.append(back)
        try:
            self._bias(op)
        except ImpossibleFormatError:
            self.revert()
            raise

    def revert(self) -> None:
        """Take back everything since the last `keep`."""
        for action in reversed(self.undo):
            action()
        self.undo.clear()

    def keep(self) -> None:
        """Make the changes since the last `keep` final."""
        self.undo.clear()

    def _infer(self, op: VitOp, chosen: Attribute | None = None) -> None:
        """Infer an operation's result types anew; readers follow where they changed."""
        before = [result.type for result in op.results]
        self.undo.append(lambda: _restore(op, before))
        op.infer(chosen)
        for result, old in zip(tuple(op.results), before, strict=True):
            if result.type != old:
                for reader in {use.operation: None for use in result.uses}:
                    if isinstance(reader, VitOp):
                        self._reader(reader, result, old)

    def _reader(self, op: VitOp, changed: SSAValue, old: Attribute) -> None:
        match op:
            case ops.LinearOp() | ConvBase():
                self._bias(op)
            case ops.LutOp():
                self._table(op, cast("FixedType", format_of(op.table)))
            case ops.LayerNormOp() if op.x is changed:
                self._epsilon(op, old)
            case ops.ClampOp():
                raise ImpossibleFormatError("the bounds of a clamp belong to its format")
            case _:
                pass
        self._infer(op)
        op.verify_()

    def _epsilon(self, op: ops.LayerNormOp, old: Attribute) -> None:
        before = op.eps_q
        was = cast("FixedType", cast("Any", old).get_element_type())
        now = cast("FixedType", format_of(op.x))
        steps = int(now.channel_fracs().max()) - int(was.channel_fracs().max())
        op.eps_q = IntegerAttr(round(before.value.data * 4.0**steps), i64)
        self.undo.append(lambda: setattr(op, "eps_q", before))

    def real_bias(self, op: ops.LinearOp | ConvBase) -> Reals:
        """The bias [N] of a product that has one, never rounded twice."""
        constant = None if op.bias is None else op.bias.owner
        if op.bias is None or not isinstance(constant, ops.ConstantOp):
            raise ImpossibleFormatError("a bias that is computed keeps its format")
        if op not in self.biases:
            codes = attribute_array(self.constants.store, constant.value)
            self.biases[op] = codes * format_of(op.bias).channel_scales()
        return self.biases[op]

    def _bias(self, op: ops.LinearOp | ConvBase) -> None:
        import numpy as np

        if op.bias is None:
            return
        bias = self.real_bias(op)
        accumulator = cast("FixedType", op.derived_formats()[0])
        type_ = accumulator.with_axis(0) if accumulator.is_per_channel else accumulator
        if np.abs(bias / type_.channel_scales()).max() > type_.bounds[1]:
            raise ImpossibleFormatError("the bias leaves its accumulator")
        self._replace(op, 2, quantized_array(bias, type_), type_)

    def _table(self, op: ops.LutOp, type_: FixedType) -> None:
        from vit_opt.passes.quantization.tables import table_codes

        if op.function is None:
            raise ImpossibleFormatError("a table that does not say which function it holds")
        codes = table_codes(op.function.data, format_of(op.x), type_)
        self._replace(op, 1, codes, type_)

    def _replace(self, op: VitOp, index: int, codes: NDArray[Any], type_: FixedType) -> None:
        """Give an operation another constant, in a place of its own."""
        old = op.operands[index]
        key = old.owner.node_name if isinstance(old.owner, ops.ConstantOp) else None
        store, inline = self.constants.store, self.constants.inline
        label = key.data if key is not None else op.name
        made = ops.ConstantOp.make(store, label, codes, type_, inline=inline)
        Rewriter.insert_op(made, InsertPoint.before(op))
        op.operands[index] = made.result

        def back() -> None:
            op.operands[index] = old
            made.detach()
            made.erase()

        self.undo.append(back)


def _restore(op: Operation, types: Sequence[Attribute]) -> None:
    for result, type_ in zip(tuple(op.results), types, strict=True):
        if result.type != type_:
            Rewriter.replace_value_with_new_type(result, type_)


def erase_unused_constants(block: Any) -> None:
    """Remove constants that nothing reads any more."""
    for op in list(block.ops):
        if isinstance(op, ops.ConstantOp) and not any(op.result.uses):
            with suppress(ValueError):
                op.detach()
                op.erase()


__all__ = ["FREE", "ImpossibleFormatError", "Retyper", "erase_unused_constants"]
