"""The `vit` dialect: Vision Transformers in fixed-point integers.

A value is a tensor of integers together with its number format, which is part of its type (see
`attributes`). Products yield exact int32 accumulators; a requantisation, a residual sum, a table or
a normalisation brings them back to 8 or 16 bits. With power-of-two scales each of these is a shift
with a stated rounding. What an operation computes is defined once, in `semantics`, and `evaluate`
applies it with the parameters that the types imply; C kernels and accelerator equal it bit for bit.
"""

from xdsl.ir import Dialect

from vit_opt.dialects.assets import AssetAttr
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import FixedType, Log2Type, QuantizedType, ScaledType

Vit = Dialect(
    "vit",
    [getattr(ops, name) for name in ops.__all__ if name.endswith("Op") and name != "VitOp"],
    [AssetAttr, FixedType, ScaledType, Log2Type, ops.LoopsAttr, ops.ScheduleAttr],
)

__all__ = ["FixedType", "Log2Type", "QuantizedType", "ScaledType", "Vit"]
