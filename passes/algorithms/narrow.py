"""Weights of few bits: the grid of each output channel chosen together with the rounding on it.

At 8 bits a grid that covers the largest weight is right.  At 4 bits one code is a seventh of that
weight, and a finer grid that clips a few large weights often has the smaller error (docs/numerics.md
8; clipping is what makes int4 work).  Which grid is best depends on what rounding makes of it, so
each candidate is rounded in full, with error compensation where second moments are known, and the
row keeps the one whose *output* error is least.

Groups.  Along the reduction, `GROUP` weights of a row share a shift, so that a weight is
``code * 2**shift`` with a code of 4 bits and a shift of 1 to 4 (2 bits): all on the row's 8-bit
grid, an ordinary int8 weight that happens to need 4.25 bits.  Groups of columns that carry much can
stay *wide*, with all of 8 bits; they are rounded last and make up for the errors of the others.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vit_opt.passes.algorithms.exponents import covering_fracs
from vit_opt.passes.algorithms.rounding import (
    Part,
    compensate,
    damped_factor,
    parts_error,
    round_parts,
)

Bools: TypeAlias = npt.NDArray[np.bool_]
Int64: TypeAlias = npt.NDArray[np.int64]
Reals: TypeAlias = npt.NDArray[np.float64]
RealInput: TypeAlias = npt.NDArray[Any]

OFFSETS = (0, 1, 2)
"""Fractional bits above the covering grid that are tried; the first least error wins."""

SHRINKS = tuple(1.0 - 0.05 * step for step in range(11))
"""Factors on a covering scale that are tried where scales are any numbers: 1.0 down to 0.5."""


def round_narrow(
    weight: RealInput,
    parts: Sequence[Part],
    low: int,
    high: int,
    *,
    limit: Int64 | None = None,
    damping: float = 0.5,
) -> tuple[Int64, Int64]:
    """Fracs [N] and codes [N, K] of a weight [N, K] on power-of-two grids of few codes.

    ``parts`` have the second moments of the inputs; without any the error is that of the weights,
    and rounding is to nearest.  ``limit`` [N] is the finest grid allowed (for the bias).
    """
    exact = weight.astype(np.float64)
    rows = exact.shape[0]
    magnitude = np.abs(exact).max(axis=1, initial=0.0)
    cover = covering_fracs(-magnitude, magnitude, -high, high)
    fracs = np.concatenate([cover + offset for offset in OFFSETS])
    if limit is not None:
        fracs = np.minimum(fracs, np.tile(limit, len(OFFSETS)))
    tiled = np.tile(exact, (len(OFFSETS), 1))
    repeated = _repeated(parts, rows, len(OFFSETS))
    codes = round_parts(tiled, repeated, fracs, low, high, damping)
    difference = np.ldexp(codes.astype(np.float64), -fracs[:, None].astype(np.int32)) - tiled
    best = _least(_errors(difference, repeated), rows)
    return fracs[best], codes[best]


def _repeated(parts: Sequence[Part], rows: int, count: int) -> list[Part]:
    """The parts of a weight of ``rows`` rows that is repeated ``count`` times."""
    tiles = np.arange(count)[:, None] * rows
    return [replace(part, rows=(tiles + part.rows).reshape(-1)) for part in parts]


def _errors(difference: Reals, parts: Sequence[Part]) -> Reals:
    """Output errors per row of a weight difference [N, K]; of the weights where parts know nothing."""
    known = [part for part in parts if part.moments.any()]
    total = parts_error(difference, known)
    unknown = np.ones(difference.shape, bool)
    for part in known:
        unknown[np.ix_(part.rows, part.features)] = False
    return total + np.square(difference, where=unknown, out=np.zeros_like(difference)).sum(axis=1)


def _least(errors: Reals, rows: int) -> Int64:
    """Where each row's least error lies in the errors of several attempts, one after the other."""
    attempts = np.argmin(errors.reshape(-1, rows), axis=0).astype(np.int64)
    return attempts * rows + np.arange(rows)


def shrunk_scales(weight: RealInput, scales: Reals, low: int, high: int) -> Reals:
    """Scales [N] of a weight [N, K], each shrunk by one of `SHRINKS`, with the least squared error."""
    exact = weight.astype(np.float64)
    found: list[Reals] = []
    for shrink in SHRINKS:
        column = (scales * shrink)[:, None]
        codes = np.clip(np.rint(exact / column), low, high)
        found.append(np.square(codes * column - exact).sum(axis=1))
    return scales * np.array(SHRINKS)[np.argmin(np.stack(found), axis=0)]


GROUP = 8
"""Weights along the reduction that share a shift."""

SHIFTS = (1, 2, 3, 4)
"""Shifts of a group: codes of -8..7 reach from 14 to 112 of the row's 8-bit grid."""


def columns_of(groups: Bools, size: int) -> Bools:
    """For each of K columns whether its group is marked: groups [ceil(K / GROUP)] -> [K]."""
    return np.repeat(groups, GROUP)[:size]


def _in_groups(values: Reals) -> Reals:
    """Columns in groups, zeros behind the last: [..., K] -> [..., ceil(K / GROUP), GROUP]."""
    missing = -values.shape[-1] % GROUP
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])
    return padded.reshape(*values.shape[:-1], -1, GROUP)


def group_shifts(scaled: Reals, energy: Reals) -> Int64:
    """The shift of least error for each row and group: scaled [N, K] in codes, energy [K].

    The error is that of plain rounding, each column weighted by its energy.
    """
    parts, weights = _in_groups(scaled), _in_groups(energy)
    errors: list[Reals] = []
    for shift in SHIFTS:
        step = 1 << shift
        rounded = np.clip(np.rint(parts / step), -8, 7) * step
        errors.append((np.square(rounded - parts) * weights).sum(axis=-1))
    return np.array(SHIFTS)[np.argmin(np.stack(errors), axis=0)]


def group_noise(weight: RealInput, parts: Sequence[Part]) -> Reals:
    """Expected error energy of each group of columns [ceil(K / GROUP)] if its weights are narrow."""
    exact, fracs, energy = _prepared(weight, parts)
    shifts = group_shifts(np.ldexp(exact, fracs[:, None]), energy)
    steps = np.ldexp(1.0, (shifts - fracs[:, None]).astype(np.int32))
    return np.square(steps).sum(axis=0) / 12.0 * _in_groups(energy).sum(axis=-1)


def _prepared(
    weight: RealInput, parts: Sequence[Part]
) -> tuple[Reals, npt.NDArray[np.int32], Reals]:
    """The weight in float64, its covering 8-bit fracs [N], and the energy of its columns [K]."""
    exact = weight.astype(np.float64)
    magnitude = np.abs(exact).max(axis=1, initial=0.0)
    fracs = covering_fracs(-magnitude, magnitude, -127, 127).astype(np.int32)
    diagonal = np.zeros(exact.shape[1])
    for part in parts:
        diagonal[part.features] += np.diag(part.moments)
    if not diagonal.any():
        diagonal[:] = 1.0
    return exact, fracs, np.maximum(diagonal, diagonal.max(initial=0.0) * 1e-9)


def round_grouped(
    weight: RealInput,
    parts: Sequence[Part],
    wide: Bools,
    *,
    limit: Int64 | None = None,
    damping: float = 0.5,
    tries: int = 3,
) -> tuple[Int64, Int64]:
    """Fracs [N] and 8-bit codes [N, K] whose groups not ``wide`` [ceil(K / GROUP)] are narrow.

    A row keeps the best of three attempts, or the first ``tries``: shifts by the error weighted with
    the columns' energy, by the plain error, and on a grid twice as fine.
    """
    exact, cover, energy = _prepared(weight, parts)
    rows, size = exact.shape
    fine = cover + 1
    if limit is not None:
        cover, fine = (np.minimum(fracs, limit).astype(np.int32) for fracs in (cover, fine))
    attempts = ((cover, energy), (cover, np.ones(size)), (fine, energy))[:tries]
    scaled = [np.ldexp(exact, fracs[:, None]) for fracs, _ in attempts]
    marked = columns_of(wide, size)
    steps = [
        np.where(marked, 0, np.repeat(group_shifts(codes, by), GROUP, axis=1)[:, :size])
        for codes, (_, by) in zip(scaled, attempts, strict=True)
    ]
    repeated = _repeated(parts, rows, len(attempts))
    tiled, fracs = np.concatenate(scaled), np.concatenate([fracs for fracs, _ in attempts])
    codes = _compensated_groups(
        tiled, 1 << np.concatenate(steps), repeated, marked, energy, damping
    )
    best = _least(_errors(np.ldexp(codes - tiled, -fracs[:, None]), repeated), rows)
    return fracs[best].astype(np.int64), codes[best]


def _compensated_groups(
    scaled: Reals,
    steps: Int64,
    parts: Sequence[Part],
    wide: Bools,
    energy: Reals,
    damping: float,
) -> Int64:
    """Codes of weights [N, K] given in codes: multiples of steps [N, K], wide columns in 8 bits."""
    low, high = np.where(wide, -128, -8), np.where(wide, 127, 7)
    codes = (np.clip(np.rint(scaled / steps), low, high) * steps).astype(np.int64)
    for part in parts:
        if not part.moments.any():
            continue
        # From last to first: narrow columns, loudest first, then wide ones, which make up for them.
        order = np.lexsort((energy[part.features], ~wide[part.features]))
        ordered = part.moments[np.ix_(order, order)].astype(np.float64)
        factor = damped_factor(ordered, damping)
        picked = np.ix_(part.rows, part.features[order])
        columns, allowed = np.ascontiguousarray(scaled[picked].T), steps[picked].T
        least, most = (bound[part.features[order]] for bound in (low, high))
        codes[picked] = np.transpose(compensate(columns, factor, least, most, allowed))
    return codes
