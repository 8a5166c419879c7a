"""Row-stationary groups: operations that stream rows through the chip together.

`tile` wraps a chain into a `vit.pipeline` region whose body stays on whole tensors, so that it
means what it meant and an interpreter may ignore the schedule. The attributes say how a backend
runs it: on the pipeline how many rows flow at a time, on each operation of the body how its loops
lie on the array and what each operand must hold before a row can start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from xdsl.dialects.builtin import ArrayAttr, IntAttr, StringAttr
from xdsl.ir import Attribute, Operation, ParametrizedAttribute, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    ParsePropInAttrDict,
    irdl_attr_definition,
    irdl_op_definition,
    lazy_traits_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.traits import (
    HasParent,
    IsTerminator,
    RecursiveMemoryEffect,
)
from xdsl.utils.exceptions import VerifyException

from vit_opt.dialects.vit.ops.base import I64Array, i64_array

LANES = ("rows", "columns", "reduction")
RESIDENT = ("weight", "rows", "none")
NEEDS = ("row", "halo", "window", "all", "constant")


@irdl_attr_definition
class ScheduleAttr(ParametrizedAttribute):
    """`#vit.schedule<"p2vit", 64>`: the pipeline streams 64 rows at a time on target p2vit."""

    name = "vit.schedule"
    target: StringAttr
    rows: IntAttr

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        with parser.in_angle_brackets():
            target = parser.parse_str_literal(" (target)")
            parser.parse_punctuation(",")
            rows = parser.parse_integer(allow_boolean=False)
        return StringAttr(target), IntAttr(rows)

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_string_literal(self.target.data)
            printer.print_string(f", {self.rows.data}")

    def verify(self) -> None:
        if self.rows.data < 1:
            raise VerifyException(f"rows {self.rows.data} must be positive")


@irdl_attr_definition
class LoopsAttr(ParametrizedAttribute):
    """How one operation's loops lie on the array.

        #vit.loops<columns, [16, 64, 192], weight, [row, constant]>

    lanes: the dimension spread over the lanes; block: rows, columns and reduction of one step;
    resident: what stays on chip across the steps; needs: per operand, what must be there before a
    row starts (the same row, a halo of rows around it, a window, everything, or a constant).
    """

    name = "vit.loops"
    lanes: StringAttr
    block: I64Array
    resident: StringAttr
    needs: ArrayAttr[StringAttr]

    @staticmethod
    def get(lanes: str, block: Sequence[int], resident: str, needs: Sequence[str]) -> LoopsAttr:
        """Build the attribute from plain values."""
        return LoopsAttr(
            StringAttr(lanes),
            i64_array(block),
            StringAttr(resident),
            ArrayAttr([StringAttr(need) for need in needs]),
        )

    @property
    def block_sizes(self) -> tuple[int, int, int]:
        """Rows, columns and reduction length of one step."""
        rows, columns, reduction = self.block.get_values()
        return rows, columns, reduction

    @property
    def operand_needs(self) -> tuple[str, ...]:
        """What each operand must hold before a row starts."""
        return tuple(need.data for need in self.needs)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        square = parser.Delimiter.SQUARE
        with parser.in_angle_brackets():
            lanes = parser.parse_identifier()
            parser.parse_punctuation(",")
            block = parser.parse_comma_separated_list(square, parser.parse_integer)
            parser.parse_punctuation(",")
            resident = parser.parse_identifier()
            parser.parse_punctuation(",")
            needs = parser.parse_comma_separated_list(square, parser.parse_identifier)
        return LoopsAttr.get(lanes, block, resident, needs).parameters

    def print_parameters(self, printer: Printer) -> None:
        block = ", ".join(map(str, self.block.get_values()))
        needs = ", ".join(self.operand_needs)
        with printer.in_angle_brackets():
            printer.print_string(f"{self.lanes.data}, [{block}], {self.resident.data}, [{needs}]")

    def verify(self) -> None:
        if self.lanes.data not in LANES:
            raise VerifyException(f"lanes '{self.lanes.data}' is not one of {', '.join(LANES)}")
        if self.resident.data not in RESIDENT:
            raise VerifyException(
                f"resident '{self.resident.data}' is not one of {', '.join(RESIDENT)}"
            )
        block = self.block.get_values()
        if len(block) != 3 or min(block) < 1:
            raise VerifyException(f"block {list(block)} is not three positive sizes")
        for need in self.operand_needs:
            if need not in NEEDS:
                raise VerifyException(f"need '{need}' is not one of {', '.join(NEEDS)}")


LOOPS = "loops"
"""Name of the attribute that holds `#vit.loops` on the operations of a pipeline."""


@irdl_op_definition
class YieldOp(IRDLOperation):
    """Results of a pipeline."""

    name = "vit.yield"
    values = var_operand_def()
    traits = lazy_traits_def(lambda: (IsTerminator(), HasParent(PipelineOp)))
    assembly_format = "$values attr-dict `:` type($values)"

    def __init__(self, values: Sequence[SSAValue]):
        super().__init__(operands=[values])


@irdl_op_definition
class PipelineOp(IRDLOperation):
    """A chain whose rows stream from operation to operation.

        %y = vit.pipeline {
          %n = vit.layernorm %x, ... {loops = #vit.loops<...>} : ...
          ...
          vit.yield %q : tensor<...>
        } {schedule = #vit.schedule<"p2vit", 64>} : tensor<...>

    The body uses values from outside directly. Ignoring the schedule changes no bit.
    """

    name = "vit.pipeline"
    body = region_def("single_block")
    schedule = prop_def(ScheduleAttr)
    outputs = var_result_def()
    irdl_options = (ParsePropInAttrDict(),)
    traits = traits_def(RecursiveMemoryEffect())
    assembly_format = "$body attr-dict `:` type($outputs)"

    def __init__(self, body: Region, schedule: ScheduleAttr, result_types: Sequence[Attribute]):
        super().__init__(
            regions=[body], properties={"schedule": schedule}, result_types=[result_types]
        )

    @property
    def terminator(self) -> YieldOp:
        """The yield that ends the body."""
        return cast("YieldOp", self.body.block.last_op)

    def verify_(self) -> None:
        last = self.body.block.last_op
        if not isinstance(last, YieldOp):
            raise VerifyException("the body of a pipeline ends in vit.yield")
        yielded = [value.type for value in last.values]
        if yielded != [result.type for result in self.outputs]:
            raise VerifyException(
                f"yield has types {', '.join(map(str, yielded))}, the results "
                f"{', '.join(str(r.type) for r in self.outputs)}"
            )
        if self.body.block.args:
            raise VerifyException("the body of a pipeline takes no arguments")
        for op in self.body.block.ops:
            check_loops(op)


def check_loops(op: Operation) -> None:
    """The loops of an operation, where it has some, say a need for each of its operands."""
    loops = op.attributes.get(LOOPS)
    if loops is None:
        return
    if not isinstance(loops, LoopsAttr):
        raise VerifyException(f"{op.name}: {LOOPS} is {loops}, expected #vit.loops")
    if len(loops.operand_needs) != len(op.operands):
        raise VerifyException(
            f"{op.name}: {LOOPS} has {len(loops.operand_needs)} needs for {len(op.operands)} operands"
        )
