"""Seeded weights that give a random network the statistics of a trained one.

Plain Gaussian weights make every channel alike, which flatters a quantiser: no outliers, no
per-channel spread, and attention so flat that every token gets the mean. Here

* matrix rows (output channels) have a log-normal spread of magnitudes around `gain / sqrt(K)`, so
  that a unit-variance input gives a unit-variance output on average;
* norm weights are log-normal; of LayerNorm, about one channel in 64 is several times larger, as
  in trained ViTs;
* biases and tokens are small, positions moderate.

The numbers come from numpy's PCG64, whose stream is stable over versions, in the order of
`named_parameters`, so a seed means the same model everywhere.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)


@torch.no_grad()
def seed_weights(model: nn.Module, seed: int, gains: Mapping[str, float] | None = None) -> None:
    """Overwrites every parameter and batch-norm statistic of `model`.

    `gains` maps suffixes of module names to the standard deviation wanted at the output of that
    linear, convolution or norm for a unit-variance input; 1 for the others.
    """
    rng = np.random.default_rng(seed)
    for module_name, module in model.named_modules():
        gain = next((g for s, g in (gains or {}).items() if module_name.endswith(s)), 1.0)
        for name, parameter in module.named_parameters(recurse=False):
            parameter.copy_(
                torch.from_numpy(_draw(rng, module, name, tuple(parameter.shape), gain))
            )
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.copy_(torch.from_numpy(0.1 * _normal(rng, tuple(buffer.shape))))
            elif name == "running_var":
                buffer.copy_(torch.from_numpy(np.exp(0.2 * _normal(rng, tuple(buffer.shape)))))


def images(seed: int, count: int, channels: int, size: int) -> NDArray[np.float32]:
    """Images `[count, channels, size, size]` of unit variance: coarse shapes and some noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(_normal(rng, (count, channels, 4, 4)))
    shapes = F.interpolate(coarse, size=(size, size), mode="bilinear").numpy()
    shapes /= shapes.std()
    return np.float32(0.9) * shapes + np.float32(0.4) * _normal(rng, (count, channels, size, size))


@torch.no_grad()
def settle_norms(model: nn.Module, channels: int, size: int) -> None:
    """Gives every BatchNorm the statistics that it meets on `images`, as training would.

    Without that, activations of a random network shrink or grow from layer to layer.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(torch.from_numpy(images(0, 8, channels, size)))
    for norm in norms:
        norm.eval()


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)


def _draw(
    rng: np.random.Generator, module: nn.Module, name: str, shape: tuple[int, ...], gain: float
) -> NDArray[np.float32]:
    if name == "bias":
        return 0.1 * gain * _normal(rng, shape)
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        fan_in = max(1, math.prod(shape[1:]))
        if isinstance(module, nn.ConvTranspose2d):
            fan_in = max(1, shape[0] * math.prod(shape[2:]) // math.prod(module.stride))
        spread = np.exp(0.25 * _normal(rng, (shape[0], *[1] * (len(shape) - 1))))
        return np.float32(gain / math.sqrt(fan_in)) * spread * _normal(rng, shape)
    if isinstance(module, nn.BatchNorm2d):
        return np.float32(gain) * np.exp(0.2 * _normal(rng, shape))
    if name in ("weight", "gamma"):  # LayerNorm, LayerScale
        outlier = np.where(rng.random(shape) < 1 / 64, np.float32(4), np.float32(1))
        return np.float32(gain) * np.exp(0.3 * _normal(rng, shape)) * outlier
    return 0.5 * _normal(rng, shape)  # tokens, positions, bias tables
