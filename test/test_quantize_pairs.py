"""Formats that a QDQ model brings along."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import apply, context
from onnx import helper, numpy_helper

from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, QuantizedType, ScaledType
from vit_opt.dialects.vit.ops.base import format_of
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.pipelines import RAISE
from vit_opt.passes.quantization.pairs import Given

Pair = tuple[float, int, type]


def formats_of(pairs: list[Pair], *, beside: bool = False) -> list[QuantizedType]:
    """Formats of a MatMul's requantised results behind these pairs.

    `beside` lets a sum read the product without a pair.
    """
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    nodes, constants, value = [helper.make_node("MatMul", ["x", "w"], ["m"], "m")], [], "m"
    for i, (scale, zero, dtype) in enumerate(pairs):
        constants.append(numpy_helper.from_array(np.float32(scale), f"s{i}"))
        constants.append(numpy_helper.from_array(np.asarray(zero, dtype), f"z{i}"))
        nodes += [
            helper.make_node("QuantizeLinear", [value, f"s{i}", f"z{i}"], [f"q{i}"]),
            helper.make_node("DequantizeLinear", [f"q{i}", f"s{i}", f"z{i}"], [f"d{i}"]),
        ]
        value = f"d{i}"
    nodes.append(helper.make_node("MatMul", [value, "w"], ["n" if beside else "y"], "n"))
    if beside:
        nodes.append(helper.make_node("Add", ["n", "m"], ["y"], "sum"))
    ports = [helper.make_tensor_value_info(name, 1, [1, 5, 8]) for name in "xy"]
    constants.append(numpy_helper.from_array(weight, "w"))
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    image = {"x": rng.standard_normal((1, 5, 8)).astype(np.float32)}
    ctx = context([image])
    module = import_onnx(model, context=ctx)
    apply(ctx, module, *RAISE, "calibrate", "quantize")
    return [
        format_of(op.results[0])
        for op in module.walk()
        if isinstance(op, ops.RequantOp | ops.PotRequantOp)
    ]


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((0.0625, 0, np.int8), FixedType("i8", 4)),
        ((0.0625, 128, np.uint8), FixedType("i8", 4)),
        ((0.0625, 100, np.uint8), FixedType("ui8", 4, 100)),
        ((float(np.float32(0.07)), 3, np.int8), ScaledType("i8", float(np.float32(0.07)), 3)),
    ],
)
def test_a_product_reads_the_format_of_the_pair(pair: Pair, expected: QuantizedType) -> None:
    found = formats_of([pair])
    assert found[0] == expected and len(found) == 2


def test_of_two_pairs_the_first_counts() -> None:
    found = formats_of([(0.0625, 0, np.int8), (0.5, 0, np.int8)])
    assert found[0] == FixedType("i8", 4) and len(found) == 2


def test_a_sum_beside_the_pair_keeps_its_precision() -> None:
    found = formats_of([(0.5, 0, np.int8)], beside=True)
    assert FixedType("i8", 1) in found
    assert not any(each.storage.width.data == 8 for each in found if each != FixedType("i8", 1))


def test_who_can_read_a_given_format() -> None:
    fixed, scaled = FixedType("i8", 4), ScaledType("ui8", 0.1, 7)
    assert Given(fixed, True).fits(8, symmetric=True, pot=True)
    assert not Given(scaled, True).fits(8, symmetric=True, pot=False)
    assert not Given(scaled, True).fits(8, symmetric=False, pot=True)
    assert Given(fixed, True).fits(16, symmetric=True, pot=True)
    assert not Given(fixed, False).fits(16, symmetric=True, pot=True)
    assert not Given(FixedType("i16", 9), True).fits(8, symmetric=True, pot=True)
