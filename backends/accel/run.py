"""Running an image: named inputs in, named outputs and statistics out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit_opt.backends.accel.emulator import Machine, Stats
from vit_opt.backends.accel.image import Image, Port
from vit_opt.backends.accel.profile import Profile
from vit_opt.dialects.errors import VitError
from vit_opt.dialects.vit.semantics import quantize
from vit_opt.dialects.vit.targets import AccelTarget, accel_target

Array = NDArray[Any]


@dataclass(frozen=True)
class AccelResult:
    """Outputs of one inference."""

    codes: dict[str, Array]
    """Raw integers by output name."""
    reals: dict[str, NDArray[np.float32]]
    """The same as real values: (code - zp) * 2^-frac."""
    stats: Stats


def _fracs(port: Port) -> int | NDArray[np.int64]:
    """The fractional bits of a port, shaped to broadcast against its tensor."""
    if port.axis is None:
        return port.fracs[0]
    shape = [1] * len(port.shape)
    shape[port.axis] = len(port.fracs)
    return np.array(port.fracs, np.int64).reshape(shape)


def input_codes(port: Port, value: Array) -> Array:
    """The codes of an input: a float array is quantised, an integer array taken as codes.

    VitError if the shape is not the model's or a code is outside its storage type.
    """
    array = np.asarray(value)
    if array.shape != port.shape:
        raise VitError(
            f"input '{port.name}' has shape {list(array.shape)}, the model expects "
            f"{list(port.shape)}"
        )
    low, high = port.dtype.bounds
    if array.dtype.kind == "f":
        return quantize.quantize(array, _fracs(port), low, high, port.zp)
    return quantize.checked_codes(port.name, array, low, high)


def time_accel(
    image: Image, arch: AccelTarget | None = None, profile: Profile | None = None
) -> Stats:
    """What an inference of `image` costs, no data computed: the statistics of `run_accel`, faster.

    Raises TrapError if the program cannot end.
    """
    machine = Machine(image, arch or accel_target(image.arch), profile=profile, timing_only=True)
    return machine.run()


def run_accel(
    image: Image,
    inputs: Mapping[str, Array],
    arch: AccelTarget | None = None,
    profile: Profile | None = None,
) -> AccelResult:
    """One inference of `image` on the emulated machine (default: the image's own preset).

    Float inputs are real values, integer inputs raw codes; `profile` notes what happens.
    Raises VitError for missing or unknown inputs, TrapError if the machine stops.
    """
    machine = Machine(image, arch or accel_target(image.arch), profile=profile)
    names = {port.name for port in image.inputs}
    if unknown := sorted(set(inputs) - names):
        raise VitError(f"unknown input '{unknown[0]}'; the model has {', '.join(sorted(names))}")
    for port in image.inputs:
        if port.name not in inputs:
            raise VitError(f"input '{port.name}' is missing")
        machine.write_port(port, input_codes(port, inputs[port.name]))
    stats = machine.run()
    codes = {port.name: machine.read_port(port) for port in image.outputs}
    reals = {
        port.name: quantize.dequantize(codes[port.name], _fracs(port), port.zp)
        for port in image.outputs
    }
    return AccelResult(codes, reals, stats)
