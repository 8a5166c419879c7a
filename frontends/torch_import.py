"""Import of torch modules, through `torch.export` and torch's own ONNX exporter.

    module = import_torch(net, (torch.zeros(1, 3, 224, 224),), context=ctx)

torch is an optional dependency (`pip install vit-opt[torch]`) and is imported only here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from xdsl.dialects.builtin import ModuleOp

from vit_opt.dialects.assets import VitContext
from vit_opt.dialects.errors import VitError
from vit_opt.frontends.onnx_import import import_onnx

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 21
"""Operator set that is asked of the exporter: it has LayerNormalization and Gelu as operators."""


def import_torch(
    module: nn.Module,
    example_inputs: Sequence[Tensor],
    *,
    context: VitContext,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> ModuleOp:
    """Import a torch module, in evaluation mode, with the shapes of the example inputs (batch 1).

    Names default to the parameter names of `forward` and to those of the exporter. The module's
    training flag is put back. Raises VitError if torch or onnxscript is missing, if torch cannot
    export the module, and as `import_onnx` does.
    """
    try:
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingTypeStubs, reportUnusedImport]
        import torch
    except ImportError as error:
        raise VitError(f"import_torch needs torch and onnxscript: {error}") from error
    given = cast("object", module)
    if not isinstance(given, torch.nn.Module):
        raise VitError(f"import_torch takes a torch module, not {type(given).__name__}")
    training = module.training
    module.eval()
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet(), torch.no_grad():
            path = Path(folder) / "model.onnx"
            program = torch.export.export(module, tuple(example_inputs))
            _save(program, path, input_names, output_names)
            return import_onnx(path, context=context)
    except VitError:
        raise
    except Exception as error:  # whatever the module's own code raises while it is traced
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise VitError(f"torch cannot export {type(module).__name__}: {reason}") from error
    finally:
        module.train(training)


def _save(
    program: Any, path: Path, inputs: Sequence[str] | None, outputs: Sequence[str] | None
) -> None:
    """Write an exported program as ONNX with its weights beside it."""
    import torch

    export = cast("Callable[..., Any]", torch.onnx.export)
    exported = export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=inputs,
        output_names=outputs,
        verbose=False,
    )
    exported.save(str(path), external_data=True)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep the exporter's warnings and progress lines off the terminal."""
    disabled = logging.root.manager.disable
    streams = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with warnings.catch_warnings(), streams[0], streams[1]:
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
