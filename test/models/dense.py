"""Dense prediction on a plain ViT: one value in 0 .. 1 for every pixel.

A progressive decoder as in Zheng et al., "Rethinking Semantic Segmentation from a
Sequence-to-Sequence Perspective with Transformers" (SETR-PUP), 2021, section 3.2, with the three
ways in which exported models enlarge a map: transposed convolution, bilinear and nearest
resampling. A model maps images `[B, 3, S, S]` float32 to maps `[B, classes, S, S]`.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from models.blocks import fields_of
from models.vit import Block, ViTConfig
from models.weights import seed_weights, settle_norms


@dataclass(frozen=True)
class DenseConfig:
    """Shape of a ViT with a dense head; patches are 8x8, what the decoder makes up for."""

    image_size: int = 64
    in_channels: int = 3
    classes: int = 2
    dim: int = 96
    depth: int = 2
    heads: int = 3
    align_corners: bool = False
    """How the bilinear resampling places its samples."""


class DenseViT(nn.Module):
    """Patch embedding, positions, blocks, norm, and a decoder back to the image's size."""

    PATCH = 8

    def __init__(self, config: DenseConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        vit = ViTConfig(dim=dim, heads=config.heads)
        self.side = config.image_size // self.PATCH
        self.patch_embed = nn.Conv2d(config.in_channels, dim, self.PATCH, stride=self.PATCH)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.side**2, dim))
        self.blocks = nn.Sequential(*(Block(vit) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(dim)
        bilinear = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=config.align_corners)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 2, 2, stride=2),
            nn.BatchNorm2d(dim // 2),
            nn.ReLU(),
            bilinear,
            nn.Conv2d(dim // 2, dim // 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(dim // 4),
            nn.GELU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(dim // 4, config.classes, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, in_channels, S, S]` to `[B, classes, S, S]`."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = self.norm(self.blocks(x + self.pos_embed))
        x = x.transpose(1, 2).reshape(x.shape[0], -1, self.side, self.side)
        return self.decoder(x)


def create(seed: int = 0, **overrides: object) -> DenseViT:
    """A model in eval mode; `overrides` are fields of `DenseConfig`.

    Raises ValueError for options that do not exist.
    """
    config = DenseConfig(**fields_of(DenseConfig(), overrides))
    model = DenseViT(config).eval()
    branch = 1 / math.sqrt(max(config.depth, 1))
    seed_weights(model, seed, gains={"attn.proj": branch, "mlp.fc2": branch, "attn.qkv": 1.3})
    settle_norms(model, config.in_channels, config.image_size)
    return model
