"""Making grafts: shapes where they go, adapters, copies of segments."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from kdgraph.actions._grafting import Graft
from kdgraph.adapters.base import Adapter
from kdgraph.capture import resolve_taps
from kdgraph.capture.reference import find_reference
from kdgraph.errors import CaptureError
from kdgraph.graph.example import example_batch
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, show

if TYPE_CHECKING:
    from kdgraph.actions._world import Found, World
    from kdgraph.actions.graft import Graft as Action


def example(world: World, model: str) -> dict[str, Tensor]:
    """Examples for the arguments of a network's forward."""
    net, written = world.nets[model], world.spec.inputs(model)
    if isinstance(written, str):
        first = next(iter(inspect.signature(net.forward).parameters), "input")
        written = {first: written}
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    batch = example_batch(world.spec, device)
    return {name: batch[entry] for name, entry in written.items()}


def make(action: Action, world: World, place: Found, scion: Found, seed: int) -> Graft:
    """The graft for a place: the one that was there before, or a new one.

    Raises:
        ActionError: when shapes do not fit, or a segment reads or gives other than one tensor.
    """
    if isinstance(place.module, Graft):
        place.module.put_on()
        return place.module
    came, went = _around(world, place)
    wanted = tuple(_around(world, scion)[0].shape)
    segment = copy.deepcopy(scion.module).to(came.device, came.dtype)
    # the scion's channels, at the positions that there are here
    target = list(came.shape if came.dim() == len(wanted) else wanted)
    target[class_dim(wanted)] = wanted[class_dim(wanted)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            before = _adapter(action.before, came, tuple(target), bias=action.bias)
            given = _result(nn.Sequential(before, segment), came)
            after = _adapter(action.after, given, tuple(went.shape), bias=action.bias)
            left = tuple(_result(after, given).shape)
        except (ShapeMismatch, CaptureError) as why:
            reason = str(why).partition("\n")[0]
            world.wrong(f"{scion.name!r} does not fit {place.name!r}: {reason}")
    if left != tuple(went.shape):
        message = f"{scion.name!r} between its adapters gives {show(left)}, "
        world.wrong(f"{message}where {place.name!r} gives {show(tuple(went.shape))}")
    graft = Graft(place.module, segment.requires_grad_(True), before, after, scion.name)
    return graft.train(world.nets[place.model].training)


def put_in(net: nn.Module, module: nn.Module, graft: Graft) -> None:
    """Puts a graft wherever a network has the module."""
    for parent in list(net.modules()):
        for name, child in parent._modules.items():
            if child is module and child is not graft and parent is not graft:
                parent._modules[name] = graft


def _around(world: World, found: Found) -> tuple[Tensor, Tensor]:
    """What a module reads and gives, as fake tensors."""
    net = world.nets[found.model]
    taps = resolve_taps(net, {"came": f"{found.path}:in", "went": f"{found.path}:out"})
    try:
        values = find_reference(net, example(world, found.model), taps).values
    except CaptureError as error:
        said = error.diagnostics[0].message
        world.wrong(f"{found.name!r} is no segment that reads one tensor and gives one: {said}")
    return values["came"], values["went"]


def _adapter(entry: object, student: Tensor, teacher: Shape, *, bias: bool) -> nn.Module:
    """An adapter with its start values.

    Raises:
        ShapeMismatch: when it cannot be.
    """
    shape = tuple(student.shape)
    adapter = cast(Adapter, entry).resolve(shape, teacher)
    adapter.shape(shape, teacher)
    module = adapter.build(shape, teacher)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if not bias:
                layer.register_parameter("bias", None)
    return module.to(student.device, student.dtype)


def _result(module: nn.Module, given: Tensor) -> Tensor:
    """What a module makes of a tensor, as a fake one.

    Raises:
        CaptureError: when it does not run on it.
    """
    argument = next(iter(inspect.signature(module.forward).parameters), "input")
    like = torch.zeros(tuple(given.shape), dtype=given.dtype, device=given.device)
    taps = resolve_taps(module, {"left": "output"})
    return find_reference(module, {argument: like}, taps).values["left"]
