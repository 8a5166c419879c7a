"""Operations of the `vit` dialect, by what they do."""

from vit_opt.dialects.vit.ops.base import VitOp, format_of, shape_of, tensor_type
from vit_opt.dialects.vit.ops.border import ConstantOp, DequantizeOp, QuantizeOp
from vit_opt.dialects.vit.ops.linear import (
    Conv2dOp,
    ConvTranspose2dOp,
    LinearAttnOp,
    LinearOp,
    Log2MatmulOp,
    MatmulOp,
)
from vit_opt.dialects.vit.ops.movement import (
    ConcatOp,
    GatherOp,
    PadOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
)
from vit_opt.dialects.vit.ops.nonlinear import (
    LayerNormOp,
    Log2SoftmaxOp,
    LutOp,
    NormalizeOp,
    ShiftGeluOp,
    ShiftmaxOp,
    SoftmaxExpOp,
)
from vit_opt.dialects.vit.ops.pipeline import LoopsAttr, PipelineOp, ScheduleAttr, YieldOp
from vit_opt.dialects.vit.ops.pooling import AvgPool2dOp, MaxPool2dOp, MeanOp, ResizeOp
from vit_opt.dialects.vit.ops.requant import (
    AddOp,
    ClampOp,
    MulOp,
    PotRequantOp,
    ReinterpretOp,
    RequantOp,
)

__all__ = [
    "AddOp",
    "AvgPool2dOp",
    "ClampOp",
    "ConcatOp",
    "ConstantOp",
    "Conv2dOp",
    "ConvTranspose2dOp",
    "DequantizeOp",
    "GatherOp",
    "LayerNormOp",
    "LinearAttnOp",
    "LinearOp",
    "Log2MatmulOp",
    "Log2SoftmaxOp",
    "LoopsAttr",
    "LutOp",
    "MatmulOp",
    "MaxPool2dOp",
    "MeanOp",
    "MulOp",
    "NormalizeOp",
    "PadOp",
    "PipelineOp",
    "PotRequantOp",
    "QuantizeOp",
    "ReinterpretOp",
    "RequantOp",
    "ReshapeOp",
    "ResizeOp",
    "ScheduleAttr",
    "ShiftGeluOp",
    "ShiftmaxOp",
    "SliceOp",
    "SoftmaxExpOp",
    "TransposeOp",
    "VitOp",
    "YieldOp",
    "format_of",
    "shape_of",
    "tensor_type",
]
