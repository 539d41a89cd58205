"""The modules that adapters build, where torch.nn has none that fits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Resize(nn.Module):
    """[B, C, H, W] to [B, C, *size]."""

    def __init__(self, size: tuple[int, int], mode: str) -> None:
        super().__init__()
        self.size = size
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        align = False if self.mode == "bilinear" else None
        return F.interpolate(x, size=self.size, mode=self.mode, align_corners=align)

    def extra_repr(self) -> str:
        return f"size={self.size}, mode={self.mode!r}"


class MeanOver(nn.Module):
    """The mean over some dimensions, which go away."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)

    def extra_repr(self) -> str:
        return f"dims={self.dims}"


class TokensToMap(nn.Module):
    """[B, L, D] or [B, H, W, D] to [B, D, H, W]; a view."""

    def __init__(self, size: tuple[int, int], skip: int) -> None:
        super().__init__()
        self.size = size
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return x.movedim(3, 1)
        return torch.unflatten(x[:, self.skip :].transpose(1, 2), 2, self.size)

    def extra_repr(self) -> str:
        return f"size={self.size}, skip={self.skip}"


class MapToTokens(nn.Module):
    """[B, C, H, W] to [B, H*W, C], or to [B, H, W, C] with ``grid``; a view where it can be."""

    def __init__(self, grid: bool) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, 3) if self.grid else x.flatten(2).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"grid={self.grid}"


def keep_variance(layer: nn.Conv2d | nn.Linear) -> None:
    """Weights from N(0, 1 / fan-in), bias 0: the output varies as much as the input does."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
