"""Exact integer matrix products: `vit.linear` and `vit.matmul`.

The definition is the plain sum ``sum_k (a_k - zp_a) * (b_k - zp_b)`` in unbounded integers.  numpy's
integer product is slow, BLAS is fast and *exact* as long as every partial sum is an integer below
2**24 (float32) or 2**53 (float64).  The bound used here is ``sum_k |a_k| * |b_k|``, taken from the
actual arrays: it holds for every order of summation, so the choice never changes a result.
"""

import numpy as np
import numpy.typing as npt

from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.arithmetic import INT64_MAX, Int64, Ints, as_int64, magnitude

Operand = npt.NDArray[np.integer]
"""An integer array of any width below 64 bits unsigned."""


def exact_type(bound: int) -> type[np.float32] | type[np.float64] | type[np.int64]:
    """The fastest element type in which sums of magnitude up to ``bound`` are exact."""
    if bound < 2**24:
        return np.float32
    if bound < 2**53:
        return np.float64
    if bound <= INT64_MAX:
        return np.int64
    raise VitError(
        f"accumulation: a sum may need {bound.bit_length() + 1} bits, 64 are available; "
        "use narrower operands"
    )


def centred_magnitude(x: Operand, zero_point: int) -> int:
    """Largest ``|x - zero_point|``, without computing the difference of the arrays."""
    if x.size == 0:
        return 0
    return max(abs(int(x.max()) - zero_point), abs(int(x.min()) - zero_point))


def convert(x: Operand, zero_point: Ints, dtype: npt.DTypeLike) -> npt.NDArray[np.number]:
    """``x - zero_point`` as ``dtype``, which must hold both exactly."""
    converted = x.astype(dtype)
    if np.ndim(zero_point) or zero_point:
        converted -= np.asarray(zero_point).astype(dtype)
    return converted


def absolute_sums(x: npt.NDArray[np.number], axis: int) -> int:
    """Largest sum of absolute values of a float64-exact ``x`` along ``axis``, rounded up."""
    if x.size == 0:
        return 0
    sums = np.abs(x).sum(axis=axis, dtype=np.float64)
    return int(float(sums.max()) * (1 + 2.0**-40)) + 1


def _product_type(a: Operand, b: Operand, zp_a: int, zp_b: Ints) -> npt.DTypeLike:
    """Element type for ``(a - zp_a) @ (b - zp_b)``, ``b`` being [..., K, N]."""
    scalar = np.ndim(zp_b) == 0
    mag_b = centred_magnitude(b, int(zp_b)) if scalar else magnitude(b) + magnitude(zp_b)
    mag_a = centred_magnitude(a, zp_a)
    bound = a.shape[-1] * mag_a * mag_b
    if bound < 2**24:
        return np.float32
    # A sum of absolute values of one operand is a tighter bound than K times its maximum.
    if max(mag_a, mag_b) < 2**40:
        by_b = mag_a * absolute_sums(convert(b, zp_b, np.float64), -2)
        bound = min(bound, by_b)
        if bound >= 2**24:
            by_a = mag_b * absolute_sums(convert(a, zp_a, np.float64), -1)
            bound = min(bound, by_a)
    return exact_type(bound)


def matmul(
    a: Operand, b: Operand, zp_a: int = 0, zp_b: Ints = 0, transpose_b: bool = False
) -> Int64:
    """``(a - zp_a) @ (b - zp_b)``: a [..., M, K], b [..., K, N] or [..., N, K] if transposed.

    Leading dimensions broadcast as in numpy.  ``zp_b`` is a scalar or, for a transposed ``b``,
    one value per row ([N, 1]).  Returns the exact accumulators [..., M, N].
    """
    if transpose_b:
        b = np.swapaxes(b, -1, -2)
        zp_b = zp_b if np.ndim(zp_b) == 0 else np.swapaxes(zp_b, -1, -2)
    dtype = _product_type(a, b, zp_a, zp_b)
    product = np.matmul(convert(a, zp_a, dtype), convert(b, zp_b, dtype))
    return product.astype(np.int64)


def linear(
    x: Operand, weight: Operand, bias: Ints | None = None, x_zp: int = 0, w_zp: Ints = 0
) -> Int64:
    """``(x - x_zp) @ (weight - w_zp).T + bias``: x [..., K], weight [N, K], bias [N].

    ``w_zp`` is a scalar or one value per output channel [N].  Returns [..., N].
    """
    rows = x.reshape(-1, x.shape[-1])
    w_zp = w_zp if isinstance(w_zp, int) else np.asarray(w_zp).reshape(-1, 1)
    acc = matmul(rows, weight, x_zp, w_zp, transpose_b=True)
    if bias is not None:
        acc = acc + as_int64(bias)
    return acc.reshape(*x.shape[:-1], weight.shape[0])
