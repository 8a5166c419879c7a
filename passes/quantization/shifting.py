"""Filter-wise shifting: channels between two convolutions are centred (Trio-ViT; docs/accuracy.md).

What a convolution reads is rounded on one grid for all channels. A channel that lies between 3 and 9
takes codes for -9 to 9. Its midpoint z = (max + min) / 2 can be taken off by the bias of the
convolution that makes it, and be given back by that of the one that reads it: sum over taps of W z.
Both biases are there anyway, so this costs nothing.

Where it is exact. Padding with zeros adds zeros to the unshifted image, which are -z in a shifted one,
different for each channel, while the integers of a convolution are padded with the one zero point of
their format. So only convolutions without padding take midpoints by channel; for padded ones the zero
point is the shift that all channels share. The result of a table (Hardswish, GELU) has no bias in
front of it, and nothing to gain: its channels all begin near -0.4, so that the zero point of the
format leaves no code unused (on the example digits_efficientvit the range of all channels is 1.00 to
1.02 times that of the widest). A sum could be shifted by an addition of its own; it is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from vit_opt.dialects import onnx
from vit_opt.dialects.evaluation import main_function, run_main
from vit_opt.dialects.onnx.base import integers
from vit_opt.passes.algorithms.migration import channel_midpoints
from vit_opt.passes.calibrate import MOMENTS, named_statistics, windows_of
from vit_opt.passes.float_graph import Constants
from vit_opt.passes.quantization.channels import copy_range, replace_operand
from vit_opt.passes.quantization.formats import ASYMMETRY
from vit_opt.passes.quantization.graph import NHWC
from vit_opt.passes.quantization.webs import Webs, by_weight, observe
from vit_opt.passes.quantization.windows import window_moments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Reals: TypeAlias = NDArray[np.float64]

GAIN = 0.9
"""Channels are shifted where that leaves at most this share of the range their format covers."""


def shift_convolutions(module: ModuleOp, constants: Constants) -> int:
    """Centre the channels between convolutions where that narrows the range; the number of values."""
    operations = main_function(module).body.block.ops
    makers = [op for op in operations if isinstance(op, onnx.Conv) and _readers(op, constants)]
    if not makers or not constants.store.batches:
        return 0
    seen = observe(module, Webs(constants), constants.store, [op.y for op in makers])
    changed: list[onnx.Conv] = []
    done = 0
    for maker in makers:
        low = seen.low[maker.y].min(axis=(0, 2, 3)).astype("float64")
        high = seen.high[maker.y].max(axis=(0, 2, 3)).astype("float64")
        offset = channel_midpoints(low, high)
        if covered(low - offset, high - offset) > GAIN * covered(low, high):
            continue
        readers = _readers(maker, constants)
        add_to_bias(maker, -offset, constants)
        for reader in readers:
            weight = constants.array(reader.w)
            assert weight is not None
            taps = weight * by_weight(reader, weight.shape, offset)
            add_to_bias(reader, taps.sum(axis=(1, 2, 3)), constants)
        copy_range([maker.y], float((low - offset).min()), float((high - offset).max()))
        changed += readers
        done += 1
    observe_windows(module, changed, constants)
    return done


def covered(low: Reals, high: Reals) -> float:
    """The range that the format of a value covers, from the ranges of its channels [C]."""
    bottom, top = max(-float(low.min()), 0.0), max(float(high.max()), 0.0)
    one_sided = min(bottom, top) < ASYMMETRY * max(bottom, top)
    return bottom + top if one_sided else 2 * max(bottom, top)


def _readers(maker: onnx.Conv, constants: Constants) -> list[onnx.Conv]:
    """The convolutions that read what another makes, if nothing else does and all take a shift."""
    readers = [use.operation for use in maker.y.uses]
    found = [op for op in readers if isinstance(op, onnx.Conv) and op.x is maker.y]
    if len(found) < len(readers) or any(any(integers(op.pads)) for op in found):
        return []
    parameters = [v for op in (maker, *found) for v in (op.w, op.bias) if v is not None]
    known = all(constants.array(value) is not None for value in parameters)
    return found if known else []


def add_to_bias(layer: onnx.Conv, difference: Reals, constants: Constants) -> None:
    """Add [O] to the bias of a convolution, which gets one if it has none."""
    before = constants.array(layer.bias)
    if before is not None:
        replace_operand(layer, 2, before + difference, constants)
        return
    bias = constants.make(difference, f"{layer.label}.bias")
    Rewriter.insert_op(bias, InsertPoint.before(layer))
    layer.operands = [*layer.operands, bias.y]


def observe_windows(module: ModuleOp, layers: Sequence[onnx.Conv], constants: Constants) -> None:
    """Gather the second moments of convolutions' windows anew, on the calibration batches."""
    from vit_opt.dialects.onnx.semantics import evaluate

    store = constants.store
    fresh = {op: window_moments(op) for op in layers if windows_of(op, store) is not None}
    wanted: dict[SSAValue, list[onnx.Conv]] = {}
    for op in fresh:
        wanted.setdefault(op.x, []).append(op)

    def note(op: Operation, results: Sequence[Reals]) -> None:
        for value, array in zip(op.results, results, strict=True):
            for layer in wanted.get(value, ()):
                moments = fresh[layer]
                if moments is not None:
                    moments.update(array.transpose(NHWC))

    for batch in store.batches if fresh else ():
        run_main(module, batch, lambda op, args: evaluate(op, args, store), note)
    for op, moments in fresh.items():
        key = op.attributes[MOMENTS]
        assert isinstance(key, StringAttr)
        named_statistics(key.data, store).windows = moments


__all__ = ["shift_convolutions"]
