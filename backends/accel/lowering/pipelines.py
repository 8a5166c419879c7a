"""Which of the accelerator's pipelines a program uses; for comparison they can be switched off.

*Within a layer* (a product, and the shifts, sums and divisions that rescale it): rows of
accumulators pass through the shifters as they leave the array. Without it, a product leaves all of
its accumulators in memory before the first is rescaled: a second sweep.

*Between layers* (products, softmax, LayerNorm, functions by tables): the engines work on the next
layer while rows of the one before are still on their way, rows that a layer reads first are made
first, and results stay on chip. Without it, a layer begins when the one before has stored its
results to DRAM.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.ir import Operation

from vit_opt.dialects.vit import ops

RESCALING = (ops.PotRequantOp, ops.AddOp, ops.NormalizeOp, ops.ReinterpretOp)
"""Operations that belong to the layer of the product whose accumulators they take."""


@dataclass(frozen=True)
class Pipelines:
    """The pipelines in use."""

    intra: bool = True
    """Within a layer."""
    inter: bool = True
    """Between layers."""

    def passes(self, op: Operation) -> bool:
        """Whether an operation takes blocks of its operand as they are made."""
        return self.intra if isinstance(op, RESCALING) else self.inter


CASES = {
    "none": Pipelines(intra=False, inter=False),
    "inter": Pipelines(intra=False, inter=True),
    "intra": Pipelines(intra=True, inter=False),
    "both": Pipelines(),
}
"""The cases of P2-ViT's ablation (arXiv 2405.19915), in its order."""
