"""The same model from the same inputs, whatever the number of processors.

BLAS sums in another order with another number of threads, and a last bit may decide how a weight
is rounded. Passes that compute with real numbers therefore run BLAS on one thread; its threads
bring little on the matrices of a calibration anyway, and much harm on a busy machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingTypeStubs]

P = ParamSpec("P")
R = TypeVar("R")


def reproducible(function: Callable[P, R]) -> Callable[P, R]:
    """The function, with BLAS on one thread while it runs."""

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
