"""Swin transformers (T, S, B) in torch, as the paper defines them and timm names them.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021:
patch merging (section 3.1), attention in regular and shifted windows with a mask (section 3.2),
relative position bias (equation 4). A model maps images `[B, 3, S, S]` float32 to logits
`[B, num_classes]`; inside, tokens are `[B, H, W, C]`.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from models.blocks import Mlp, fields_of, from_windows, to_windows
from models.weights import seed_weights


@dataclass(frozen=True)
class SwinConfig:
    """Shape of a Swin transformer."""

    image_size: int = 224
    patch_size: int = 4
    in_channels: int = 3
    num_classes: int = 1000
    dim: int = 96
    """Width of the first stage; each following stage has twice the width of the one before."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: float = 4.0


def relative_position_index(window: int) -> torch.Tensor:
    """Which of the (2 window - 1)^2 offsets each pair of tokens has: int64 [window^2, window^2]."""
    axis = torch.arange(window)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offset = place[:, :, None] - place[:, None, :] + window - 1
    return offset[0] * (2 * window - 1) + offset[1]


def shift_mask(size: int, window: int, shift: int) -> torch.Tensor:
    """-100 for pairs that only the cyclic shift brought together: [windows, window^2, window^2]."""
    zones = torch.zeros(1, size, size, 1)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            zones[:, rows, columns] = 3 * i + j
    zone = to_windows(zones, window).squeeze(-1)
    return (zone[:, None, :] != zone[:, :, None]) * -100.0


class WindowAttention(nn.Module):
    """Self-attention within windows, with relative position bias and optional mask."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        index = relative_position_index(window)
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`[B * windows, N, C]` to the same shape; `mask` is [windows, N, N]."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(n, n, -1).permute(2, 0, 1).contiguous()
        scores = scores + bias.unsqueeze(0)
        if mask is not None:
            count = mask.shape[0]
            scores = scores.view(-1, count, self.heads, n, n) + mask[None, :, None]
            scores = scores.view(-1, self.heads, n, n)
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c))


class SwinBlock(nn.Module):
    """Pre-norm block; `shift` > 0 moves the windows by so many tokens."""

    def __init__(self, size: int, dim: int, heads: int, window: int, shift: int, hidden: int):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)
        mask = shift_mask(size, window, shift) if shift else None
        self.register_buffer("attn_mask", mask, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, H, W, C]` to `[B, H, W, C]`."""
        _, h, w, _ = x.shape
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, shifts=(-self.shift, -self.shift), dims=(1, 2))
        y = self.attn(to_windows(y, self.window), self.attn_mask)
        y = from_windows(y, self.window, h, w)
        if self.shift:
            y = torch.roll(y, shifts=(self.shift, self.shift), dims=(1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """`[B, H, W, C]` to `[B, H/2, W/2, 2C]`: 2x2 tokens side by side, LayerNorm, linear."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Neighbours in the order (0, 0), (1, 0), (0, 1), (1, 1)."""
        parts = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class SwinTransformer(nn.Module):
    """Patch embedding with norm, stages joined by patch merging, norm, mean, linear head."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(
            config.in_channels, config.dim, config.patch_size, stride=config.patch_size
        )
        self.patch_norm = nn.LayerNorm(config.dim)
        stages: list[nn.Module] = []
        size, dim = config.image_size // config.patch_size, config.dim
        for index, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            if index:
                stages.append(PatchMerging(dim))
                size, dim = size // 2, 2 * dim
            window = min(config.window, size)
            hidden = int(dim * config.mlp_ratio)
            for place in range(depth):
                shift = window // 2 if place % 2 and window < size else 0
                stages.append(SwinBlock(size, dim, heads, window, shift, hidden))
        self.layers = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, config.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, in_channels, S, S]` to logits `[B, num_classes]`."""
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        x = self.norm(self.layers(self.patch_norm(x)))
        return self.head(x.mean(dim=(1, 2)))


VARIANTS: dict[str, SwinConfig] = {
    "swin_tiny_patch4_window7_224": SwinConfig(),
    "swin_small_patch4_window7_224": SwinConfig(depths=(2, 2, 18, 2)),
    "swin_base_patch4_window7_224": SwinConfig(dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
}
"""Section 3.3 of the paper; 4.5, 8.7 and 15.4 GMAC."""


def create(name: str, seed: int = 0, **overrides: object) -> SwinTransformer:
    """A model in eval mode by its timm name; `overrides` are fields of `SwinConfig`.

    Raises ValueError for options that do not exist and sizes that windows do not divide.
    """
    config = SwinConfig(**fields_of(VARIANTS[name], overrides))
    size = config.image_size // config.patch_size
    for _ in config.depths:
        if size % min(config.window, size):
            raise ValueError(f"windows of {config.window} do not divide {size} tokens")
        size //= 2
    model = SwinTransformer(config).eval()
    branch = 1 / math.sqrt(sum(config.depths))
    seed_weights(model, seed, gains={"attn.proj": branch, "mlp.fc2": branch, "attn.qkv": 1.3})
    return model
