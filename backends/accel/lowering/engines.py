"""Products on either of two engines: the array, and the reconfigurable engine where it is as large.

After Trio-ViT (arXiv 2405.03882): while the reconfigurable engine has no depthwise convolution and
no division to do, it takes products as the array does, so that both work on one layer.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from vit_opt.backends.accel.lowering.arena import Region, whole
from vit_opt.backends.accel.lowering.builder import Builder
from vit_opt.backends.accel.lowering.tensors import Block
from vit_opt.backends.accel.lowering.weights import WeightBlock
from vit_opt.dialects.vit.targets import AccelTarget
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import Flag
from vit_opt.dialects.vit_accel.fields import NO_ADDR
from vit_opt.passes.mapping import Size, best_map


@dataclass(frozen=True)
class Batch:
    """How many products an instruction makes, and bytes from one to the next."""

    count: int = 1
    acc: int = 0
    a: int = 0
    b: int = 0


ONE = Batch()


def emit_product(
    builder: Builder,
    acc: Block,
    a: Block,
    b: Block,
    size: Size,
    more: bool = False,
    bias: Region | None = None,
    batch: Batch = ONE,
) -> None:
    """Append acc[m, n] (+)= a[m, k] b[n, k]^T on blocks, whose row and col are their strides; where
    there are two engines, for the one that will complete it first."""
    m, n, k = size
    wide = b.wide if isinstance(b, WeightBlock) else None
    inst = isa.Matmul(
        acc.addr,
        a.addr,
        b.addr,
        *size,
        acc.row,
        a.row,
        b.row,
        a.dtype,
        b.dtype,
        a.col,
        b.col,
        NO_ADDR if bias is None else bias.addr(),
        Flag.ON if more else Flag.OFF,
        best_map(builder.arch, size, (a.dtype, b.dtype), wide),
        batch.count,
        batch.acc,
        batch.a,
        batch.b,
        b.marks if isinstance(b, WeightBlock) else NO_ADDR,
        wide or 0,
    )
    written = acc.use(m, n, batch.count, batch.acc)
    reads = [a.use(m, k, batch.count, batch.a), b.use(n, k, batch.count, batch.b)]
    reads += [whole(bias)] if bias is not None else []
    reads += [written] if more else []
    instead = None
    if has_two(builder.arch) and not builder.rehearsing:
        instead = isa.EngineMatmul(**{item.name: getattr(inst, item.name) for item in fields(inst)})
    builder.emit(inst, reads, [written], instead)


def has_two(arch: AccelTarget) -> bool:
    """Whether products may run on two engines: where the multipliers of both count."""
    return arch.peak == "both"
