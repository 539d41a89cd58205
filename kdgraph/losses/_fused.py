"""Several losses over the same logits in one step of autograd."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kdgraph.losses._forms import SIDES, Forms, Function, numbered
from kdgraph.losses._module import LossModule, widen
from kdgraph.losses.base import Loss, RowLoss, without_channels

Inputs = Mapping[str, Any]
Value = Tensor | tuple[Tensor, Tensor]


class FusedLosses(nn.Module):
    """Runs losses by their closed forms where those hold, and their modules elsewhere.

    Closed forms are for finite values on the CPU, in eager mode. Compilers, transforms of
    functions, other devices and masked classes get the modules. A kernel for some set of losses
    would be chosen here, by ``edges``.

    Attributes:
        names: the edges, in the order of the values.
        edges: their modules, in the same order.
    """

    def __init__(self, edges: Mapping[str, LossModule]) -> None:
        super().__init__()
        self.names = tuple(edges)
        self.edges = nn.ModuleList(edges.values())

    def forward(self, inputs: Mapping[str, Inputs]) -> tuple[Value, ...]:
        """The value of each edge, from the arguments of its module by name."""
        given = [inputs[name] for name in self.names]
        values = self._closed(given) if _here_and_now(given) else None
        if values is not None:
            return values
        return tuple(edge(**g) for edge, g in zip(self.edges, given, strict=True))

    def _closed(self, given: Sequence[Inputs]) -> tuple[Value, ...] | None:
        """By the closed forms; None where they do not hold."""
        losses = [cast(Loss, edge.loss) for edge in self.edges]
        wide = _widened(given)
        tensors, calls = numbered(losses, wide)
        students = {c.tensors["student"] for c in calls}
        logits = {tensors[n].dtype for c in calls for f, n in c.tensors.items() if f in SIDES}
        learn = {n for n, t in enumerate(tensors) if t.requires_grad}
        if len(logits) > 1 or not learn <= students:
            return None
        with torch.autocast("cpu", enabled=False):
            values = Function.apply(Forms(calls), *tensors)
            if not all(math.isfinite(value.sum().item()) for value in values):
                return None
            return tuple(_reduced(*edge) for edge in zip(losses, values, wide, strict=True))

    def extra_repr(self) -> str:
        return ", ".join(self.names)


def _here_and_now(given: Sequence[Inputs]) -> bool:
    """Whether plain numbers are computed at once, on the CPU."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    tensors = [v for g in given for v in g.values() if isinstance(v, Tensor)]
    kinds = (Tensor, nn.Parameter)
    return forward_ad._current_level < 0 and all(
        type(t) in kinds and t.device.type == "cpu" for t in tensors
    )


def _widened(given: Sequence[Inputs]) -> list[dict[str, Any]]:
    """As a loss module widens its inputs; what several edges read, once."""
    seen = {id(v): widen(v) for g in given for v in g.values() if isinstance(v, Tensor)}
    return [{f: seen.get(id(v), v) for f, v in g.items()} for g in given]


def _reduced(loss: Loss, value: Tensor, inputs: Inputs) -> Value:
    if not isinstance(loss, RowLoss):
        return value
    shape = without_channels(tuple(inputs["student"].shape))
    return loss.reduced(value.reshape(shape), **inputs)
