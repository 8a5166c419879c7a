"""Writes ONNX files with one mistake each, and calibration files that do not fit: `bad_models.py DIR`."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(nodes, *, shape=(1, 4), weights=(), opset=17):
    """A model with one input x and one output y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def node(operator, inputs, outputs, name, **attributes):
    """One node."""
    return helper.make_node(operator, inputs, outputs, name=name, **attributes)


def main(folder: Path) -> None:
    """Write all files."""
    folder.mkdir(parents=True, exist_ok=True)
    relu = [node("Relu", ["x"], ["y"], "act")]
    good = model(relu)
    onnx.save(good, folder / "good.onnx")
    (folder / "truncated.onnx").write_bytes(good.SerializeToString()[:40])
    (folder / "text.onnx").write_text("this is not a model\n")
    unsupported = [node("Det", ["x"], ["a"], "first"), node("NonZero", ["a"], ["y"], "second")]
    onnx.save(model(unsupported, shape=(4, 4)), folder / "unsupported.onnx")
    branch = helper.make_graph(
        relu, "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    )
    choice = [
        node("ReduceSum", ["x"], ["s"], "sum", keepdims=0),
        node("Cast", ["s"], ["c"], "cast", to=TensorProto.BOOL),
        node("If", ["c"], ["y"], "choice", then_branch=branch, else_branch=branch),
    ]
    onnx.save(model(choice), folder / "control_flow.onnx")
    onnx.save(model(relu, shape=("batch", 3, "height", "width")), folder / "dynamic.onnx")
    add = [node("Add", ["x", "w"], ["y"], "add")]
    nan = [("w", np.array([1, np.nan, 0, 0], np.float32))]
    onnx.save(model(add, weights=nan), folder / "nan.onnx")
    external = model(add, weights=[("w", np.ones(4, np.float32))])
    onnx.save(
        external,
        folder / "external.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (folder / "weights.bin").unlink()
    onnx.save(model(relu, shape=(1, 0)), folder / "empty_dimension.onnx")
    np.savez(folder / "names.npz", z=np.zeros((1, 4), np.float32))
    np.savez(folder / "shapes.npz", x=np.zeros((1, 5), np.float32))
    np.savez(folder / "empty.npz", x=np.zeros((0, 4), np.float32))
    np.savez(folder / "dtypes.npz", x=np.zeros((1, 4), np.complex64))
    np.savez(folder / "good.npz", x=np.ones((2, 4), np.float32))


main(Path(sys.argv[1]))
