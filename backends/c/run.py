"""Running an emitted project in this process.

The library is loaded with ctypes, weights and arena are numpy memory; the only work on the host is
to bring real inputs to codes and codes to real outputs, as `vit.quantize` and `vit.dequantize` say.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.c.build import BuildOptions, build_c
from vit_opt.backends.c.code import ALIGNMENT
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics.quantize import (
    checked_codes,
    dequantize_scaled,
    quantize_scaled,
)

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class PortInfo:
    """An input or output as model.json describes it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: Array | None
    """Real value of a code: a scalar, or shaped to broadcast; None for log2 codes."""
    zero_point: int
    bounds: tuple[int, int]

    @staticmethod
    def read(record: Mapping[str, Any]) -> PortInfo:
        """From its record in model.json."""
        shape = tuple(record["shape"])
        scale = np.asarray(record["scale"], np.float64) if "scale" in record else None
        if scale is not None and record["axis"] is not None:
            broadcast = [1] * len(shape)
            broadcast[record["axis"]] = -1
            scale = scale.reshape(broadcast)
        dtype = np.dtype(record["dtype"])
        info = np.iinfo(dtype)
        bounds = tuple(record.get("bounds", (int(info.min), int(info.max))))
        low_high = cast("tuple[int, int]", bounds)
        return PortInfo(record["name"], shape, dtype, scale, record.get("zero_point", 0), low_high)

    def codes(self, array: Array) -> Array:
        """Codes of an input: real values are quantised, integers are codes already.

        Raises VitError for a wrong shape or codes outside of the format.
        """
        if tuple(array.shape) != self.shape:
            raise VitError(
                f"input '{self.name}' has shape {list(array.shape)}, the model expects "
                f"{list(self.shape)}"
            )
        low, high = self.bounds
        if array.dtype.kind == "f":
            if self.scale is None:
                raise VitError(f"input '{self.name}' takes integer codes, got {array.dtype}")
            values = quantize_scaled(array, self.scale, low, high, self.zero_point)
        else:
            values = checked_codes(self.name, array, low, high)
        return np.ascontiguousarray(values.astype(self.dtype))

    def reals(self, codes: Array) -> Array:
        """Real values of an output's codes (the codes themselves for log2 codes)."""
        if self.scale is None:
            return codes
        return dequantize_scaled(codes, self.scale, self.zero_point)


class CModel:
    """An emitted project, compiled and loaded.

    model = CModel(Path("out/c"))
    codes = model.run({"image": image})
    logits = model.reals(codes)
    """

    def __init__(self, project: Path, options: BuildOptions | None = None, name: str = "model"):
        """Build (or take from the cache) and load; raises VitError if either fails."""
        library = build_c(project, options)
        try:
            interface = json.loads((project / "model.json").read_text())
            self.weights, read = _read_aligned(project / "weights.bin")
        except (OSError, ValueError) as error:
            raise VitError(f"{project}: not a complete C project: {error}") from error
        self.inputs = [PortInfo.read(record) for record in interface["inputs"]]
        self.outputs = [PortInfo.read(record) for record in interface["outputs"]]
        self.arena_bytes: int = interface["arena_bytes"]
        self.weight_bytes: int = interface["weight_bytes"]
        if read != self.weight_bytes:
            raise VitError(f"{project}/weights.bin has {read} bytes, expected {self.weight_bytes}")
        self.seconds = 0.0
        """Duration of the last inference, without the border."""
        self._arena = _aligned(self.arena_bytes)
        try:
            self._run = getattr(ctypes.CDLL(str(library.resolve())), f"{name}_run")
        except (OSError, AttributeError) as error:
            reason = str(error).partition(": ")[2]
            raise VitError(f"{project}: not a complete C project: {reason}") from error

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Raw output codes by name, for one inference on real values or codes by name.

        Raises VitError for a missing or unknown input, a wrong shape, or codes out of range.
        """
        names = [port.name for port in self.inputs]
        if set(inputs) != set(names):
            raise VitError(f"inputs are {', '.join(inputs)}; the model takes {', '.join(names)}")
        for name in names:
            if names.count(name) > 1 and np.asarray(inputs[name]).dtype.kind != "f":
                raise VitError(f"input '{name}' enters in two formats; give it as real values")
        codes = [port.codes(np.asarray(inputs[port.name])) for port in self.inputs]
        results = [np.empty(port.shape, port.dtype) for port in self.outputs]
        buffers = [self.weights, self._arena, *codes, *results]
        pointers = [ctypes.c_void_p(buffer.ctypes.data) for buffer in buffers]
        start = time.perf_counter()
        status = self._run(*pointers)
        self.seconds = time.perf_counter() - start
        if status != 0:
            raise VitError(f"the compiled model refused to run (status {status})")
        return {port.name: result for port, result in zip(self.outputs, results, strict=True)}

    def reals(self, codes: Mapping[str, Array]) -> dict[str, Array]:
        """Real outputs of raw codes."""
        return {port.name: port.reals(codes[port.name]) for port in self.outputs}


def _aligned(size: int) -> Array:
    """A byte array at an aligned address; of at least one byte, so that it has one."""
    block = np.empty(size + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + max(1, size)]


def _read_aligned(path: Path) -> tuple[Array, int]:
    """The contents of a file at an aligned address, without a copy in between, and their length."""
    array, done = _aligned(path.stat().st_size), 0
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(array.data[done:]):
            done += count
    return array, done


def run_c(
    project: Path, inputs: Mapping[str, Array], options: BuildOptions | None = None
) -> dict[str, Array]:
    """Build a project if need be and run it once: raw integer outputs by name."""
    return CModel(project, options).run(inputs)
