"""What several architectures share: convolution with BatchNorm, MLP, windows, inverted bottlenecks."""

from collections.abc import Callable

import torch
from torch import nn

Activation = Callable[[], nn.Module]
"""Makes an activation layer: `nn.GELU`, `nn.Hardswish`, `nn.ReLU6`, `nn.SiLU`, `nn.Identity`."""


class ConvNorm(nn.Sequential):
    """Convolution with "same" padding, then BatchNorm and an activation where asked for."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        norm: bool = True,
        bias: bool = False,
        act: Activation = nn.Identity,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=bias)
        if norm:
            self.norm = nn.BatchNorm2d(cout)
        self.act = act()


class Mlp(nn.Module):
    """Linear, GELU, linear on the last dimension."""

    def __init__(self, dim: int, hidden: int, act: Activation = nn.GELU) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = act()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., C]` to `[..., C]`."""
        return self.fc2(self.act(self.fc1(x)))


def to_windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """`[B, H, W, C]` to `[B * windows, window^2, C]`; windows run row by row."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, c)


def from_windows(x: torch.Tensor, window: int, h: int, w: int) -> torch.Tensor:
    """`[B * windows, window^2, C]` back to `[B, H, W, C]`."""
    c = x.shape[-1]
    x = x.view(-1, h // window, w // window, window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)


def fields_of(config: object, overrides: dict[str, object]) -> dict[str, object]:
    """The fields of a configuration with some replaced; ValueError names those it lacks."""
    fields = dict(vars(config))
    unknown = overrides.keys() - fields.keys()
    if unknown:
        raise ValueError(
            f"unknown options of {type(config).__name__}: {', '.join(sorted(unknown))}"
        )
    return fields | overrides
