"""A loss at a shape, and how a kernel is found for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdgraph.kernels.base import KERNELS
from kdgraph.losses.base import Loss, RowLoss
from kdgraph.spec.entry import LOSSES

Sides = dict[str, Tensor]


@dataclass(frozen=True)
class KernelCase:
    """A loss at a shape, from raw tensors to the value and its gradients.

    Attributes:
        kernel: its registered name, or that of its operator.
        draw: makes inputs on a device; ``few`` of them where they are compared with float64.
        ours: the value by the kernel.
        plain: the value in PyTorch.
        liger: the value by Liger-Kernel, under the name of each way it has.
        trained: the inputs that get a gradient.
        floor_bytes: each input read once, each gradient written once.
        floor_flops: the least that matrix units have to do.
        tolerance: relative errors of the value and of the gradients, in their norm.
        goal_ms: on an H200.
    """

    name: str
    kernel: str
    title: str
    draw: Callable[[torch.device, bool], Sides]
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    tolerance: tuple[float, float]
    trained: tuple[str, ...] = ("student",)
    liger: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    floor_bytes: int = 0
    floor_flops: int = 0
    goal_ms: float | None = None


def entry(use: str, **keys: Any) -> Loss:
    """A loss of a spec, whose references matter to no one here."""
    cls = LOSSES.get(use)
    return cls(**{name: "link.x" for name in cls.ref_fields() if name != "mask"}, **keys)


def by_kernel(loss: Loss, **inputs: Any) -> Tensor:
    """The value by the first kernel that takes the loss, as a compiled spec picks it."""
    shapes = {k: tuple(v.shape) for k, v in inputs.items() if isinstance(v, Tensor)}
    for name in KERNELS.names():
        kernel = KERNELS.get(name)
        if loss.use in kernel.losses and kernel.declines(loss, **shapes) is None:
            value = kernel.run(loss, **inputs)
            return loss.reduced(value, **inputs) if isinstance(loss, RowLoss) else value
    raise LookupError(f"no kernel takes {loss.use}")
