"""Models that take bytes: pixels behind a Cast, codes behind a DequantizeLinear."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vit_opt.dialects.errors import VitError
from vit_opt.tools import api

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 12), np.uint8)


def byte_model(path: Path, reader: str, storage: int = TensorProto.UINT8) -> None:
    """A linear layer on (x / 255 - 1/2) * 2 (`Cast`) or on (x - 128) / 64 (`DequantizeLinear`)."""
    constants: dict[str, np.ndarray] = {"w": np.random.default_rng(1).normal(0, 0.1, (12, 5))}
    if reader == "Cast":
        constants |= {"a": np.array(255.0), "b": np.array(0.5), "c": np.array(2.0)}
        steps = (("Div", "x0", "a", "x1"), ("Sub", "x1", "b", "x2"), ("Mul", "x2", "c", "x3"))
        nodes = [helper.make_node("Cast", ["x"], ["x0"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node(op, [p, q], [y]) for op, p, q, y in steps]
    else:
        constants |= {"a": np.array(1 / 64), "z": np.array(128, np.uint8)}
        nodes = [helper.make_node(reader, ["x", "a", "z"], ["x3"])]
    weights = [
        numpy_helper.from_array(v if v.dtype == np.uint8 else v.astype(np.float32), name)
        for name, v in constants.items()
    ]
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["x3", "w"], ["y"], name="product")],
        "bytes",
        [helper.make_tensor_value_info("x", storage, ["N", 1, 8, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1, 8, 5])],
        weights,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


@pytest.mark.parametrize("reader", ["Cast", "DequantizeLinear"])
def test_bytes_run_as_they_are(tmp_path, reader) -> None:
    """The input has exactly the file's integers, although the calibration saw only some of them."""
    from onnxruntime import InferenceSession

    model, data = tmp_path / "model.onnx", tmp_path / "calib.npz"
    byte_model(model, reader)
    np.savez(data, x=PIXELS // 2)
    api.compile_model(model, tmp_path / "out", api.CompileOptions(calib=data))
    codes = {b: api.run(tmp_path / "out", b, {"x": PIXELS}) for b in ("reference", "c", "accel")}
    for each in codes.values():
        np.testing.assert_array_equal(each.codes["y"], codes["reference"].codes["y"])
    text = (tmp_path / "out" / "report.txt").read_text()
    assert "!vit.fixed<ui8, 0>" in text
    (expected,) = InferenceSession(model).run(None, {"x": PIXELS})
    error = codes["c"].reals["y"] - expected
    assert 10 * np.log10((expected**2).sum() / (error**2).sum()) > 20


def test_integers_read_by_other_operators_are_refused(tmp_path) -> None:
    byte_model(tmp_path / "model.onnx", "Cast")
    model = onnx.load(tmp_path / "model.onnx")
    model.graph.node[0].attribute[0].i = TensorProto.INT32
    with pytest.raises(VitError, match=r"input x holds integers, which node x0 \(Cast\) reads"):
        api.import_onnx(model, context=api.new_context())
