"""The type of a value of an ONNX graph; see `onnx_graph.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ValueType:
    """Shape and numpy dtype of a value."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
