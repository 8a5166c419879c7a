"""The steps of the toolchain as functions on plain modules, for use from Python.

    from pathlib import Path
    from vit_opt.tools import api

    context = api.new_context()
    module = api.import_onnx("model.onnx", context=context)
    api.calibrate(module, context, data=Path("calib.npz"))
    api.run_pipeline(module, context, "smooth,quantize,pot-fold,verify-integer,prove-ranges,fuse,tile")
    api.build_c(module, context, Path("out/c"))
    api.build_accel(module, context, Path("out/accel"))

Or all of it as `vit-compile` does, and the result run as `vit-run` does:

    api.compile_model(Path("model.onnx"), Path("out"), calib=Path("calib.npz"))
    outputs = api.run(Path("out"), "c", {"image": image})

Every step raises VitError for what a user can get wrong.
"""

from __future__ import annotations
