"""Frozen copies of trained models: brought up to date, also where the model was rebuilt."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kdgraph.actions._world import World


def same_tensors(source: nn.Module, snapshot: nn.Module) -> bool:
    """Whether both have parameters and buffers of equal names and shapes."""
    own, other = _tensors(source), _tensors(snapshot)
    return {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}


@torch.no_grad()
def copy_values(source: nn.Module, snapshot: nn.Module) -> None:
    """Copies the values of parameters and buffers, which must have ``same_tensors``.

    Where one of them is in shards, all ranks call this.
    """
    for module in snapshot.modules():
        if callable(reshard := getattr(module, "reshard", None)):  # of FSDP2
            reshard()  # what it has gathered is a copy, soon to be thrown away
    found = _tensors(source)
    for name, value in _tensors(snapshot).items():
        value.copy_(_placed(_whole(found[name]), value))


def follow(world: World) -> list[str]:
    """Rebuilds snapshots of models that an action has rebuilt: they become copies of them as is.

    Names and shapes may be equal where an action has changed what is computed: bits of weights, or
    whether a graft runs. Frozen and unfrozen parts are no reason.

    A snapshot stays the object that it is. To be called after an action that rebuilds, before the
    graph is compiled again.

    Returns:
        A line for each.
    """
    told = []
    for name, model in world.spec.models.items():
        if model.snapshot_of is None or name not in world.nets:
            continue
        source, snapshot = world.nets[model.snapshot_of], world.nets[name]
        if same_tensors(source, snapshot) and _forms(source) == _forms(snapshot):
            continue
        fresh = copy.deepcopy(source).eval().requires_grad_(False)
        snapshot.__class__ = type(fresh)
        vars(snapshot).clear()
        vars(snapshot).update(vars(fresh))
        told.append(f"{name}: taken anew of {model.snapshot_of}, which was rebuilt")
    return told


def _forms(module: nn.Module) -> dict[str, str]:
    """What actions have put in, by path: settings that are no tensors."""
    parts = module.named_modules()
    # frozen layers are not among them: their classes pass for the plain ones
    own = {n: m for n, m in parts if type(m).__module__.startswith("kdgraph.actions.")}
    return {name: f"{type(part).__name__}({part.extra_repr()})" for name, part in own.items()}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _placed(whole: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has, spread over them as another is."""
    if not hasattr(like, "full_tensor"):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _whole(value: Tensor) -> Tensor:
    """A tensor that is spread over ranks, put together."""
    whole: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole
