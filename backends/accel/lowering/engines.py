"""Products on either of two engines: the array, and the reconfigurable engine where it is as large.

After Trio-ViT (arXiv 2405.03882): while the reconfigurable engine has no depthwise convolution and
no division to do, it takes products as the array does, so that both work on one layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from vit_opt.backends.accel.lowering.arena import Use
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa


def has_two(arch: AccelTarget) -> bool:
    """Whether products may run on two engines: where the multipliers of both count."""
    return arch.peak == "both"


def emit_matmul(
    builder: Builder, inst: isa.Matmul, reads: Iterable[Use], writes: Iterable[Use]
) -> None:
    """Append a product; where there are two engines, for the one that will complete it first."""
    instead = None
    if has_two(builder.arch) and not builder.rehearsing:
        instead = isa.EngineMatmul(**{item.name: getattr(inst, item.name) for item in fields(inst)})
    builder.emit(inst, reads, writes, instead)
