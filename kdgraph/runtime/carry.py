"""Optimisers that follow parameters which actions have replaced."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdgraph.actions._world import Moved


def carry(
    optimizer: torch.optim.Optimizer, moved: list[Moved], parameters: list[nn.Parameter]
) -> None:
    """Lets an optimiser follow parameters that were replaced, with their moments.

    Args:
        optimizer: has a group for every parameter that was replaced.
        moved: what was replaced by what, in order.
        parameters: all there are now; what the optimiser does not know joins its first group.
    """
    for old, new, pick in moved:
        for group in optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        state = optimizer.state.pop(old, None)
        if state and pick is not None:
            optimizer.state[new] = {
                key: pick(v) if isinstance(v, Tensor) and v.shape == old.shape else v
                for key, v in state.items()
            }
    present = {id(p) for p in parameters}
    for group in optimizer.param_groups:
        for parameter in [p for p in group["params"] if id(p) not in present]:
            optimizer.state.pop(parameter, None)
        group["params"] = [p for p in group["params"] if id(p) in present]
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    optimizer.param_groups[0]["params"] += [
        p for p in parameters if id(p) not in known and p.requires_grad
    ]
