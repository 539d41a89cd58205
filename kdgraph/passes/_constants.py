"""What a frozen model computes without the batch: ``table[index] -> a buffer``."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from kdgraph.passes._effects import DRAWS, effect
from kdgraph.passes._frozen import FrozenModel

# Bytes: a constant above this may be at most so many times what it is made of.
_LARGE, _TIMES = 4 * 2**20, 8
_VIEWS = frozenset(
    (
        *("detach", "expand", "expand_as", "flatten", "getitem", "movedim", "narrow", "permute"),
        *("reshape", "select", "slice", "squeeze", "swapaxes", "t", "transpose", "unflatten"),
        *("unsqueeze", "view", "view_as", "alias", "contiguous", "getattr", "device"),
    )
)


def fold_constants(model: FrozenModel) -> None:
    """Computes once what depends on no batch entry, unless the result is far larger."""
    found = _Found(model)
    for node in [n for n in model.nodes() if n in found.sources]:
        readers = [u for u in node.users if u not in found.sources]
        if node.op == "get_attr" or not readers or _only_views(node):
            continue
        value, path = node.meta["val"], str(node.meta.get("kd_path", ""))
        if not isinstance(value, Tensor):
            continue
        sources = {
            id(t): t for t in (model.tensor(n) for n in found.sources[node]) if t is not None
        }
        if _bytes(value) > max(_LARGE, _TIMES * sum(_bytes(t) for t in sources.values())):
            model.keep("it could be computed once, but is far larger than what it is made of", path)
            continue
        try:
            result = _shape_only(value) if model.context.skeleton else found.value(node)
        except Exception as error:  # whatever the model's own modules raise
            model.keep(f"it cannot be computed in advance ({type(error).__name__})", path)
            continue
        _replace(model, node, result, readers, found.sources[node])
    model.drop_unread()


def _replace(
    model: FrozenModel, node: fx.Node, value: Tensor, readers: list[fx.Node], made_of: set[fx.Node]
) -> None:
    path = str(node.meta.get("kd_path", ""))
    target = model.constant(f"{path}.{node.name}".lstrip("."), value)
    with model.graph.graph.inserting_before(node):
        new = model.tag(model.graph.graph.get_attr(target), node)
    for reader in readers:
        reader.replace_input_with(node, new)
    for source in made_of:
        for name, tensor in _tensors(model, source):
            model.reads(name, tensor)
    model.done["# constant* computed once instead of at every step"] += 1


def _tensors(model: FrozenModel, node: fx.Node) -> list[tuple[str, Tensor]]:
    if (tensor := model.tensor(node)) is not None:
        return [(str(node.target), tensor)]
    if (module := model.module(node)) is None:
        return []
    named = [*module.named_parameters(), *module.named_buffers()]
    return [(f"{node.target}.{name}", tensor) for name, tensor in named]


class _Found:
    """The nodes of a model that depend on no batch entry.

    Attributes:
        sources: each of them, with the tensors and modules that it is made of.
    """

    def __init__(self, model: FrozenModel) -> None:
        self._model = model
        self._values: dict[fx.Node, Any] = {}
        self.sources: dict[fx.Node, set[fx.Node]] = {}
        for node in model.nodes():
            inputs = node.all_input_nodes
            if _is_device(node):
                self.sources[node] = set()
            elif node.op == "get_attr":
                if model.tensor(node) is not None:
                    self.sources[node] = {node}
            elif all(n in self.sources for n in inputs) and _is_pure(model, node):
                of = set().union(*(self.sources[n] for n in inputs))
                self.sources[node] = of | {node} if node.op == "call_module" else of

    @torch.no_grad()
    def value(self, node: fx.Node) -> Any:
        """What a node computes."""
        if node not in self._values:
            self._values[node] = self._compute(node)
        return self._values[node]

    def _compute(self, node: fx.Node) -> Any:
        if _is_device(node):
            return node.meta["val"]
        if node.op == "get_attr":
            return self._model.tensor(node)
        args = fx.map_arg(node.args, self.value)
        kwargs = fx.map_arg(node.kwargs, self.value)
        if (module := self._model.module(node)) is not None:
            return module(*args, **kwargs)
        target: Any = node.target
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)


def _is_device(node: fx.Node) -> bool:
    """``x.device``: what is computed for it moves along with the model."""
    return node.target is getattr and str(node.args[1]) == "device"


def _is_pure(model: FrozenModel, node: fx.Node) -> bool:
    """Whether a node always gives the same for the same."""
    if node.meta.get("kd_mutates") or getattr(node.target, "__name__", "") == "tap":
        return False
    if (module := model.module(node)) is not None:
        return not any(m.training for m in module.modules())
    if isinstance(node.target, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded not in node.target.tags
    return node.target is not operator.setitem and effect(node, model.graph) != DRAWS


def _only_views(node: fx.Node) -> bool:
    """Whether a value is a tensor of the model looked at in another shape: it costs nothing."""
    if node.op == "get_attr":
        return True
    name = str(getattr(node.target, "__name__", node.target)).split(".")[0]
    indexed = name == "getitem" and not isinstance(node.args[1], (int, slice, tuple))
    return name in _VIEWS and not indexed and all(_only_views(n) for n in node.all_input_nodes)


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _shape_only(value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=value.dtype, device="meta")
