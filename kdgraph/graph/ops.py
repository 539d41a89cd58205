"""Marker operations: nodes with a meaning for kdgraph that run as plain functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def tap(value: Tensor, name: str) -> Tensor:
    """Gives ``value`` the reference ``name`` (``teacher.mid``, ``link.student``); the identity."""
    return value


def apart(value: Tensor, calls: int) -> tuple[Tensor, ...]:
    """The rows of each of several calls of a network, which ran as one: N x [B, ...]."""
    return value.view(calls, value.shape[0] // calls, *value.shape[1:]).unbind(0)


def stop_gradient(value: Tensor) -> Tensor:
    """``sg(value)``: what is learned from is not itself taught by that edge."""
    return value.detach()


def cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` in another floating type, where a frozen model of low precision starts or ends."""
    return value.to(dtype)


def total(values: Sequence[Tensor], weights: Sequence[Tensor | float]) -> Tensor:
    """The weighted sum of the edges, a 0-dim tensor; the order of adding is the spec's order."""
    result = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        result = result + value * weight
    return result
