"""EfficientViT (B0 to B3) of MIT Han Lab in torch, as the authors' code builds it.

Cai et al., "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction",
ICCV 2023: ReLU linear attention and its aggregation over scales (section 3.1), the architecture
(section 3.2, figure 5). Widths, depths and the classification head are those of the authors'
repository, mit-han-lab/efficientvit; names follow timm. A model maps images `[B, 3, S, S]` float32
to logits `[B, num_classes]`; S is a multiple of 32.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from models.blocks import ConvNorm, fields_of
from models.weights import seed_weights, settle_norms

AttentionForm = Literal["rows", "columns", "sum", "quadratic"]


@dataclass(frozen=True)
class EfficientViTConfig:
    """Shape and options of an EfficientViT."""

    image_size: int = 224
    in_channels: int = 3
    num_classes: int = 1000
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    depths: tuple[int, ...] = (1, 2, 3, 3, 4)
    head_dim: int = 16
    head_widths: tuple[int, int] = (1536, 1600)
    expand: int = 4
    attention: AttentionForm = "rows"
    """How linear attention is written; see `LiteMLA`."""
    eps: float = 1e-5
    """What is added to the divisor: timm 1e-5, the authors 1e-15."""


class DSConv(nn.Sequential):
    """Depthwise 3x3 convolution with activation, then a linear 1x1 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth_conv = ConvNorm(channels, channels, 3, groups=channels, act=nn.Hardswish)
        self.point_conv = ConvNorm(channels, channels, 1)


class MBConv(nn.Sequential):
    """Widen by a 1x1 convolution, depthwise 3x3, linear 1x1; `few_norms`: BatchNorm at the end."""

    def __init__(self, cin: int, cout: int, expand: int, stride: int, few_norms: bool) -> None:
        super().__init__()
        wide, act = cin * expand, nn.Hardswish
        bias, norm = few_norms, not few_norms
        self.inverted_conv = ConvNorm(cin, wide, 1, norm=norm, bias=bias, act=act)
        self.depth_conv = ConvNorm(
            wide, wide, 3, stride, groups=wide, norm=norm, bias=bias, act=act
        )
        self.point_conv = ConvNorm(wide, cout, 1)


class LiteMLA(nn.Module):
    """Multi-scale ReLU linear attention on `[B, C, H, W]` (section 3.1).

    y = relu(q) (relu(k)^T v) / (relu(q) sum_n relu(k_n) + eps) for every head, where the heads
    are those of q, k, v and of their 5x5 aggregation. `form` is how it is written: tokens as
    "rows" (timm, and the authors at first) or as "columns" (the authors now), with a column of
    ones in v for the divisor, or with its "sum" written as such; "quadratic" is the authors' form
    for few tokens, (relu(q) relu(k)^T normalised by rows) v.
    """

    def __init__(self, channels: int, config: EfficientViTConfig) -> None:
        super().__init__()
        self.dim, self.form, self.eps = config.head_dim, config.attention, config.eps
        wide = 3 * channels
        self.qkv = nn.Conv2d(channels, wide, 1, bias=False)
        self.aggreg = nn.Sequential(
            nn.Conv2d(wide, wide, 5, padding=2, groups=wide, bias=False),
            nn.Conv2d(wide, wide, 1, groups=wide // self.dim, bias=False),
        )
        self.proj = ConvNorm(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, C, H, W]` to `[B, C, H, W]`."""
        b, _, h, w = x.shape
        qkv = self.qkv(x)
        both = torch.cat([qkv, self.aggreg(qkv)], dim=1).reshape(b, -1, 3 * self.dim, h * w)
        forms = {
            "rows": self.rows,
            "columns": self.columns,
            "sum": self.sum,
            "quadratic": self.quadratic,
        }
        return self.proj(forms[self.form](both).reshape(b, -1, h, w))

    def parts(self, both: torch.Tensor, dim: int) -> tuple[torch.Tensor, ...]:
        """relu(q), relu(k) and v of `[..., 3d, N]` (dim -2) or `[..., N, 3d]` (dim -1)."""
        q, k, v = both.chunk(3, dim=dim)
        return F.relu(q), F.relu(k), v

    def rows(self, both: torch.Tensor) -> torch.Tensor:
        """`[B, heads, 3d, N]` to `[B, heads, d, N]`, inside with tokens as rows."""
        q, k, v = self.parts(both.transpose(-1, -2), -1)
        y = q @ (k.transpose(-1, -2) @ F.pad(v, (0, 1), mode="constant", value=1.0))
        return (y[..., :-1] / (y[..., -1:] + self.eps)).transpose(-1, -2)

    def columns(self, both: torch.Tensor) -> torch.Tensor:
        """The same with tokens as columns throughout."""
        q, k, v = self.parts(both, -2)
        y = (F.pad(v, (0, 0, 0, 1), mode="constant", value=1.0) @ k.transpose(-1, -2)) @ q
        return y[:, :, :-1] / (y[:, :, -1:] + self.eps)

    def sum(self, both: torch.Tensor) -> torch.Tensor:
        """The same with the sum of k as a sum."""
        q, k, v = self.parts(both.transpose(-1, -2), -1)
        divisor = (q * k.sum(dim=-2, keepdim=True)).sum(dim=-1, keepdim=True)
        return (q @ (k.transpose(-1, -2) @ v) / (divisor + self.eps)).transpose(-1, -2)

    def quadratic(self, both: torch.Tensor) -> torch.Tensor:
        """The same through the matrix of all pairs of tokens."""
        q, k, v = self.parts(both, -2)
        pairs = k.transpose(-1, -2) @ q
        return v @ (pairs / (pairs.sum(dim=2, keepdim=True) + self.eps))


class EfficientViTBlock(nn.Module):
    """Context branch (attention), then local branch (MBConv), each residual."""

    def __init__(self, channels: int, config: EfficientViTConfig) -> None:
        super().__init__()
        self.context = LiteMLA(channels, config)
        self.local = MBConv(channels, channels, config.expand, 1, few_norms=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, C, H, W]` to `[B, C, H, W]`."""
        x = x + self.context(x)
        return x + self.local(x)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, C, H, W]` to `[B, C, H, W]`."""
        return x + self.inner(x)


class EfficientViT(nn.Module):
    """Stem, two stages of MBConv, two stages with attention, convolution, pooled head."""

    def __init__(self, config: EfficientViTConfig) -> None:
        super().__init__()
        self.config = config
        widths, depths = config.widths, config.depths
        stem = ConvNorm(config.in_channels, widths[0], 3, 2, act=nn.Hardswish)
        self.stem = nn.Sequential(stem, *(Residual(DSConv(widths[0])) for _ in range(depths[0])))
        blocks: list[nn.Module] = []
        for stage in range(1, len(widths)):
            width, attended = widths[stage], stage >= 3
            down = MBConv(widths[stage - 1], width, config.expand, 2, few_norms=attended)
            blocks.append(down)
            for _ in range(depths[stage] if attended else depths[stage] - 1):
                local = MBConv(width, width, config.expand, 1, few_norms=False)
                blocks.append(EfficientViTBlock(width, config) if attended else Residual(local))
        self.stages = nn.Sequential(*blocks)
        first, second = config.head_widths
        self.head_conv = ConvNorm(widths[-1], first, 1, act=nn.Hardswish)
        self.head_pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(
            nn.Linear(first, second, bias=False),
            nn.LayerNorm(second),
            nn.Hardswish(),
            nn.Linear(second, config.num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, in_channels, S, S]` to logits `[B, num_classes]`."""
        x = self.head_conv(self.stages(self.stem(x)))
        return self.head(self.head_pool(x).flatten(1))


VARIANTS: dict[str, EfficientViTConfig] = {
    "efficientvit_b0": EfficientViTConfig(
        widths=(8, 16, 32, 64, 128), depths=(1, 2, 2, 2, 2), head_widths=(1024, 1280)
    ),
    "efficientvit_b1": EfficientViTConfig(),
    "efficientvit_b2": EfficientViTConfig(
        widths=(24, 48, 96, 192, 384), depths=(1, 3, 4, 4, 6), head_dim=32, head_widths=(2304, 2560)
    ),
    "efficientvit_b3": EfficientViTConfig(
        widths=(32, 64, 128, 256, 512),
        depths=(1, 4, 6, 6, 9),
        head_dim=32,
        head_widths=(2304, 2560),
    ),
}
"""At 224: 0.10, 0.52, 1.6 and 4.0 GMAC (the authors' table of classification models)."""


def create(name: str, seed: int = 0, **overrides: object) -> EfficientViT:
    """A model in eval mode; `overrides` are fields of `EfficientViTConfig` (`image_size=288`).

    Raises ValueError for options that do not exist.
    """
    config = EfficientViTConfig(**fields_of(VARIANTS[name], overrides))
    model = EfficientViT(config).eval()
    seed_weights(model, seed, gains={"point_conv.norm": 0.5, "proj.norm": 0.5})
    settle_norms(model, config.in_channels, config.image_size)
    return model
