"""The steps of the toolchain as functions on plain modules, for use from Python.

    from pathlib import Path
    from vit_opt.tools import api

    context = api.new_context()
    module = api.import_onnx("model.onnx", context=context)
    api.calibrate(module, context, Path("calib.npz"))
    api.run_pipeline(module, context, "smooth,quantize,pot-fold,verify-integer,prove-ranges,fuse,tile")
    api.build_c(module, context, Path("out/c"))
    api.build_accel(module, context, Path("out/accel"))

Or all of it as `vit-compile` does, and the result run as `vit-run` does:

    api.compile_model(Path("model.onnx"), Path("out"), api.CompileOptions(calib=Path("calib.npz")))
    result = api.run(Path("out"), "c", {"image": image})
    result.reals["logits"], result.codes["logits"]

A context may hold weights of several modules, so those that passes replace are kept; with one module
`run_pipeline(..., release=True)` forgets them, as the commands do.

Every step raises VitError for what a user can get wrong.
"""

from vit_opt.dialects.errors import VitError
from vit_opt.tools.build import build_accel, build_c
from vit_opt.tools.compile import compile_model
from vit_opt.tools.compile_options import CompileOptions
from vit_opt.tools.execution import RunResult
from vit_opt.tools.run import run_folder as run
from vit_opt.tools.steps import calibrate, import_onnx, new_context, provide_batches, run_pipeline

__all__ = [
    "CompileOptions",
    "RunResult",
    "VitError",
    "build_accel",
    "build_c",
    "calibrate",
    "compile_model",
    "import_onnx",
    "new_context",
    "provide_batches",
    "run",
    "run_pipeline",
]
