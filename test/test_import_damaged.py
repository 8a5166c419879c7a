"""Damaged files: whatever bytes are lost or changed, an import succeeds or ends in one line."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.frontends.onnx_import import import_onnx


@cache
def whole() -> bytes:
    """A small attention with shape arithmetic, a quantised weight, a branch and a fused operator."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def branch(name: str, operator: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])
        return helper.make_graph([helper.make_node(operator, ["y"], [name])], name, [], [value])

    node = helper.make_node
    nodes = [
        node("DequantizeLinear", ["w8", "scale", "zero"], ["w"], "dequantise", axis=1),
        node("MatMul", ["x", "w"], ["m"], "linear"),
        node("BiasGelu", ["m", "b"], ["g"], "gelu", domain="com.microsoft"),
        node("Shape", ["x"], ["s"], "shape"),
        node("Slice", ["s", "from", "to"], ["lead"], "cut"),
        node("Concat", ["lead", "heads"], ["split"], "sizes", axis=0),
        node("Reshape", ["g", "split"], ["h"], "by_heads"),
        node("Transpose", ["h"], ["t"], "turn", perm=[0, 2, 1, 3]),
        node("Einsum", ["t", "t"], ["e"], "scores", equation="bhid,bhjd->bhij"),
        node("Softmax", ["e"], ["p"], "softmax", axis=-1),
        node("MatMul", ["p", "t"], ["y"], "values"),
        node("Equal", ["lead", "lead"], ["same"], "compare"),
        node("ReduceMin", ["number"], ["least"], "least", keepdims=0),
        node("Cast", ["least"], ["condition"], "cast", to=TensorProto.BOOL),
        node(
            "If",
            ["condition"],
            ["z"],
            "choose",
            then_branch=branch("yes", "Relu"),
            else_branch=branch("no", "Neg"),
        ),
    ]
    arrays = {
        "w8": rng.integers(-127, 128, (8, 12)).astype(np.int8),
        "scale": np.full(12, 2.0**-7, np.float32),
        "zero": np.zeros(12, np.int8),
        "b": weight(12),
        "from": np.array([0]),
        "to": np.array([2]),
        "heads": np.array([3, 4]),
        "number": np.array([1]),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets).SerializeToString()


def outcome(path: Path, data: bytes) -> str:
    """ "" where the import works, else its message."""
    path.write_bytes(data)
    try:
        import_onnx(path, context=VitContext())
    except VitError as error:
        text = str(error)
        assert text and text.isprintable()
        return text
    return ""


def test_the_whole_file_is_imported(tmp_path: Path) -> None:
    assert outcome(tmp_path / "m.onnx", whole()) == ""


def test_every_truncation_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = whole()
    for length in range(0, len(data) - 30, 7):  # the last bytes say the opset; then it is whole
        assert outcome(tmp_path / "m.onnx", data[:length])
    assert capfd.readouterr() == ("", "")


CHANGES = st.lists(
    st.tuples(st.integers(0, len(whole()) - 1), st.integers(0, 255)), min_size=1, max_size=3
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(CHANGES, st.sampled_from(["replace", "flip", "drop"]))
def test_changed_bytes_never_end_in_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], changes: list[tuple[int, int]], how: str
) -> None:
    data = bytearray(whole())
    for position, value in changes:
        place = position % len(data)
        if how == "replace":
            data[place] = value
        elif how == "flip":
            data[place] ^= 1 << value % 8
        else:
            del data[place : place + 1 + value % 8]
    outcome(tmp_path / "m.onnx", bytes(data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", [b"gelu", b"heads", b"scale", b"Softmax", b"axis", b"yes", b"Relu"]
)
def test_names_that_are_no_text(tmp_path: Path, name: bytes) -> None:
    data = whole().replace(name, b"\xfe" + name[1:])
    assert data != whole()
    assert outcome(tmp_path / "m.onnx", data)
