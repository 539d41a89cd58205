"""Optimisers that follow parameters which actions have replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kdgraph.actions._world import Moved


def carry(
    optimizer: torch.optim.Optimizer,
    moved: Sequence[Moved],
    fresh: Sequence[tuple[str, nn.Parameter]],
    nets: Mapping[str, nn.Module],
) -> None:
    """Lets an optimiser follow what actions have done to parameters, with their moments.

    Args:
        optimizer: has any of the parameters; those of others are left alone.
        moved: what was replaced by what, in order.
        fresh: what can be trained since, with the names of models. It joins the group in which
            the optimiser has other parameters of that model, if it has any.
        nets: the networks, by model.
    """
    for old, new, pick in moved:
        for group in optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        state = optimizer.state.pop(old, None)
        if state and pick is not None and _has_shape(state, old):
            optimizer.state[new] = {
                key: pick(v) if isinstance(v, Tensor) and v.shape == old.shape else v
                for key, v in state.items()
            }
    for model, parameter in fresh:
        own = {id(p) for p in nets[model].parameters()}
        groups = [g for g in optimizer.param_groups if any(id(p) in own for p in g["params"])]
        known = any(p is parameter for g in optimizer.param_groups for p in g["params"])
        if groups and not known:
            groups[0]["params"].append(parameter)


def _has_shape(state: Mapping[str, object], old: nn.Parameter) -> bool:
    """Whether moments are numbers, or like the parameter; Adafactor keeps rows and columns."""
    values = (v for v in state.values() if isinstance(v, Tensor) and v.numel() > 1)
    return all(v.shape == old.shape for v in values)
