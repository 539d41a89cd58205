"""Segments of one network in another, between adapters, and what they are once they are folded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, fx, nn

from kdgraph.actions._affine import absorb, does_nothing, is_affine, merged
from kdgraph.actions._frozen import freeze_part, unfreeze_part
from kdgraph.capture import capture
from kdgraph.errors import CaptureError


class Graft(nn.Module):
    """``after(scion(before(x)))`` in the place of ``original(x)``; or, put back, that again.

    Args:
        original: what stands here otherwise.
        scion: what is grafted.
        before: makes of what comes in what the scion reads.
        after: makes of what the scion gives what the original would give.
        source: where the scion comes from.

    Attributes:
        grafted: whether the scion runs, and not the original.
    """

    def __init__(
        self,
        original: nn.Module,
        scion: nn.Module,
        before: nn.Module,
        after: nn.Module,
        source: str = "",
    ) -> None:
        super().__init__()
        self.original, self.before, self.scion, self.after = original, before, scion, after
        self.grafted, self.source = True, source
        self.link(None, handed_on=False)

    _previous: Graft | None
    _handed_on: bool

    def forward(self, x: Tensor) -> Tensor:
        """One tensor of another, in the shape that the original gives."""
        inner = (self.before, self.scion, self.after) if self.grafted else (self.original,)
        for part in inner:
            x = part(x)
        return x

    def link(self, previous: Graft | None, *, handed_on: bool) -> None:
        """Says which graft's ``after`` is to become a part of this one, and whose part its own.

        Args:
            previous: right before this one, if there is one.
            handed_on: ``after`` becomes a part of the graft behind.
        """
        # out of nn.Module's sight: the one before is a part of the network elsewhere
        vars(self).update(_previous=previous, _handed_on=handed_on)

    def put_on(self) -> None:
        """Lets the scion run, and it and its adapters be trained."""
        self.grafted = True
        for module in self._part():
            unfreeze_part(module, self.training)

    def put_back(self) -> None:
        """Lets the original run; what was grafted keeps its values."""
        self.grafted = False
        for module in self._part():
            freeze_part(module)

    def _part(self) -> list[nn.Module]:
        return [m for part in (self.before, self.scion, self.after) for m in part.modules()]

    def folded(self) -> nn.Module:
        """What runs, with adapters merged into each other and into the scion, where that is exact.

        Meant for a copy: layers of the scion are changed.
        """
        if not self.grafted:
            return self.original
        before = self.before
        if self._previous is not None:
            before = merged(self._previous.after, before)
        own = [] if absorb(before, self.scion) else [before]
        parts = [*own, self.scion, *([] if self._handed_on else [self.after])]
        parts = [part for part in parts if not does_nothing(part)]
        return parts[0] if len(parts) == 1 else nn.Sequential(*parts)

    def extra_repr(self) -> str:
        """``scion.block3``, or that it is put back."""
        return self.source if self.grafted else f"{self.source}, put back"


def grafts(net: nn.Module) -> dict[str, Graft]:
    """The grafts that run, by their paths."""
    return {p: m for p, m in net.named_modules() if isinstance(m, Graft) and m.grafted}


def freeze_stock(net: nn.Module) -> None:
    """Freezes all of a network but its grafts."""
    grown = {id(m) for graft in grafts(net).values() for m in graft._part()}
    for module in net.modules():
        if id(module) not in grown:
            freeze_part(module)


def link_neighbours(net: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Finds grafts that follow each other directly, whose adapters will be merged.

    Where the network cannot be traced there are none, and each keeps its own.
    """
    for module in net.modules():
        if isinstance(module, Graft):
            module.link(None, handed_on=False)
    found = grafts(net)
    if len(found) < 2:
        return
    taps = {"output": "output"} | {f"graft {path}": path for path in found}
    try:
        graph = capture(net, inputs, taps, rungs=("fx",)).graph
    except CaptureError:
        return
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target in found]
    if len(calls) != len(found):
        return  # one of them is called again
    returned = cast(dict[str, fx.Node], graph.output_node().args[0])["output"]
    for node in calls:
        path, (other, flat) = str(node.target), _reader(net, node)
        if other in found and node is not returned:
            first, second = found[path], found[other]
            if _fit(first.after, second.before, flat):
                vars(first)["_handed_on"] = True
                vars(second)["_previous"] = first


def _fit(after: nn.Module, before: nn.Module, flat: bool) -> bool:
    """Whether two adapters can be one; ``flat`` where a mean and a flatten stand in between."""
    if does_nothing(after) or not (is_affine(after) and is_affine(before)):
        return False
    if flat:
        return isinstance(after, nn.Conv2d) and isinstance(before, nn.Linear)
    return does_nothing(before) or type(after) is type(before)


def _reader(net: nn.Module, node: fx.Node) -> tuple[str | None, bool]:
    """The only module that reads what a graft gives, and whether the mean over positions is read.

    Behind the mean, which a 1x1 convolution can go past, the value has to be flattened.
    """
    users = [user for user in node.users if user.op != "output"]  # that is the graft's own tap
    pooled = flat = False
    while len(users) == 1:
        (user,) = users
        module = net.get_submodule(str(user.target)) if user.op == "call_module" else None
        if not pooled and isinstance(module, nn.AdaptiveAvgPool2d):
            pooled = module.output_size in (1, (1, 1))
        elif pooled and not flat and _flattens(user, module):
            flat = True
        else:
            return (str(user.target) if module is not None and pooled == flat else None), flat
        users = list(user.users)
    return None, flat


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """``[B, C, 1, 1] -> [B, C]``."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    return node.target in (torch.flatten, "flatten") and node.args[1:] == (1,) and not node.kwargs
