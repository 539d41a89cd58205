"""Channels last for convolutional models: ``image -> channels_last(image)``, taps as they were.

What the rewrite does to the layout of every value is told by a run on fake tensors, so that code
which needs another layout (``view``) is found before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from kdgraph.capture.twin import fake_like, twin
from kdgraph.capture.world import untouched_random_state
from kdgraph.graph.conv import channels_last
from kdgraph.graph.example import example_batch
from kdgraph.graph.ops import tap
from kdgraph.passes._frozen import FrozenModel, ModelPart


def convert_input(model: FrozenModel) -> None:
    """Hands the model its images with channels last."""
    for source in model.graph.graph.find_nodes(op="placeholder"):
        readers = [n for n in model.nodes() if source in n.all_input_nodes]
        value = source.meta["kd_shape"]
        if not readers or len(value) != 4:
            continue
        with model.graph.graph.inserting_before(readers[0]):
            new = model.graph.graph.call_function(channels_last, (source,))
        model.tag(new, readers[0], "").meta.pop("val", None)
        for reader in readers:
            reader.replace_input_with(source, new)


def settle(model: FrozenModel) -> None:
    """Works out every value of the rewritten model on fake tensors and restores its taps.

    Raises:
        Exception: whatever the model's code raises in the new layout.
    """
    nodes = model.nodes()
    before = {n: n.meta["val"] for n in nodes if isinstance(n.meta.get("val"), Tensor)}
    mode, values = entries(model)
    with untouched_random_state(), mode, torch.no_grad():
        for node in nodes:
            values[node] = evaluate(model, node, values)
    for node in nodes:
        node.meta["val"] = values[node]
        if node in before and values[node].shape != before[node].shape:
            raise ValueError(f"{node.name} comes out in another shape")
    for node in nodes:
        if node in before and before[node].is_contiguous() and not values[node].is_contiguous():
            _restore(model, node)


def entries(model: ModelPart) -> tuple[FakeTensorMode, dict[fx.Node, Any]]:
    """The batch as fake tensors, where the values of a model are, and the mode of those."""
    found = [v for n in model.nodes() if isinstance(v := n.meta.get("val"), FakeTensor)]
    mode, device = found[0].fake_mode, found[0].device
    example = example_batch(model.context.spec)
    return mode, {
        source: fake_like(example[str(source.target)], mode).to(device)
        for source in model.graph.graph.find_nodes(op="placeholder")
    }


def evaluate(model: ModelPart, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """The value of a node of a model on fake tensors, from those of what it reads."""
    if (tensor := model.tensor(node)) is not None:
        return _blank(tensor)
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    module: nn.Module | None = model.module(node)
    if module is not None:
        return twin(module, _blank)(*_plain(args), **_plain(kwargs))
    target: Any = node.target
    if node.op == "call_method":
        return getattr(args[0], target)(*_plain(args[1:]), **_plain(kwargs))
    return target(*_plain(args), **_plain(kwargs))


def _blank(value: Tensor) -> Tensor:
    """A fake tensor like a parameter; must be made inside the fake mode."""
    device = torch.device("cpu") if value.is_meta else value.device
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=device)


def _plain(value: Any) -> Any:
    """Arguments in plain containers: fx keeps its own immutable."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(map(_plain, value)) if type(value) is tuple else [*map(_plain, value)]
    return value


def _restore(model: FrozenModel, node: fx.Node) -> None:
    """Gives readers outside the model, and its taps, the value in the layout it had."""
    readers = [u for u in node.users if u.target is tap or not model.owns(u)]
    if not readers or node.target is tap:
        return
    with model.graph.graph.inserting_after(node):
        new = model.graph.graph.call_method("contiguous", (node,))
    model.tag(new, node).meta["val"] = node.meta["val"].contiguous()
    for reader in readers:
        reader.replace_input_with(node, new)
