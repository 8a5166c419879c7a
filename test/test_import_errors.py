"""What the importer refuses: every refusal is one line that names the place and the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.evaluation import main_function
from vit_opt.frontends.onnx_import import import_onnx

Array = NDArray[Any]
F32 = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str | None] = (1, 4),
    weights: Mapping[str, Array] | None = None,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model from input x to output y."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", F32, shape)],
        [helper.make_tensor_value_info("y", F32, None)],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in domains)]
    result = helper.make_model(graph, opset_imports=opsets)
    result.ir_version = 8
    return result


def message(source: onnx.ModelProto | Path, **options: Any) -> str:
    """The error of an import, checked to be one line."""
    with pytest.raises(VitError) as caught:
        import_onnx(source, context=VitContext(), **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


RELU = helper.make_node("Relu", ["x"], ["y"], "act")


def test_all_unsupported_operators_are_listed_at_once() -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["d"], "first"),
        helper.make_node("Relu", ["d"], ["r"], "fine"),
        helper.make_node("Mystery", ["r"], ["m"], "second", domain="acme"),
        helper.make_node("Det", ["m"], ["y"], "third"),
    ]
    text = message(model(nodes, (2, 2), domains=["acme"]))
    assert "Det (opset 17, node first)" in text
    assert "acme.Mystery (opset 1, node second)" in text
    assert "Det (opset 17, node third)" in text
    assert "Relu" not in text


def test_control_flow() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])],
        "b",
        [],
        [helper.make_tensor_value_info("b", F32, None)],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], "choose", then_branch=branch, else_branch=branch),
    ]
    assert "If (opset 17, node choose): control flow" in message(model(nodes))


def test_branch_with_a_constant_condition_is_resolved() -> None:
    """As exporters of `squeeze` write it: the condition follows from a static shape."""
    results = [helper.make_tensor_value_info(name, F32, ["n"]) for name in ("a", "b")]
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["a"])], "t", [], results[:1])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["b"])], "e", [], results[1:])
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["size"]),
        helper.make_node("Equal", ["size", "four"], ["same"]),
        helper.make_node("If", ["same"], ["y"], "choose", then_branch=then, else_branch=other),
    ]
    weights = {"one": np.array(1, np.int64), "four": np.array(4, np.int64)}
    module = import_onnx(model(nodes, ("n", 4), weights), context=VitContext())
    names = [op.name for op in main_function(module).body.block.ops]
    assert names == ["onnx.Relu", "func.return"]


def test_sparse_weights() -> None:
    broken = model([RELU])
    values = helper.make_tensor("w", F32, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    broken.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    assert "sparse weights are not supported: w" in message(broken)


def test_open_dimensions_ask_for_a_shape() -> None:
    open_model = model([RELU], ("batch", 3, "height", None))
    text = message(open_model)
    assert "input x has dynamic dimensions [batch, 3, height, ?]" in text
    assert "--shape x=1x3x224x224" in text
    module = import_onnx(open_model, shapes={"x": (1, 3, 8, 8)}, context=VitContext())
    assert str(main_function(module).function_type.inputs.data[0]) == "tensor<1x3x8x8xf32>"


def test_given_shape_must_fit() -> None:
    assert "has shape [batch, 4], but [1, 5] was given" in message(
        model([RELU], ("batch", 4)), shapes={"x": (1, 5)}
    )
    assert "no input z; the model's inputs are x" in message(model([RELU]), shapes={"z": (1, 4)})


def test_batch_becomes_one() -> None:
    module = import_onnx(model([RELU], ("n", 4)), context=VitContext())
    assert str(main_function(module).function_type.outputs.data[0]) == "tensor<1x4xf32>"


def test_fixed_batch() -> None:
    assert "input x has the fixed batch 8" in message(model([RELU], (8, 3, 4, 4)))


def test_zero_size() -> None:
    assert "dimension of size zero" in message(model([RELU], (1, 0)))


def test_empty_parts_of_a_concat_go() -> None:
    """A roll by nothing is exported as x[0:] and x[0:0] put together."""
    nodes = [
        helper.make_node("Slice", ["x", "zero", "zero", "one"], ["e"], "empty"),
        helper.make_node("Concat", ["x", "e"], ["y"], "join", axis=1),
    ]
    found = model(nodes, (1, 4))
    numbers = {"zero": 0, "one": 1}
    found.graph.initializer.extend(
        numpy_helper.from_array(np.array([value]), name) for name, value in numbers.items()
    )
    block = main_function(import_onnx(found, context=VitContext())).body.block
    assert [op.name for op in block.ops] == ["onnx.Concat", "func.return"]
    assert len(block.first_op.operands) == 1
    del found.graph.node[1], found.graph.output[:]
    found.graph.node[0].output[0] = "y"
    found.graph.output.append(helper.make_tensor_value_info("y", F32, None))
    assert "Slice (opset 17, node empty): y has a dimension of size zero" in message(found)


def test_data_dependent_shape() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"], "find"),
        helper.make_node("Cast", ["n"], ["y"], "cast", to=F32),
    ]
    text = message(model(nodes))
    assert "NonZero (opset 17, node find)" in text
    assert "node cast" not in text  # it follows from the other


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_weights(value: float) -> None:
    weights = np.ones((4, 32), np.float32)
    weights[1, 2] = value
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")]
    word = "NaN" if np.isnan(value) else "infinity"
    assert f"weight w contains {word}" in message(model(nodes, weights={"w": weights}))


def test_files_that_are_no_models(tmp_path: Path) -> None:
    text = tmp_path / "a.onnx"
    text.write_text("this is not a model")
    assert "not an ONNX model" in message(text)
    empty = tmp_path / "b.onnx"
    empty.write_bytes(b"")
    assert "not an ONNX model" in message(empty)
    assert "cannot be read: No such file" in message(tmp_path / "none.onnx")
    assert "cannot be read" in message(tmp_path)


def test_truncated_files(tmp_path: Path) -> None:
    whole = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")],
        weights={"w": np.ones((4, 99), np.float32)},
    ).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in (10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        assert str(path) in message(path)


def test_missing_external_data(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")]
    path = tmp_path / "m.onnx"
    onnx.save(
        model(nodes, weights={"w": np.ones((4, 999), np.float32)}),
        path,
        save_as_external_data=True,
        location="m.data",
    )
    import_onnx(path, context=VitContext())
    (tmp_path / "m.data").write_bytes(b"\0" * 100)
    assert "weight w cannot be read" in message(path)
    (tmp_path / "m.data").unlink()
    assert "weight w cannot be read" in message(path)


def test_reasons_of_single_operators() -> None:
    kernel = np.ones((2, 3, 3), np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv1d")]
    assert "only [N, C, H, W] is supported" in message(model(nodes, (1, 3, 9), {"w": kernel}))
    nodes = [helper.make_node("Clip", ["x", "", "x"], ["y"], "clip")]
    nodes.insert(0, helper.make_node("ReduceMax", ["x"], ["top"], "top", keepdims=0))
    nodes[1].input[2] = "top"
    assert "max is computed by the model" in message(model(nodes))
    nodes = [helper.make_node("MaxPool", ["x"], ["y", "i"], "pool", kernel_shape=[2, 2])]
    pool = model(nodes, (1, 1, 4, 4))
    pool.graph.output.append(helper.make_tensor_value_info("i", TensorProto.INT64, None))
    assert "MaxPool (opset 17, node pool): its output i is used" in message(pool)


def test_shapes_that_do_not_fit_are_not_called_dynamic() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[-9] * 4)
    text = message(model([node], (1, 4, 4, 4), {"w": np.ones((4, 4, 1, 1), np.float32)}))
    assert "operands of shapes [1, 4, 4, 4], [4, 4, 1, 1] do not fit together" in text


def test_negative_sizes() -> None:
    broken = model([helper.make_node("MatMul", ["x", "w"], ["y"])], weights={"w": np.ones((4, 4))})
    broken.graph.initializer[0].dims[0] = -4
    assert "weight w has a negative size, [-4, 4]" in message(broken)


def test_inconsistent_node() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")]
    text = message(model(nodes, (1, 4), {"w": np.ones((5, 20), np.float32)}))
    assert "mm" in text


def test_undefined_value() -> None:
    nodes = [helper.make_node("Add", ["x", "ghost"], ["y"], "sum")]
    assert "ghost" in message(model(nodes))


def test_output_that_is_a_constant() -> None:
    nodes = [helper.make_node("Identity", ["w"], ["y"], "copy")]
    module = import_onnx(model(nodes, weights={"w": np.ones(3, np.float32)}), context=VitContext())
    assert str(main_function(module).function_type.outputs.data[0]) == "tensor<3xf32>"


def test_scalar_and_missing_inputs() -> None:
    assert "input x is a single number, no tensor" in message(model([RELU], ()))
    nothing = model([helper.make_node("Identity", ["w"], ["y"], "copy")], weights={"w": np.ones(3)})
    del nothing.graph.input[:]
    assert message(nothing) == "the model has no input"


def test_an_input_that_is_an_output() -> None:
    odd = model([RELU])
    odd.graph.output.append(odd.graph.input[0])
    assert message(odd) == "x is input and output of the model; leave the output out"


def test_indices_out_of_range(tmp_path: Path) -> None:
    from vit_opt.dialects.evaluation import run_main
    from vit_opt.dialects.onnx.semantics import evaluate

    tokens = model(
        [helper.make_node("Gather", ["w", "x"], ["y"], "embed")],
        weights={"w": np.ones((4, 99), np.float32)},
    )
    tokens.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    context = VitContext()
    module = import_onnx(tokens, context=context)
    feeds = {"x": np.array([[0, 3, 7, 1]])}
    with pytest.raises(VitError, match="embed: indices reach from 0 to 7, but there are 4 entries"):
        run_main(module, feeds, lambda op, args: evaluate(op, args, context.assets))
