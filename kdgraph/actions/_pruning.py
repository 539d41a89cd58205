"""Takes neurons out of a network: every tensor that has them in it, and what follows those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from kdgraph.actions._flops import flops
from kdgraph.actions._flow import Flow, follow
from kdgraph.actions._spots import Spot, Stuck
from kdgraph.actions._widths import settle
from kdgraph.actions._world import Found, World
from kdgraph.losses.base import Loss
from kdgraph.spec.shapes import Shape, ShapeMismatch


def plan(world: World, found: Found, *, fold: bool) -> Flow:
    """The way of a layer's neurons, if they can be removed.

    Raises:
        ActionError: KD751, with the reason why they cannot.
    """
    try:
        flow = follow(world.spec, found.model, world.nets[found.model], found.path)
        if (copied := world.spec.models[found.model].snapshot_of) is not None:
            raise Stuck(f"{found.model!r} is a snapshot of {copied!r}; prune that")
        _check_ties(world, flow)
        for tap, (shape, spot) in flow.shown.items():
            _check_readers(world, tap, shape, spot)
        if fold:
            _check_fold(flow)
        elif flow.moved is not None:
            raise Stuck(
                f"behind the activation, {flow.moved} makes something else of a silent one; "
                "`fold_mean: true` puts that into the bias of the next layer"
            )
    except Stuck as reason:
        world.wrong(f"neurons of {found.name!r} cannot be removed: {reason}")
    return flow


def cut(world: World, flow: Flow, keep: Tensor, means: Mapping[str, Tensor]) -> None:
    """Keeps some neurons and removes all others.

    Args:
        world: is told of replaced parameters.
        flow: the way of the neurons.
        keep: their indices, ascending.
        means: what each consumer reads on average, by its path: is added to its bias for the
            columns that go. Empty where nothing is.
    """
    for call, (_, spot) in flow.consumers.items():
        if str(call.target) in means:
            gone = torch.ones(flow.width, dtype=torch.bool)
            gone[keep] = False
            columns = _places(gone.nonzero().flatten(), spot)
            _fold(flow.net.get_submodule(str(call.target)), columns, means[str(call.target)])
    for module, cuts in flow.cuts.items():
        by_tensor: dict[str, list[tuple[int, Tensor]]] = {}
        for name, spot in sorted(cuts):
            by_tensor.setdefault(name, []).append((spot.dim, _places(keep, spot)))
        for name, along in by_tensor.items():
            pick = partial(_select, along=along)
            old = getattr(module, name)
            if isinstance(old, nn.Parameter):
                world.replace(module, name, pick(old.detach()), pick)
            else:
                setattr(module, name, pick(old))
        settle(module)


def size(world: World, model: str) -> dict[str, int]:
    """What a network has and does, by unit."""
    net = world.nets[model]
    cost = flops(world.spec, model, net)
    known = {} if cost is None else {"FLOPs a sample": cost}
    return {"parameters": sum(p.numel() for p in net.parameters()), **known}


def _places(neurons: Tensor, spot: Spot) -> Tensor:
    return (neurons[:, None] * spot.block + torch.arange(spot.block)).flatten()


def _select(value: Tensor, along: Sequence[tuple[int, Tensor]]) -> Tensor:
    for dim, places in along:
        value = value.index_select(dim, places.to(value.device))
    return value


def _fold(layer: nn.Module, columns: Tensor, means: Tensor) -> None:
    """``b += W[:, columns] means[columns]``; of a convolution the sum over its kernel."""
    weight, bias = layer.get_parameter("weight").detach(), layer.get_parameter("bias").detach()
    if weight.dim() > 2:
        weight = weight.flatten(2).sum(2)
    columns = columns.to(weight.device)
    bias += weight[:, columns] @ means.to(weight)[columns]


def _check_ties(world: World, flow: Flow) -> None:
    """Each tensor that shrinks must be held by one module, under one name."""
    holders: dict[int, set[tuple[int, str]]] = {}
    names: dict[tuple[int, str], str] = {}
    for model, net in world.nets.items():
        for path, module in net.named_modules():
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None:
                    holders.setdefault(id(tensor), set()).add((id(module), name))
                    names[id(module), name] = ".".join(filter(None, (model, path, name)))
    for module, cuts in flow.cuts.items():
        for name, _ in cuts:
            own = (id(module), name)
            if others := holders[id(getattr(module, name))] - {own}:
                other = min(names[o] for o in others)
                raise Stuck(f"{names[own]} and {other} are one parameter")


def _check_readers(world: World, tap: str, shape: Shape, spot: Spot) -> None:
    """What reads a tap with the neurons in it must take any number of them."""
    spec = world.spec
    for name, link in spec.links.items():
        if tap in (link.student, link.teacher):
            raise Stuck(f"link {name!r} reads {tap}, and its adapter would not fit any more")
    for name, signal in spec.signals.items():
        if any(ref == tap for _, ref in signal.references()):
            raise Stuck(f"signal {name!r} reads {tap}")
    wider = tuple(s + spot.block * (i == spot.dim) for i, s in enumerate(shape))
    for name, loss in spec.losses.items():
        fields = {key: ref for (key, *_), ref in loss.references() if key in loss.ref_fields()}
        if tap not in fields.values():
            continue
        assert isinstance(loss, Loss)
        shapes = {str(key): wider if ref == tap else shape for key, ref in fields.items()}
        try:
            loss.shapes(**shapes)
            if not loss.parameters(**shapes):
                continue
        except ShapeMismatch:
            pass
        raise Stuck(f"edge {name!r} compares {tap} with what keeps its width")


def _check_fold(flow: Flow) -> None:
    paths = [str(call.target) for call in flow.consumers]
    for path in paths:
        layer = flow.net.get_submodule(path)
        if getattr(layer, "bias", None) is None:
            raise Stuck(f"{path} has no bias that `fold_mean` could change")
        if paths.count(path) > 1:
            raise Stuck(f"{path} is called several times, so `fold_mean` has no one mean")
        if isinstance(layer, _ConvNd):
            padded = layer.padding_mode == "zeros" and layer.padding not in ("valid", (0,), (0, 0))
            if padded or layer.transposed:
                raise Stuck(f"{path} pads with zeros, so no bias can stand for `fold_mean`")
