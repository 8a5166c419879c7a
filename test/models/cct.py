"""Compact convolutional transformers (CCT) in torch, as the authors' code builds them.

Hassani et al., "Escaping the Big Data Paradigm with Compact Transformers", 2021: convolutional
tokenizer (section 3.3), sequence pooling (section 3.2). Names are those of the authors:
`cct_7_3x1_32` has 7 blocks, one tokenizer layer of 3x3 kernels, images of 32x32. A model maps images
`[B, 3, S, S]` float32 to logits `[B, num_classes]`.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from models.blocks import Mlp, fields_of
from models.weights import seed_weights


@dataclass(frozen=True)
class CCTConfig:
    """Shape of a compact convolutional transformer."""

    image_size: int = 32
    in_channels: int = 3
    num_classes: int = 10
    dim: int = 256
    depth: int = 7
    heads: int = 4
    mlp_ratio: float = 2.0
    kernel: int = 3
    layers: int = 1
    """Convolutions of the tokenizer, each followed by ReLU and 3x3 max pooling of stride 2."""
    first_dim: int = 64
    """Channels between the layers of the tokenizer."""

    @property
    def stride(self) -> int:
        """Stride of the tokenizer's convolutions: max(1, kernel / 2 - 1)."""
        return max(1, self.kernel // 2 - 1)


class Block(nn.Module):
    """The authors' encoder layer: the norm after attention replaces the residual stream."""

    def __init__(self, config: CCTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.head_dim = config.heads, dim // config.heads
        self.pre_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q @ k.transpose(-2, -1)) * self.head_dim**-0.5
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        x = self.norm1(x + self.attention(self.pre_norm(x)))
        return x + self.mlp(x)


class CCT(nn.Module):
    """Convolutional tokenizer, positions, blocks, norm, sequence pooling, linear head."""

    def __init__(self, config: CCTConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        cin, size = config.in_channels, config.image_size
        for index in range(config.layers):
            cout = config.dim if index == config.layers - 1 else config.first_dim
            kernel, stride = config.kernel, config.stride
            pad = max(1, kernel // 2)
            layers += [nn.Conv2d(cin, cout, kernel, stride, pad, bias=False), nn.ReLU()]
            layers.append(nn.MaxPool2d(3, 2, 1))
            size = (size + 2 * pad - kernel) // stride + 1
            size = (size - 1) // 2 + 1
            cin = cout
        self.tokenizer = nn.Sequential(*layers)
        self.pos_embed = nn.Parameter(torch.zeros(1, size * size, config.dim))
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.dim)
        self.pool = nn.Linear(config.dim, 1)
        self.head = nn.Linear(config.dim, config.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, in_channels, S, S]` to logits `[B, num_classes]`."""
        x = self.tokenizer(x).flatten(2, 3).transpose(-2, -1)
        x = self.norm(self.blocks(x + self.pos_embed))
        weights = self.pool(x).softmax(dim=1).transpose(-1, -2)
        return self.head((weights @ x).squeeze(-2))


VARIANTS: dict[str, CCTConfig] = {
    "cct_2_3x2_32": CCTConfig(dim=128, depth=2, heads=2, mlp_ratio=1.0, layers=2),
    "cct_7_3x1_32": CCTConfig(),
    "cct_14_7x2_224": CCTConfig(
        image_size=224,
        num_classes=1000,
        dim=384,
        depth=14,
        heads=6,
        mlp_ratio=3.0,
        kernel=7,
        layers=2,
    ),
}
"""0.03, 1.19 and 5.5 GMAC (tables 1 and 3 of the paper)."""


def create(name: str, seed: int = 0, **overrides: object) -> CCT:
    """A model in eval mode; `overrides` are fields of `CCTConfig`.

    Raises ValueError for options that do not exist.
    """
    config = CCTConfig(**fields_of(VARIANTS[name], overrides))
    model = CCT(config).eval()
    branch = 1 / math.sqrt(max(config.depth, 1))
    seed_weights(model, seed, gains={"proj": branch, "mlp.fc2": branch, "qkv": 1.3})
    return model
