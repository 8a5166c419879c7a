"""Vision Transformers (ViT, DeiT) in torch, as the papers define them and timm names them.

ViT: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, sections 3.1 and D.3.
DeiT and its distillation token: Touvron et al., "Training data-efficient image transformers",
2021, sections 3 and 5. LayerScale: Touvron et al., "Going deeper with Image Transformers", 2021,
section 2. Register tokens: Darcet et al., "Vision Transformers Need Registers", 2024.

A model maps images `[B, in_channels, image_size, image_size]` float32 to logits
`[B, num_classes]`. `build` makes a model from a `ViTConfig`; the functions named as in timm
(`deit_tiny_patch16_224`, ...) take overrides as keywords: ``deit_tiny_patch16_224(depth=2)``.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (torch's own convention)

from models.blocks import Mlp, fields_of
from models.weights import seed_weights


@dataclass(frozen=True)
class ViTConfig:
    """Shape and options of a Vision Transformer."""

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    pool: Literal["token", "avg"] = "token"
    """Head input: the class token, or the mean of the patch tokens (then no class token)."""
    distilled: bool = False
    """A second token with its own head; the logits are the mean of both heads."""
    registers: int = 0
    """Extra learned tokens between class token and patches, without positions."""
    qkv_bias: bool = True
    layer_scale: float | None = None
    """Mean magnitude of the learned per-channel factors on both branches; None: no LayerScale."""
    gelu: Literal["none", "tanh"] = "none"
    """`approximate` of torch's GELU: exact (erf) or the tanh formula."""
    attention: Literal["matmul", "sdpa", "einsum"] = "matmul"
    """How the attention is written in torch; decides what an exporter emits."""
    layer_norm_eps: float = 1e-6

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: class, distillation, registers."""
        return (self.pool == "token") + self.distilled + self.registers

    @property
    def patches(self) -> int:
        """Number of patch tokens."""
        return (self.image_size // self.patch_size) ** 2


class Attention(nn.Module):
    """Multi-head self-attention with one fused linear layer for q, k and v."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_dim = config.dim // config.heads
        self.form = config.attention
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.form == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.form == "einsum":
            scores = torch.einsum("bhid,bhjd->bhij", q, k) * self.head_dim**-0.5
            y = torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v)
        else:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            y = scores.softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


class LayerScale(nn.Module):
    """Learned factor per channel on the output of a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block: attention and MLP, each on a residual branch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        scaled = config.layer_scale is not None
        self.norm1 = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        self.attn = Attention(config)
        self.ls1 = LayerScale(config.dim) if scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(config.dim, eps=config.layer_norm_eps)
        hidden = int(config.dim * config.mlp_ratio)
        self.mlp = Mlp(config.dim, hidden, partial(nn.GELU, approximate=config.gelu))
        self.ls2 = LayerScale(config.dim) if scaled else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """Patch embedding, tokens and positions, blocks, norm, pooling, linear head."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch_size
        self.patch_embed = nn.Conv2d(config.in_channels, dim, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.pool == "token" else None
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.distilled else None
        self.reg_token = (
            nn.Parameter(torch.zeros(1, config.registers, dim)) if config.registers else None
        )
        # With registers, timm gives positions to the patches alone (no_embed_class).
        positioned = config.patches + (0 if config.registers else config.prefix_tokens)
        self.pos_embed = nn.Parameter(torch.zeros(1, positioned, dim))
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.head = nn.Linear(dim, config.num_classes)
        self.head_dist = nn.Linear(dim, config.num_classes) if config.distilled else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, in_channels, S, S]` to logits `[B, num_classes]`."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = [
            token.expand(x.shape[0], -1, -1)
            for token in (self.cls_token, self.dist_token, self.reg_token)
            if token is not None
        ]
        if self.reg_token is not None:
            x = torch.cat([*tokens, x + self.pos_embed], dim=1)
        elif tokens:
            x = torch.cat([*tokens, x], dim=1) + self.pos_embed
        else:
            x = x + self.pos_embed
        x = self.blocks(x)
        if self.config.pool == "avg":
            # As timm does for average pooling: the norm comes after the mean.
            x = x[:, self.config.prefix_tokens :].mean(dim=1)
            return self.head(self.norm(x))
        x = self.norm(x)
        if self.head_dist is not None:
            return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2
        return self.head(x[:, 0])


def build(config: ViTConfig, seed: int = 0) -> VisionTransformer:
    """The model in eval mode, with seeded weights whose activations resemble a trained ViT's.

    Raises ValueError if the patch size does not divide the image size or the heads the width.
    """
    if config.image_size % config.patch_size or config.dim % config.heads:
        raise ValueError("patch_size must divide image_size, and heads must divide dim")
    if config.distilled and config.pool != "token":
        raise ValueError("the distillation token needs pool='token'")
    model = VisionTransformer(config).eval()
    branch = 1 / math.sqrt(max(config.depth, 1))
    seed_weights(model, seed, gains={"attn.proj": branch, "mlp.fc2": branch, "attn.qkv": 1.3})
    if config.layer_scale is not None:
        rescale_layer_scale(model, config.layer_scale)
    return model


@torch.no_grad()
def rescale_layer_scale(model: nn.Module, magnitude: float) -> None:
    """Multiplies the seeded LayerScale factors (mean about 1) by `magnitude`."""
    for module in model.modules():
        if isinstance(module, LayerScale):
            module.gamma *= magnitude


SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
"""Width, depth and heads of each size (DeiT table 1, ViT table 1)."""


def variant(name: str) -> ViTConfig:
    """The configuration for a timm name such as `deit_tiny_distilled_patch16_224`.

    Raises ValueError for a name that is not of the family.
    """
    parts = name.split("_")
    if (
        len(parts) < 4
        or parts[0] not in ("vit", "deit")
        or parts[1] not in SIZES
        or not parts[-2].startswith("patch")
        or parts[2:-2] not in ([], ["distilled"])
    ):
        raise ValueError(f"unknown model '{name}': expected e.g. deit_tiny_patch16_224")
    dim, depth, heads = SIZES[parts[1]]
    return ViTConfig(
        image_size=int(parts[-1]),
        patch_size=int(parts[-2].removeprefix("patch")),
        dim=dim,
        depth=depth,
        heads=heads,
        distilled="distilled" in parts,
    )


def create(name: str, seed: int = 0, **overrides: object) -> VisionTransformer:
    """A model by its timm name; `overrides` are fields of `ViTConfig` (`depth=2`, ...)."""
    return build(ViTConfig(**fields_of(variant(name), overrides)), seed)


def deit_tiny_patch16_224(seed: int = 0, **overrides: object) -> VisionTransformer:
    """DeiT-Tiny: 5.7 M parameters, 1.254 GMAC."""
    return create("deit_tiny_patch16_224", seed, **overrides)


def deit_small_patch16_224(seed: int = 0, **overrides: object) -> VisionTransformer:
    """DeiT-Small: 22 M parameters, 4.6 GMAC."""
    return create("deit_small_patch16_224", seed, **overrides)


def deit_base_patch16_224(seed: int = 0, **overrides: object) -> VisionTransformer:
    """DeiT-Base: 86 M parameters, 17.6 GMAC."""
    return create("deit_base_patch16_224", seed, **overrides)
