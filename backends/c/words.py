"""Epilogues that end in 16 bits: what AVX-512 kernels do with accumulators beyond one requantisation.

A first stage in 32 bits turns accumulators into saturated words; further stages and branches follow
word by word (`vit_words_avx512vnni.c`). The first stage is one of

* a requantisation to 8 or 16 bits;
* a sum with an int16 tensor of any grid: with G the finer of the grids of tensor and result,

      y = sat(floor(((acc + half) * 2^(G - acc) + (other << (G - other))) / 2^(G - result))),

  which is the rounded sum since floors of quotients by powers of two nest;
* the two requantisations with which two branches start that both read the accumulators.

Everything that is said of bounds in `packing` holds here, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from xdsl.ir import SSAValue

from vit_opt.backends.c.memory import zero_point
from vit_opt.backends.c.steps import Chain, Stage
from vit_opt.dialects.vit import ops
from vit_opt.dialects.vit.attributes import is_unsigned
from vit_opt.dialects.vit.evaluate import fracs_of, shift_between
from vit_opt.dialects.vit.ops.base import format_of, is_fixed, shape_of

Array: TypeAlias = NDArray[Any]

LARGEST_LEFT = 14
"""Left shifts in aligned sums of words: their factors are words, too."""

MOST_STEPS = 16
"""VIT_WORD_STEPS of vit_avx512_words.h."""


@dataclass(frozen=True)
class First:
    """The stage in 32 bits."""

    shift: Array
    """Of accumulators to the right, per column; negative to the left."""
    extra: Array
    """Added to accumulators before."""
    headroom: int
    """Largest magnitude of what is added behind the shift."""
    zero_point: int = 0
    """What columns are whose shifts are above 31 and leave nothing of them."""


def first_stages(columns: int, chain: Chain) -> list[First] | None:
    """The first stages of a chain in 16 bits, one for each branch if it starts with two of them.

    None if some of its stages is of another kind, or may not fit.
    """
    if not chain.stages:
        branches = chain.branches
        if len(branches) != 2 or chain.is_stored:
            return None
        found = [_first_of(columns, each) for each in branches]
        firsts = [each for each in found if each is not None and each.headroom == 0]
        small = all(((each.shift >= -30) & (each.shift <= 31)).all() for each in firsts)
        return firsts if len(firsts) == 2 and small and _steps(chain) <= MOST_STEPS else None
    first = _first_of(columns, chain)
    branches_fit = all(
        not each.branches and all(_is_word_stage(*stage) for stage in each.stages)
        for each in chain.branches
    )
    return [first] if first and branches_fit and _steps(chain) <= MOST_STEPS else None


def _steps(chain: Chain) -> int:
    """An upper bound of the steps that the kernel makes of a chain."""
    return 3 * len(chain.stages) + 2 + sum(_steps(each) for each in chain.branches)


def _first_of(columns: int, chain: Chain) -> First | None:
    """The first stage of a chain, if what follows it fits 16 bits."""
    first, index = chain.stages[0]
    if not all(_is_word_stage(*stage) for stage in chain.stages[1:]):
        return None
    if isinstance(first, ops.PotRequantOp):
        return _requantisation(columns, first)
    return _sum(columns, first, index) if isinstance(first, ops.AddOp) else None


def _is_word(op: ops.PotRequantOp | ops.AddOp, value: SSAValue) -> bool:
    """Whether an operation rounds half up, and a value of its is on one grid and fits words."""
    format_ = format_of(value)
    width = format_.storage.width.data
    fits = width == 8 or (width == 16 and not is_unsigned(format_.storage))
    return is_fixed(format_) and fits and not format_.is_per_channel and op.rounding.data == "rhu"


def _requantisation(columns: int, op: ops.PotRequantOp) -> First | None:
    result = format_of(op.result)
    width = result.storage.width.data
    if not is_fixed(format_of(op.x), result) or op.rounding.data != "rhu" or zero_point(op.x):
        return None
    if width not in (8, 16) or (width == 16 and is_unsigned(result.storage)):
        return None
    shift = _per_column(shift_between(op.x, op.result), columns)
    if (shift < 0).any() and zero_point(op.result):
        return None
    zp = zero_point(op.result)
    return First(shift, _half(shift) + (zp << np.clip(shift, 0, 31)), 0, zp)


def _half(shift: Array) -> Array:
    """The rounding constant of a shift to the right."""
    return np.where(shift > 0, 1 << np.clip(shift - 1, 0, 31), 0)


def _per_column(values: Array, columns: int) -> Array:
    return np.broadcast_to(np.asarray(values, np.int64).reshape(-1), (columns,))


def _sum(columns: int, op: ops.AddOp, index: int) -> First | None:
    """Accumulators added to int16 codes of the same shape, of any grid."""
    acc, other = op.operands[index], op.operands[1 - index]
    if not (_is_word(op, other) and _is_word(op, op.result)) or shape_of(other) != shape_of(acc):
        return None
    if format_of(other).storage.width.data != 16 or format_of(op.result).storage.width.data != 16:
        return None
    if zero_point(acc) or zero_point(other) or zero_point(op.result):
        return None
    mine = _per_column(fracs_of(acc), columns)
    theirs, result = int(fracs_of(other)), int(fracs_of(op.result))
    finest = max(theirs, result)
    shift, total, down = mine - finest, mine - result, finest - result
    if finest - theirs > 15 or down > 30 or (shift > 31).any() or (shift < -30).any():
        return None
    if down > 0 and ((shift < 0) & (total <= 0)).any():
        return None  # the rounding constant lies below the grid of the accumulator
    return First(shift, _half(total), 2 ** (15 + finest - theirs))


def _is_word_stage(op: Stage, index: int) -> bool:
    """Whether the kernel has a step for a stage behind the first one."""
    if isinstance(op, ops.LutOp):
        widths = {format_of(value).storage.width.data for value in (op.x, op.table, op.result)}
        return widths == {16} and not is_unsigned(format_of(op.x).storage)
    if isinstance(op, ops.PotRequantOp):
        words = _is_word(op, op.x) and _is_word(op, op.result)
        return words and not zero_point(op.x) and 0 <= int(shift_between(op.x, op.result)) <= 15
    if not isinstance(op, ops.AddOp):
        return False
    other = op.operands[1 - index]
    if not all(_is_word(op, value) for value in (*op.operands, op.result)):
        return False
    wide = format_of(other).storage.width.data == 16
    return wide and shape_of(other) == shape_of(op.result) and _sum_fits(op, index)


def _sum_fits(op: ops.AddOp, index: int) -> bool:
    """Whether the aligned sum of two words, with its constants, fits 32 bits."""
    main, other = op.operands[index], op.operands[1 - index]
    mine, theirs, result = int(fracs_of(main)), int(fracs_of(other)), int(fracs_of(op.result))
    common = max(mine, theirs)
    left_v, left_o, shift = common - mine, common - theirs, common - result
    if not (0 <= left_v <= LARGEST_LEFT and 0 <= left_o <= LARGEST_LEFT and 0 <= shift <= 28):
        return False
    largest = (32768 + abs(zero_point(main))) << left_v
    largest += (32768 + abs(zero_point(other))) << left_o
    largest += (abs(zero_point(op.result)) + 1) << shift
    return largest < 2**31
