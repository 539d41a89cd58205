"""Channels last for what is trained: ``conv(image) -> conv(channels_last(image))``, on a CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdgraph.capture.record import Declined, one_line, tensors_in
from kdgraph.capture.world import quiet, untouched_random_state
from kdgraph.graph import DistillGraph
from kdgraph.graph.conv import trained_channels_last, trained_contiguous
from kdgraph.graph.ops import tap
from kdgraph.passes._frozen import ModelPart
from kdgraph.passes._layout import entries, evaluate
from kdgraph.passes.base import Context, register_pass

# A number of a weight costs as much as this many numbers of maps: with channels last the weights
# are reordered at every step, without it the maps are. Between 0 and 1 measured alike.
_WEIGHT = 0.5


@register_pass("layout", after="precision", default=False)
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``conv(x) ... conv(y)`` of a trained model -> ``conv(last(x)) ... conv(contiguous(y))``.

    In eager float32 on a CPU a trained convolutional model runs with channels last from its
    input on, up to where its weights outweigh its maps. Its parameters stay as they are, which
    is why: each is reordered on its way into a convolution, where otherwise the maps are. Taps
    and gradients keep their layout. Elsewhere, and under a compiler, nothing is converted.

    Off unless asked for: sums come in another order, and what a deep network makes of such
    rounding (an activation near 0 on the other side of it) can be more than 1e-5 of a gradient.
    """
    for name in context.spec.models:
        if context.spec.is_trainable(name):
            graph = _lay_out(ModelPart(graph, context, name))
    return graph


def _lay_out(model: ModelPart) -> DistillGraph:
    nodes = model.nodes()
    if any(n.target is trained_channels_last for n in nodes):
        return model.graph  # done before
    if not any(isinstance(n.meta.get("val"), FakeTensor) for n in nodes):
        return model.graph  # nothing of it is left, or nothing is known of it
    plain = model.graph
    try:
        seen = _watched(model)
        if sum(n.convolutions for n in seen) < 2:
            return plain  # layouts are no matter of transformers
        _refuse(model)
        cut = _cut(seen)
        model.graph = plain.copy()
        _convert(model, seen, cut)
    except Exception as error:  # whatever the model's own code raises in another layout
        reason = one_line(error)
        if not isinstance(error, Declined):
            reason = f"it does not run with channels last: {reason}"
        model.context.declined.append(f"{model.name}: keeps its layout: {reason}")
        return plain
    _tell(model, nodes, seen, cut)
    return model.graph


class _Seen(NamedTuple):
    """A node as it is.

    Attributes:
        gain: what channels last would gain, in numbers of maps.
        convolutions: how many it runs.
        drawn: the layouts for which it draws random numbers.
    """

    gain: float
    convolutions: int
    drawn: list[tuple[int, ...]]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped there
    """Weighs convolutions, and notes in which order random numbers are drawn."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self.gain, self.convolutions = 0.0, 0
        self.drawn: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.drawn += [t.stride() for t in tensors_in(args)]
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and result.dim() == 4:
            self.convolutions += 1
            if result.shape[2:].numel() > 1:  # else both layouts are one
                maps = args[0].numel() + result.numel()
                self.gain += maps - _WEIGHT * args[1].numel()
        return result


def _watched(model: ModelPart) -> list[_Seen]:
    """Each node of a model as it is, run on fake tensors."""
    mode, values = entries(model)
    found = []
    with quiet(), untouched_random_state(), mode, torch.no_grad():
        for node in model.nodes():
            with _Watch() as watch:
                values[node] = evaluate(model, node, values)
            found.append(_Seen(watch.gain, watch.convolutions, watch.drawn))
    return found


def _refuse(model: ModelPart) -> None:
    """Raises what speaks against another layout before any is tried."""
    for node in model.nodes():
        if str(node.target).endswith(".kd_ports"):
            raise Declined("captured through ports, it runs as its own code")
        if node.meta.get("kd_mutates") and not node.meta.get("kd_state"):
            raise Declined("its code writes to a value in place")
        for weight in _weights(model, node):
            if not weight.is_contiguous():
                raise Declined("its owner has chosen a layout for its weights")


def _weights(model: ModelPart, node: fx.Node) -> list[Tensor]:
    """The weights of convolutions that a node reads."""
    module = model.module(node)
    found = [model.tensor(node)] if module is None else list(module.parameters())
    return [t for t in found if isinstance(t, nn.Parameter) and t.dim() == 4]


def _cut(seen: list[_Seen]) -> int:
    """How many of the nodes are to run with channels last."""
    gain, best, cut = 0.0, 0.0, 0
    for i, node in enumerate(seen):
        gain += node.gain
        if gain > best:
            best, cut = gain, i + 1
    if sum(n.convolutions for n in seen[:cut]) < 2:
        raise Declined("its weights, reordered at every step, would outweigh its maps")
    return cut


def _convert(model: ModelPart, seen: list[_Seen], cut: int) -> None:
    """Puts the conversions in, and works out every value again.

    Raises:
        Exception: whatever the model's code raises in the new layout.
    """
    nodes = model.nodes()
    drawn = {n: s.drawn for n, s in zip(nodes, seen, strict=True)}
    last = {*nodes[:cut]}
    _convert_images(model, nodes[:cut])
    mode, values = entries(model)
    with quiet(), untouched_random_state(), mode, torch.no_grad():
        for node in model.nodes():
            before = node.meta.get("val")
            with _Watch() as watch:
                values[node] = node.meta["val"] = evaluate(model, node, values)
            if watch.drawn != drawn.get(node, []):
                raise Declined("it draws random numbers for a map, in an order that would change")
            if isinstance(before, Tensor) and (new := _settle(model, node, before, last)):
                values[new] = new.meta["val"]


def _settle(model: ModelPart, node: fx.Node, before: Tensor, last: set[fx.Node]) -> fx.Node | None:
    """Restores the layout that a value had ``before`` for all who read it outside of ``last``."""
    value = node.meta["val"]
    if value.shape != before.shape:
        raise ValueError(f"{node.name} comes out in another shape")
    readers = [u for u in node.users if u not in last or u.target is tap]
    same = value.is_contiguous() or not before.is_contiguous()
    return None if same or node.target is tap or not readers else _restore(model, node, readers)


def _convert_images(model: ModelPart, nodes: list[fx.Node]) -> None:
    for source in model.graph.graph.find_nodes(op="placeholder"):
        readers = [n for n in nodes if source in n.all_input_nodes and n.target is not tap]
        if not readers or len(source.meta["kd_shape"]) != 4:
            continue
        with model.graph.graph.inserting_before(readers[0]):
            new = model.graph.graph.call_function(trained_channels_last, (source,))
        model.tag(new, readers[0], "").meta.pop("val", None)
        for reader in readers:
            reader.replace_input_with(source, new)


def _restore(model: ModelPart, node: fx.Node, readers: list[fx.Node]) -> fx.Node:
    """Gives some readers a value in the layout it had."""
    with model.graph.graph.inserting_after(node):
        new = model.graph.graph.call_function(trained_contiguous, (node,))
    model.tag(new, node).meta["val"] = node.meta["val"].contiguous()
    for reader in readers:
        reader.replace_input_with(node, new)
    return new


def _tell(model: ModelPart, nodes: list[fx.Node], seen: list[_Seen], cut: int) -> None:
    """Says how far the model runs with channels last."""
    first = sum(n.convolutions for n in seen[:cut])
    count = sum(n.convolutions for n in seen)
    rest = next((n for n, s in zip(nodes[cut:], seen[cut:], strict=True) if s.convolutions), None)
    line = f"{model.name}: channels last on a CPU, {first} of {count} convolutions"
    if rest is not None:
        place = rest.meta.get("kd_path") or rest.name
        line += f": up to {place}, where weights outweigh maps"
    model.context.did.append(line)
