"""TinyViT (5M, 11M, 21M) in torch: inverted bottlenecks, then window attention with biases.

Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", 2022, section
3.3 and the authors' code; names follow timm. Convolutions see `[B, C, H, W]`, attention windows
`[B * windows, N, C]`. A model maps images `[B, 3, S, S]` float32 to logits `[B, num_classes]`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from models.blocks import Activation, ConvNorm, Mlp, fields_of, from_windows, to_windows
from models.weights import seed_weights, settle_norms


@dataclass(frozen=True)
class TinyViTConfig:
    """Shape and options of a TinyViT."""

    image_size: int = 224
    in_channels: int = 3
    num_classes: int = 1000
    dims: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    mlp_ratio: float = 4.0
    expand: int = 4
    act: Literal["gelu", "relu6", "silu"] = "gelu"
    """Activation of the convolutions: TinyViT has GELU, its relatives ReLU6 and SiLU."""


ACTIVATIONS: dict[str, Activation] = {"gelu": nn.GELU, "relu6": nn.ReLU6, "silu": nn.SiLU}


class MBConv(nn.Module):
    """1x1, depthwise 3x3, 1x1 with BatchNorm each; residual, activation after the sum."""

    def __init__(self, dim: int, expand: int, act: Activation) -> None:
        super().__init__()
        wide = dim * expand
        self.conv1 = ConvNorm(dim, wide, 1, act=act)
        self.conv2 = ConvNorm(wide, wide, 3, groups=wide, act=act)
        self.conv3 = ConvNorm(wide, dim, 1)
        self.act = act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, C, H, W]` to `[B, C, H, W]`."""
        return self.act(x + self.conv3(self.conv2(self.conv1(x))))


class Merging(nn.Sequential):
    """1x1, depthwise 3x3 of stride 2, 1x1: halves the sides, changes the width."""

    def __init__(self, cin: int, cout: int, act: Activation) -> None:
        super().__init__()
        self.conv1 = ConvNorm(cin, cout, 1, act=act)
        self.conv2 = ConvNorm(cout, cout, 3, 2, groups=cout, act=act)
        self.conv3 = ConvNorm(cout, cout, 1)


class BiasedAttention(nn.Module):
    """LayerNorm and self-attention of windows with a learned bias per absolute offset."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        axis = torch.arange(window)
        place = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
        offset = (place[:, :, None] - place[:, None, :]).abs()
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        index = offset[0] * window + offset[1]
        self.register_buffer("attention_bias_idxs", index, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        b, n, c = x.shape
        qkv = self.qkv(self.norm(x)).view(b, n, self.heads, -1)
        q, k, v = (t.transpose(1, 2) for t in qkv.split(self.head_dim, dim=3))
        scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
        scores = scores + self.attention_biases[:, self.attention_bias_idxs]
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c))


class TinyViTBlock(nn.Module):
    """Window attention, local 3x3 depthwise convolution, MLP with its norm."""

    def __init__(self, dim: int, heads: int, window: int, hidden: int) -> None:
        super().__init__()
        self.window = window
        self.attn = BiasedAttention(dim, heads, window)
        self.local_conv = ConvNorm(dim, dim, 3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, C, H, W]` to `[B, C, H, W]`; windows at the end are filled up with zeros."""
        x = x.permute(0, 2, 3, 1)
        x = x + self.attend(x)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.mlp(self.norm(x))
        return x.permute(0, 3, 1, 2)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Attention in windows of `[B, H, W, C]`."""
        b, h, w, c = x.shape
        if h == w == self.window:
            return self.attn(x.reshape(b, h * w, c)).reshape(b, h, w, c)
        bottom, right = -h % self.window, -w % self.window
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        y = self.attn(to_windows(x, self.window))
        return from_windows(y, self.window, h + bottom, w + right)[:, :h, :w]


class TinyViT(nn.Module):
    """Two convolutions, a stage of MBConv, stages with attention, mean, norm, linear head."""

    def __init__(self, config: TinyViTConfig) -> None:
        super().__init__()
        self.config = config
        act, dims = ACTIVATIONS[config.act], config.dims
        self.patch_embed = nn.Sequential(
            ConvNorm(config.in_channels, dims[0] // 2, 3, 2, act=act),
            ConvNorm(dims[0] // 2, dims[0], 3, 2),
        )
        blocks: list[nn.Module] = [
            MBConv(dims[0], config.expand, act) for _ in range(config.depths[0])
        ]
        for stage in range(1, len(dims)):
            dim = dims[stage]
            blocks.append(Merging(dims[stage - 1], dim, act))
            hidden = int(dim * config.mlp_ratio)
            for _ in range(config.depths[stage]):
                blocks.append(TinyViTBlock(dim, config.heads[stage], config.windows[stage], hidden))
        self.stages = nn.Sequential(*blocks)
        self.norm_head = nn.LayerNorm(dims[-1])
        self.head = nn.Linear(dims[-1], config.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, in_channels, S, S]` to logits `[B, num_classes]`."""
        x = self.stages(self.patch_embed(x))
        return self.head(self.norm_head(x.mean(dim=(2, 3))))


VARIANTS: dict[str, TinyViTConfig] = {
    "tiny_vit_5m_224": TinyViTConfig(),
    "tiny_vit_11m_224": TinyViTConfig(dims=(64, 128, 256, 448), heads=(2, 4, 8, 14)),
    "tiny_vit_21m_224": TinyViTConfig(dims=(96, 192, 384, 576), heads=(3, 6, 12, 18)),
}
"""Table 1 of the paper; 1.3, 2.0 and 4.3 GMAC."""


def create(name: str, seed: int = 0, **overrides: object) -> TinyViT:
    """A model in eval mode; `overrides` are fields of `TinyViTConfig`.

    Raises ValueError for options that do not exist.
    """
    config = TinyViTConfig(**fields_of(VARIANTS[name], overrides))
    model = TinyViT(config).eval()
    branch = 1 / math.sqrt(sum(config.depths))
    gains = {"attn.proj": branch, "mlp.fc2": branch, "attn.qkv": 1.3, "conv3.norm": 0.5}
    seed_weights(model, seed, gains=gains)
    settle_norms(model, config.in_channels, config.image_size)
    return model
