"""Exports that went through other tools: down the whole road, the compiled C giving equal integers."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import apply, canonicalize, context, run_float, run_integer, sqnr
from models.export import export_onnx
from onnx import TensorProto, numpy_helper
from test_import_torch_models import IMAGE, model, reference

from vit_opt.backends.c.emit import emit_c
from vit_opt.backends.c.run import CModel
from vit_opt.frontends.onnx_import import import_onnx
from vit_opt.passes.pipelines import POT_ROAD, RAISE


def simplified(path: Path) -> onnx.ModelProto:
    """By onnxsim: MatMul and Add become Gemm between reshapes."""
    import onnxsim

    with contextlib.redirect_stdout(io.StringIO()):
        found, _ = onnxsim.simplify(onnx.load(path))
    return found


def fused(path: Path) -> onnx.ModelProto:
    """By ONNX Runtime's transformer optimiser."""
    from onnxruntime.transformers.optimizer import optimize_model

    logging.disable(logging.WARNING)
    try:
        found = optimize_model(str(path), "vit", num_heads=3, hidden_size=48, opt_level=0)
        found.save_model_to_file(str(path))
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(path)


def half_weights(path: Path) -> onnx.ModelProto:
    """float16 initializers, each followed by a Cast."""
    found = onnx.load(path)
    casts: list[onnx.NodeProto] = []
    for tensor in found.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
            casts.append(
                onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
            )
    nodes = [*casts, *found.graph.node]
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found


TOOLS: dict[str, Callable[[Path], onnx.ModelProto]] = {
    "onnxsim": simplified,
    "onnxruntime": fused,
    "float16 weights": half_weights,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_from_the_tool_to_c(tmp_path: Path, tool: str) -> None:
    plain = export_onnx(model(), tmp_path / "m.onnx", 17)
    path = tmp_path / "changed.onnx"
    onnx.save(TOOLS[tool](plain), path)
    expected = reference(path)
    rng = np.random.default_rng(4)
    ctx = context(
        [{"input": rng.standard_normal(IMAGE.shape).astype(np.float32)} for _ in range(4)]
    )
    module = import_onnx(path, context=ctx)
    apply(ctx, module, *RAISE)
    [raised] = run_float(ctx, module, {"input": IMAGE}).values()
    assert np.abs(raised - expected).max() < 1e-4 * np.abs(expected).max()

    apply(ctx, module, *POT_ROAD[len(RAISE) : POT_ROAD.index("tile")])
    canonicalize(ctx, module)
    [integers] = run_integer(ctx, module, {"input": IMAGE}).values()
    assert sqnr(expected, integers) > 20
    emit_c(module, ctx.assets, tmp_path / "c")
    [codes] = CModel(tmp_path / "c").run({"input": IMAGE}).values()
    [border] = [op for op in module.walk() if op.name == "vit.dequantize"]
    scale = border.x.type.get_element_type().channel_scales()
    np.testing.assert_array_equal(codes * scale, integers)
