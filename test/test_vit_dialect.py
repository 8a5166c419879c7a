"""The vit dialect from Python: formats as values, what text cannot say, pipelines that mean nothing.

The syntax, every verifier message and every canonicalisation have text tests beside the dialect.
"""

from io import StringIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects import test as test_dialect
from xdsl.dialects.builtin import (
    BytesAttr,
    DenseIntOrFPElementsAttr,
    IntAttr,
    StringAttr,
    TensorType,
    i8,
)
from xdsl.ir import Attribute, Block, Region
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.transforms.canonicalize import CanonicalizePass
from xdsl.utils.exceptions import ParseError, VerifyException

from vit_opt.dialects.assets import AssetStore, VitContext
from vit_opt.dialects.evaluation import run_main
from vit_opt.dialects.vit import FixedType, ScaledType, Vit, ops
from vit_opt.dialects.vit.attributes import storage_range
from vit_opt.dialects.vit.evaluate import evaluator

STORAGES = ("i4", "i8", "ui8", "i16", "ui16", "i32", "ui32", "i64")


def context(store: AssetStore | None = None) -> VitContext:
    from xdsl.dialects.builtin import Builtin
    from xdsl.dialects.func import Func

    ctx = VitContext(assets=store or AssetStore())
    for dialect in (Builtin, Func, Vit):
        ctx.load_dialect(dialect)
    return ctx


def text_of(attribute: Attribute) -> str:
    stream = StringIO()
    Printer(stream).print_attribute(attribute)
    return stream.getvalue()


@st.composite
def formats(draw: st.DrawFn) -> FixedType | ScaledType:
    storage = draw(st.sampled_from(STORAGES))
    axis = draw(st.none() | st.integers(0, 3))
    probe = FixedType(storage, 0)
    low, high = storage_range(probe.storage)
    zp = draw(st.integers(low, high)) if probe.storage.width.data <= 16 else 0
    fixed = draw(st.booleans())
    number = st.integers(-126, 126) if fixed else st.floats(1e-30, 1e30)
    scale = draw(number if axis is None else st.lists(number, min_size=1, max_size=16))
    return (FixedType if fixed else ScaledType)(storage, scale, zp, axis)


@given(formats())
def test_format_reads_back_from_its_text(format_: FixedType | ScaledType) -> None:
    assert Parser(context(), text_of(format_)).parse_attribute() == format_


@given(formats(), formats())
def test_formats_are_equal_only_if_every_field_is(
    a: FixedType | ScaledType, b: FixedType | ScaledType
) -> None:
    assert (a == b) == (text_of(a) == text_of(b))


@pytest.mark.parametrize(
    "other",
    [
        FixedType("i16", 5),
        FixedType("i8", 4),
        FixedType("i8", 5, zp=1),
        FixedType("i8", [5], axis=0),
        ScaledType("i8", 2.0**-5),
    ],
)
def test_each_field_tells_formats_apart(other: Attribute) -> None:
    assert FixedType("i8", 5) != other


def test_long_channel_vectors_lie_in_the_store() -> None:
    format_ = FixedType("i8", np.arange(40) - 20, axis=1)
    vector = format_.channel_vector()
    assert vector is not None
    store = AssetStore()
    store.add("fracs", vector)
    text = text_of(format_)
    assert "40 x" in text and len(text) < 80
    assert Parser(context(store), text).parse_attribute() == format_
    with pytest.raises(ParseError, match="does not hold 41 values of int16"):
        Parser(context(store), text.replace("40 x", "41 x")).parse_attribute()
    with pytest.raises(ParseError, match="--weights-in"):
        Parser(context(), text).parse_attribute()


def test_what_only_python_can_get_wrong() -> None:
    with pytest.raises(VerifyException, match="at least one channel"):
        FixedType("i8", [], axis=0)
    with pytest.raises(VerifyException, match="at least one channel"):
        ScaledType("i8", [], axis=0)
    with pytest.raises(VerifyException, match="axis -1 is negative"):
        FixedType("i8", [1], axis=-1)
    short = DenseIntOrFPElementsAttr(TensorType(i8, [4, 4]), BytesAttr(bytes(7)))
    constant = ops.ConstantOp(
        operands=[],
        properties={"value": short},
        result_types=[TensorType(FixedType("i8", 5), [4, 4])],
    )
    with pytest.raises(VerifyException, match="value holds 7 elements, its type 16"):
        constant.verify()
    scalar = test_dialect.TestOp(result_types=[i8]).results[0]
    with pytest.raises(VerifyException, match="expected a tensor, got i8"):
        ops.tensor_type(scalar)


SOURCE = """
func.func @main(%x: tensor<4x3x!vit.fixed<i8, 5>>, %w: tensor<2x3x!vit.fixed<i8, [6, 7], axis = 0>>)
    -> tensor<4x2x!vit.fixed<i8, 4>> {
  %a = vit.linear %x, %w : (tensor<4x3x!vit.fixed<i8, 5>>,
    tensor<2x3x!vit.fixed<i8, [6, 7], axis = 0>>) -> tensor<4x2x!vit.fixed<i32, [11, 12], axis = 1>>
  %q = vit.pot_requant %a : (tensor<4x2x!vit.fixed<i32, [11, 12], axis = 1>>)
    -> tensor<4x2x!vit.fixed<i8, 4>>
  return %q : tensor<4x2x!vit.fixed<i8, 4>>
}
"""


def test_a_pipeline_changes_no_bit() -> None:
    rng = np.random.default_rng(0)
    inputs = {
        "input0": rng.integers(-128, 128, (4, 3)).astype(np.int8),
        "input1": rng.integers(-128, 128, (2, 3)).astype(np.int8),
    }
    plain = Parser(context(), SOURCE).parse_module()
    before = run_main(plain, inputs, evaluator(AssetStore()))["output0"]
    acc = inputs["input0"].astype(np.int64) @ inputs["input1"].T.astype(np.int64)
    expected = np.clip(np.add(acc, [[64, 128]]) >> [[7, 8]], -128, 127)
    np.testing.assert_array_equal(before, expected)

    linear, requant, last = list(next(iter(plain.ops)).regions[0].block.ops)
    for op in (linear, requant):
        op.detach()
    stop = ops.YieldOp([requant.results[0]])
    body = Region(Block([linear, requant, stop]))
    schedule = ops.ScheduleAttr(StringAttr("p2vit"), IntAttr(4))
    pipeline = ops.PipelineOp(body, schedule, [requant.results[0].type])
    block = last.parent_block()
    assert block is not None
    block.insert_op_before(pipeline, last)
    last.operands[0] = pipeline.results[0]
    plain.verify()
    after = run_main(plain, inputs, evaluator(AssetStore()))["output0"]
    np.testing.assert_array_equal(after, before)


def test_canonicalisation_leaves_no_hidden_uses() -> None:
    source = """
    func.func @main(%x: tensor<1x1x!vit.fixed<i8, [4], axis = 1>>)
        -> tensor<1x1x!vit.fixed<i8, [4], axis = 0>> {
      %0 = vit.transpose %x {permutation = array<i64: 1, 0>} :
        (tensor<1x1x!vit.fixed<i8, [4], axis = 1>>) -> tensor<1x1x!vit.fixed<i8, [4], axis = 0>>
      return %0 : tensor<1x1x!vit.fixed<i8, [4], axis = 0>>
    }"""
    module = Parser(context(), source).parse_module()
    CanonicalizePass().apply(context(), module)
    argument = next(iter(module.ops)).regions[0].block.args[0]
    assert argument.has_one_use()
