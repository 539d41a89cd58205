"""Small networks for a spec's ``python/`` models."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp(width: int = 8, dropout: float = 0.0) -> nn.Module:
    """Has a batch norm; with ``dropout`` it is random as well."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Dropout(dropout), nn.Linear(width, 10),
    )  # fmt: skip


class Counts(nn.Module):
    """A buffer moves whenever it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        self.seen.add_(1)
        logits: Tensor = self.head(image.flatten(1))
        return logits


class Narrow(nn.Module):
    """Rounds to float32 whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(image.flatten(1))
        return logits.float().to(logits.dtype)
