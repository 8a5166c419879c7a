"""What C merges does not depend on how `tile` cut the program into pipelines."""

import re
from pathlib import Path

from vit_opt.backends.c.levels import LEVELS
from vit_opt.backends.c.lowering import lower
from vit_opt.dialects.evaluation import main_function
from vit_opt.tools import api

EXAMPLES = Path(__file__).parent.parent / "examples"


def kernels(passes: str) -> list[str]:
    """Kernels that the EfficientViT-style example calls with AVX512-VNNI."""
    context = api.new_context()
    model = EXAMPLES / "digits_efficientvit" / "model.onnx"
    module = api.import_onnx(model, context=context)
    api.calibrate(module, context, EXAMPLES / "digits" / "calib.npz")
    api.run_pipeline(module, context, passes)
    lowered = lower(main_function(module), context.assets, LEVELS["avx512vnni"])
    return [call.kernel for call in lowered.calls]


def test_pipelines_hide_nothing() -> None:
    names = kernels("smooth,fold-scales,split-channels,fill-grids,quantize,pot-fold,fuse,tile")
    assert not [
        each for each in names if re.match("vit_conv2d_s16|vit_copy|vit_linear_attn$", each)
    ]
