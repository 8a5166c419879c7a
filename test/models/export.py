"""ONNX export of torch modules, and quantised (QDQ) copies written by ONNX Runtime."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Exporter = Literal["torchscript", "dynamo"]


def export_onnx(
    module: nn.Module,
    path: Path | str,
    opset: int,
    exporter: Exporter = "torchscript",
    *,
    inputs: Sequence[torch.Tensor] | None = None,
    dynamic_batch: bool = False,
    input_names: Sequence[str] = ("input",),
    output_names: Sequence[str] = ("output",),
    external_data: bool = False,
) -> Path:
    """Writes `module` to `path` (returned) as `torch.onnx.export` does it.

    `inputs` default to one zero image of the size in `module.config`. `dynamic_batch` makes
    axis 0 of all inputs symbolic. `external_data` puts the weights into a second file (dynamo
    only; the TorchScript exporter does so by itself above 2 GB).
    """
    path = Path(path)
    args = tuple(inputs) if inputs is not None else (_default_input(module),)
    names = list(input_names), list(output_names)
    with _quiet():
        if exporter == "torchscript":
            axes = {n: {0: "batch"} for group in names for n in group} if dynamic_batch else None
            torch.onnx.export(
                module.eval(),
                args,
                path,
                dynamo=False,
                opset_version=opset,
                input_names=names[0],
                output_names=names[1],
                dynamic_axes=axes,
            )
        else:
            shapes = None
            if dynamic_batch:
                batch = torch.export.Dim("batch", min=1, max=64)
                args = tuple(torch.cat([a, a]) for a in args)  # a batch of 1 would specialise
                shapes = tuple({0: batch} for _ in args)
            torch.onnx.export(
                module.eval(),
                args,
                path,
                dynamo=True,
                opset_version=opset,
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=shapes,
                external_data=external_data,
                verbose=False,
            )
    return path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the exporters' and the quantiser's warnings and progress lines."""
    loggers = [logging.getLogger(), logging.getLogger("torch.onnx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _default_input(module: nn.Module) -> torch.Tensor:
    config: Any = module.config
    return torch.zeros(1, config.in_channels, config.image_size, config.image_size)


def quantize_qdq(
    float_model: Path | str,
    path: Path | str,
    batches: Iterable[dict[str, NDArray[np.float32]]],
    *,
    activations: Literal["int8", "uint8"] = "uint8",
    per_channel: bool = True,
    preprocess: bool = True,
) -> Path:
    """Writes the QDQ form of `float_model` to `path` (returned) by ORT's `quantize_static`.

    `batches` are calibration feeds by input name. Weights are int8, per channel if
    `per_channel`; `preprocess` first runs ORT's recommended shape inference and optimisation.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands the feeds out one by one, as ORT asks for it."""

        def __init__(self) -> None:
            self.feeds = iter(list(batches))

        def get_next(self) -> Any:
            return next(self.feeds, None)

    path = Path(path)
    source = Path(float_model)
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        if preprocess:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(source), str(prepared))
            source = prepared
        quantize_static(
            str(source),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8 if activations == "int8" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
        )
    return path
