"""ONNX Runtime and OpenVINO, set up as well as they can be.

* All graph optimisations are on, sessions run one operator after the other (the fastest for these
  models), thread counts are given, nothing is left to defaults that depend on the machine's size.
* OpenVINO's default on a CPU with bf16 instructions is bf16 wherever a model says f32. The
  precision is always stated here: rows `f32` forbid it, rows `bf16` ask for it.
* Quantisation is what the projects recommend for transformers: dynamic int8 weights; static QDQ
  with unsigned activations and signed per-channel weights; NNCF with its transformer preset.
  All of them calibrate on the same inputs as we do.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from vit_opt.dialects.errors import VitError
from vit_opt.tools.benchmarks.contest import Contestant, timed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Batch: TypeAlias = dict[str, NDArray[Any]]

ORT_F32, ORT_DYNAMIC, ORT_STATIC = "ORT f32", "ORT dynamic int8", "ORT static U8S8"
OV_F32, OV_BF16 = "OpenVINO f32", "OpenVINO bf16"
OV_INT8, OV_INT8_BF16 = "OpenVINO int8, f32", "OpenVINO int8, bf16"

PEERS = (ORT_F32, ORT_DYNAMIC, ORT_STATIC, OV_F32, OV_BF16, OV_INT8, OV_INT8_BF16)
"""Every peer; the first one is what the others are compared with."""

FILES: Mapping[str, str] = {
    ORT_F32: "float.onnx",
    ORT_DYNAMIC: "dynamic.onnx",
    ORT_STATIC: "static.onnx",
    OV_F32: "float.onnx",
    OV_BF16: "float.onnx",
    OV_INT8: "nncf.xml",
    OV_INT8_BF16: "nncf.xml",
}
"""The prepared model that a peer runs."""


def require_onnxruntime() -> None:
    """Raise VitError if there is no ONNX Runtime to compare with."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise VitError("vit-bench cpu compares with ONNX Runtime: pip install 'vit-opt[bench]'")


def missing_peers() -> dict[str, str]:
    """Peers that are not installed, with the reason."""
    found: dict[str, str] = {}
    for package, names in (
        ("openvino", (OV_F32, OV_BF16, OV_INT8, OV_INT8_BF16)),
        ("nncf", (OV_INT8, OV_INT8_BF16)),
    ):
        if importlib.util.find_spec(package) is None:
            found |= {name: f"{package} is not installed" for name in names}
    return found


# ---- preparing -----------------------------------------------------------------------------------


def prepare(
    model: Path, folder: Path, batches: Sequence[Batch], wanted: Sequence[str]
) -> dict[str, str]:
    """Write the quantised models that the peers in `wanted` need; files that exist are kept.

    Returns the peers that failed, with what they said.
    """
    failed = {name: why for name, why in missing_peers().items() if name in wanted}
    makers: dict[str, Callable[[Path], None]] = {
        "dynamic.onnx": lambda path: _quantize_dynamic(model, path),
        "static.onnx": lambda path: _quantize_static(model, path, batches),
        "nncf.xml": lambda path: _quantize_nncf(model, path, batches),
    }
    for file, make in makers.items():
        users = [name for name in wanted if FILES[name] == file and name not in failed]
        if not users or (folder / file).exists():
            continue
        try:
            with _quiet():
                make(folder / file)
        except Exception as error:  # other projects' failures are results, not ours to sort
            failed |= {name: first_line(error) for name in users}
    return failed


def first_line(error: Exception) -> str:
    """An exception in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200] if text else ''}"


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Hide progress lines and warnings of the quantisers."""
    logger = logging.getLogger()
    level = logger.level
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _preprocessed(model: Path, target: Path) -> str:
    """The model after ONNX Runtime's recommended preparation, as a file beside `target`."""
    shapes: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
    path = str(target.with_suffix(".prepared"))
    shapes.quant_pre_process(str(model), path)
    return path


def _quantize_dynamic(model: Path, target: Path) -> None:
    tools: Any = importlib.import_module("onnxruntime.quantization")
    source = _preprocessed(model, target)
    tools.quantize_dynamic(source, str(target), weight_type=tools.QuantType.QInt8)
    Path(source).unlink()


class _Reader:
    """Hands calibration inputs out one by one, as ONNX Runtime asks for them."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Batch | None:
        """The next inputs."""
        return next(self._batches, None)


def _quantize_static(model: Path, target: Path, batches: Sequence[Batch]) -> None:
    tools: Any = importlib.import_module("onnxruntime.quantization")
    source = _preprocessed(model, target)
    tools.CalibrationDataReader.register(_Reader)
    tools.quantize_static(
        source,
        str(target),
        _Reader(batches),
        quant_format=tools.QuantFormat.QDQ,
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
        per_channel=True,
    )
    Path(source).unlink()


def _quantize_nncf(model: Path, target: Path, batches: Sequence[Batch]) -> None:
    tools: Any = importlib.import_module("nncf")
    runtime: Any = importlib.import_module("openvino")
    tools.set_log_level(logging.ERROR)
    quantised = tools.quantize(
        runtime.Core().read_model(str(model)),
        tools.Dataset(list(batches)),
        model_type=tools.ModelType.TRANSFORMER,
        subset_size=len(batches),
    )
    runtime.save_model(quantised, str(target), compress_to_fp16=False)


# ---- running -------------------------------------------------------------------------------------


def open_peer(name: str, folder: Path, feed: Batch, threads: int, repeats: int = 1) -> Contestant:
    """A peer, ready to run its prepared model in `folder` on one feed, `repeats` times a batch."""
    path = folder / FILES[name]
    if name in (ORT_F32, ORT_DYNAMIC, ORT_STATIC):
        body, note = _open_ort(path, feed, threads)
    else:
        precision = "bf16" if name in (OV_BF16, OV_INT8_BF16) else "f32"
        body, note = _open_openvino(path, feed, threads, precision)
    if repeats == 1:
        return Contestant(name, timed(body), note)

    def loop() -> None:
        for _ in range(repeats):
            body()

    return Contestant(name, timed(loop), f"{note}; {repeats} single inferences a batch")


def _open_ort(path: Path, feed: Batch, threads: int) -> tuple[Callable[[], object], str]:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda: session.run(names, feed), "all graph optimisations, sequential"


def _open_openvino(
    path: Path, feed: Batch, threads: int, precision: str
) -> tuple[Callable[[], object], str]:
    runtime: Any = importlib.import_module("openvino")
    core = runtime.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise VitError("this CPU has no bf16")
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    request = compiled.create_infer_request()
    note = f"INFERENCE_PRECISION_HINT {precision}, PERFORMANCE_HINT LATENCY, 1 stream"
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True), note
