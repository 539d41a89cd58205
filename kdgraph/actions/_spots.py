"""Where neurons (or channels) stand in a tensor, and how that follows a change of its shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import fx, nn

from kdgraph.actions._words import name_of


class Stuck(Exception):
    """The neurons cannot be followed, or must not be removed; the message is the reason."""


class Closed(Stuck):
    """They enter a module that would have to be opened first."""

    def __init__(self, module: nn.Module, reason: str) -> None:
        super().__init__(reason)
        self.module = module


class Spot(NamedTuple):
    """Neuron j of a layer is at ``j * block`` to ``(j + 1) * block - 1`` of dimension ``dim``."""

    dim: int
    block: int = 1


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's value, as it was when the graph was made."""
    return tuple(int(size) for size in node.meta["val"].shape)


def reduced(node: fx.Node, spot: Spot, before: Sequence[int]) -> Spot:
    """Behind a sum or a mean over dimensions that are named."""
    args: list[Any] = list(node.args[1:])
    dims: Any = node.kwargs.get("dim", args[0] if args else None)
    chosen = [dims] if isinstance(dims, int) else dims
    if not isinstance(chosen, Sequence) or not all(isinstance(d, int) for d in chosen):
        raise Stuck(f"{name_of(node)} sums over all dimensions")
    over = {d % len(before) for d in chosen}
    if spot.dim in over:
        raise Stuck(f"{name_of(node)} sums over them")
    keeps = node.kwargs.get("keepdim", args[1] if len(args) > 1 else False)
    return spot if keeps else spot._replace(dim=spot.dim - sum(d < spot.dim for d in over))


def reshaped(node: fx.Node, word: str, spot: Spot, before: Sequence[int]) -> Spot:
    """Behind a change of shape: ``flatten`` turns channels into blocks of columns."""
    after = shape_of(node)
    # row-major: neuron j has this many neighbouring values for each index in front of it
    own = spot.block * math.prod(before[spot.dim + 1 :])
    number = before[spot.dim] // spot.block
    for dim, size in enumerate(after):
        block, rest = divmod(own, math.prod(after[dim + 1 :]))
        whole = rest == 0 and block > 0 and size == number * block
        if whole and math.prod(after[:dim]) == math.prod(before[: spot.dim]):
            _check_code(node, word, dim)
            return Spot(dim, block)
    raise Stuck(f"{name_of(node)} mixes them with other dimensions")


def _check_code(node: fx.Node, word: str, dim: int) -> None:
    """Refuses a shape that is written in the code and would not fit any more."""
    if word not in ("view", "reshape"):
        return
    given: Any = node.args[1:] or (node.kwargs.get("shape", node.kwargs.get("size")),)
    sizes = given[0] if isinstance(given[0], Sequence) else given
    if isinstance(sizes[dim], int) and sizes[dim] != -1:
        raise Stuck(f"the model's code fixes a size of {sizes[dim]} ({name_of(node)})")


def order_of(node: fx.Node, word: str, rank: int) -> list[int]:
    """The dimensions of what is read, in their new order."""
    args: Any = node.args[1:] or tuple(node.kwargs.values())
    dims = args[0] if args and isinstance(args[0], Sequence) else args
    order = list(range(rank))
    if word == "permute":
        return [int(d) % rank for d in dims]
    a, b = (int(d) % rank for d in dims)
    order[a], order[b] = order[b], order[a]
    return order
