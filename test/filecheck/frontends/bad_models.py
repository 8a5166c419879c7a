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
    write_graphs(folder, relu)
    write_numbers(folder)
    write_data(folder)


def write_graphs(folder: Path, relu: list) -> None:
    """Graphs that are no graphs, or not of this time."""
    save = {
        "old": model(relu, opset=5),
        "new": model(relu, opset=99),
        "twice": model([*relu, node("Neg", ["x"], ["y"], "neg")]),
        "cycle": model(
            [
                node("Add", ["x", "c"], ["b"], "sum"),
                node("Neg", ["b"], ["c"], "neg"),
                node("Relu", ["c"], ["y"], "act"),
            ]
        ),
        "undefined": model([node("Add", ["x", "ghost"], ["y"], "sum")]),
        "inner": model(
            [node("MatMul", ["x", "w"], ["y"], "mm")], weights=[("w", np.ones((5, 4), np.float32))]
        ),
        "constant": model(
            [node("Identity", ["w"], ["y"], "id")], weights=[("w", np.ones((1, 4), np.float32))]
        ),
    }
    for name, each in save.items():
        onnx.save(each, folder / f"{name}.onnx")
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "folder.onnx").mkdir(exist_ok=True)


def write_numbers(folder: Path) -> None:
    """Weights, activations and scales outside of what integers can stand for."""
    weight = np.eye(4, dtype=np.float32)
    product = [node("MatMul", ["x", "w"], ["y"], "mm")]
    for name, factor in (("huge", 1e30), ("tiny", 1e-30), ("zero", 0.0), ("good_linear", 1.0)):
        made = model(product, weights=[("w", weight * np.float32(factor))])
        onnx.save(made, folder / f"{name}.onnx")
    infinite = weight.copy()
    infinite[0, 0] = np.inf
    onnx.save(model(product, weights=[("w", infinite)]), folder / "infinite.onnx")
    pair = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], "quantise"),
        node("DequantizeLinear", ["q", "s", "z"], ["y"], "dequantise"),
    ]
    for name, scale in (("scale_zero", 0.0), ("scale_negative", -0.5), ("scale_nan", np.nan)):
        weights = [("s", np.array(scale, np.float32)), ("z", np.array(0, np.int8))]
        onnx.save(model(pair, weights=weights), folder / f"{name}.onnx")


def write_data(folder: Path) -> None:
    """Calibration files."""
    np.savez(folder / "names.npz", z=np.zeros((1, 4), np.float32))
    np.savez(folder / "shapes.npz", x=np.zeros((1, 5), np.float32))
    np.savez(folder / "empty.npz", x=np.zeros((0, 4), np.float32))
    np.savez(folder / "dtypes.npz", x=np.zeros((1, 4), np.complex64))
    np.savez(folder / "good.npz", x=np.ones((2, 4), np.float32))
    np.savez(folder / "nan.npz", x=np.full((1, 4), np.nan, np.float32))
    np.savez(folder / "large.npz", x=np.full((1, 4), 1e300))
    (folder / "junk.npz").write_bytes(b"junk" * 9)
    (folder / "junk.npy").write_bytes(b"junk" * 9)
    np.save(folder / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "good.npy", np.ones((2, 4), np.float32))
    (folder / "truncated.npy").write_bytes((folder / "good.npy").read_bytes()[:-5])
    (folder / "no_data").mkdir(exist_ok=True)


main(Path(sys.argv[1]))
