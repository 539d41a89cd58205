"""Results of a step, and how far two of them are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdgraph.verify.base import Gap

SEED = 20250
TOTAL = "(total)"
_SMALL = 1e-2  # of the largest entry of all: what is smaller is compared with this share of it


class Result(NamedTuple):
    """What a step gives, float64 on the CPU.

    Attributes:
        losses: the total and each edge, 0-dim.
        grads: of each parameter that has one.
    """

    losses: dict[str, Tensor]
    grads: dict[str, Tensor]

    def gaps(self, wanted: Result) -> dict[str, Gap]:
        """How far it is from what it should be."""
        return {
            "loss": gap(self.losses, wanted.losses),
            "gradients": gap(self.grads, wanted.grads),
        }


def stepped(
    step: nn.Module, batch: Mapping[str, Tensor], run: Callable[..., Any] | None = None
) -> Result:
    """One forward and backward, from fixed random numbers.

    Args:
        step: whose gradients are taken.
        batch: on its device.
        run: what computes it; left out: ``step`` itself.
    """
    step.zero_grad(set_to_none=True)
    torch.manual_seed(SEED)
    out = (step if run is None else run)(**batch)
    out.loss.backward()
    return Result(losses_of(out), gradients(step))


def losses_of(out: Any) -> dict[str, Tensor]:
    """The total and each edge, unweighted."""
    return {TOTAL: kept(out.loss)} | {name: kept(v) for name, v in out.losses.items()}


def gradients(step: nn.Module) -> dict[str, Tensor]:
    """Of the parameters that have one."""
    return {n: kept(p.grad) for n, p in step.named_parameters() if p.grad is not None}


def kept(value: Tensor) -> Tensor:
    """A copy that nothing changes any more."""
    return value.detach().to("cpu", torch.float64, copy=True)


def gap(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Gap:
    """The largest difference; what one of them lacks is 0 there."""
    largest = max((_largest(v) for v in wanted.values()), default=0.0)
    absolute = relative = 0.0
    at = ""
    for name in {**wanted, **found}:
        one = found.get(name, torch.zeros(()))
        other = wanted.get(name, torch.zeros(()))
        if one.dim() and other.dim() and one.shape != other.shape:
            off = math.inf
        else:
            off = _largest(torch.where(one == other, 0.0, one - other))
        scale = max(_largest(other), _SMALL * largest)
        share = 0.0 if off == 0 else off / scale if scale else math.inf
        absolute = max(absolute, off)
        if share > relative:
            relative, at = share, name
    return Gap(absolute, relative, at)


def worst(*found: Mapping[str, Gap]) -> dict[str, Gap]:
    """The largest of several comparisons."""
    return {
        of: Gap(
            max(gaps[of].absolute for gaps in found),
            *max(((gaps[of].relative, gaps[of].at) for gaps in found), key=lambda pair: pair[0]),
        )
        for of in found[0]
    }


def _largest(value: Tensor) -> float:
    if not value.numel():
        return 0.0
    found = float(value.abs().max())
    return math.inf if math.isnan(found) else found
