"""Finds, on fake tensors, what type every value of a frozen model has after its weights changed.

Where one operation would be given floating tensors of several types, which only pointwise ones
take, the others are noted to be cast. So code that names a type itself (a norm computed in
float32, a table made in float32) works as it does when a model is cast as a whole.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.immutable_collections import immutable_dict
from torch.nn import functional

from kdgraph.capture.record import tensors_in
from kdgraph.capture.twin import fake_like, fake_twin
from kdgraph.capture.world import quiet, untouched_random_state
from kdgraph.graph import DistillGraph, shape_of
from kdgraph.passes._copies import Held, Whole, tensors_of
from kdgraph.passes._int8 import is_quantised

# functions and methods that bring their floating tensors to one type themselves
_PROMOTING = {
    *("add", "iadd", "radd", "sub", "isub", "rsub", "mul", "imul", "rmul", "truediv", "itruediv"),
    *("rtruediv", "div", "pow", "where", "maximum", "minimum", "addcmul", "addcdiv", "lerp"),
    *("eq", "ne", "lt", "le", "gt", "ge", "getitem", "type_as", "to"),
}


class Retyped:
    """Runs of some nodes on fake tensors, in order.

    Single operations, which autocast may change the type of, run under it too: a norm over what
    a linear layer made needs a cast then, and only then does it do anything.

    Args:
        graph: what holds the nodes.
        nodes: those that run.
        new: what takes the place of the weights that some of them read.
        dtype: the type of floating values that come from outside, and of casts in between;
            None leaves both alone.

    Attributes:
        values: the fake value of every node that ran.
        casts: by node, the inputs that it has to be given in ``dtype``.

    Raises:
        Exception: whatever the model's own code raises on values of these types.
    """

    def __init__(
        self,
        graph: DistillGraph,
        nodes: Collection[fx.Node],
        new: Mapping[fx.Node, Whole | Held],
        dtype: torch.dtype | None,
    ) -> None:
        self._graph, self._new, self._dtype = graph, new, dtype
        self._device = next(t.device for m in new.values() for t in tensors_of(m))
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.values: dict[fx.Node, Any] = {}
        self.casts: dict[fx.Node, list[fx.Node]] = {}
        single = any(isinstance(m, Held) for m in new.values())
        with quiet(), untouched_random_state(), torch.no_grad(), self._mode:
            for other in (torch.bfloat16, torch.float16) if single and dtype is not None else ():
                with torch.autocast(self._device.type, dtype=other):
                    self._run_all(nodes)
            with torch.autocast(self._device.type, enabled=False):
                self._run_all(nodes)

    def _run_all(self, nodes: Collection[fx.Node]) -> None:
        own = set(nodes)
        for source in dict.fromkeys(s for n in nodes for s in n.all_input_nodes):
            if source not in own:
                self.values[source] = self._entry(source)
        for node in nodes:
            self.values[node] = self._run(node)

    def _entry(self, node: fx.Node) -> Any:
        """The value of a node outside; a floating tensor is brought to ``dtype``."""
        value = node.meta.get("val")
        if node.op == "placeholder":
            entry = self._graph.spec.batch[str(node.target)]
            value = torch.empty(shape_of(node) or (), dtype=getattr(torch, entry.dtype))
        if not isinstance(value, Tensor):
            return value
        dtype = self._dtype if self._dtype and value.is_floating_point() else value.dtype
        return torch.empty_strided(value.shape, value.stride(), dtype=dtype, device=self._device)

    def _run(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            held = self._new.get(node)
            root = self._graph.root
            value = (
                held.value
                if isinstance(held, Held)
                else operator.attrgetter(str(node.target))(root)
            )
            return fake_like(value, self._mode) if isinstance(value, Tensor) else value
        if node.op != "call_module" and self._dtype is not None and not _promotes(node):
            self._align(node)
        cast = self.casts.get(node, [])
        args, kwargs = _plain(
            fx.map_arg(
                (node.args, node.kwargs),
                lambda n: self.values[n].to(self._dtype) if n in cast else self.values[n],
            )
        )
        target: Any = node.target
        if node.op == "call_module":
            module = self._new.get(node) or self._graph.root.get_submodule(target)
            return fake_twin(module, self._mode)(*args, **kwargs)
        if target is torch.ops.aten.linear.default and is_quantised(args[1]):
            target = functional.linear
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)

    def _align(self, node: fx.Node) -> None:
        """Notes which inputs of a node to cast so that it gets one floating type."""
        floating = {
            n: {t.dtype for t in tensors_in(self.values[n]) if t.is_floating_point()}
            for n in node.all_input_nodes
        }
        if len(set().union(*floating.values())) > 1:
            others = [n for n, types in floating.items() if types and types != {self._dtype}]
            known = self.casts.setdefault(node, [])
            known += [n for n in others if is_floating(self.values[n]) and n not in known]


def _promotes(node: fx.Node) -> bool:
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return torch.Tag.pointwise in target.tags
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    return name.strip("_") in _PROMOTING


def _plain(value: Any) -> Any:
    """Arguments in plain containers, as fx keeps its own immutable ones.

    What transformers gives is a dictionary of its own, and stays what it is.
    """
    if type(value) is dict or isinstance(value, immutable_dict):
        return {k: _plain(v) for k, v in value.items()}
    if type(value) is tuple:
        return tuple(map(_plain, value))
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def is_floating(value: object) -> bool:
    """Whether a value is a tensor of a floating type."""
    return isinstance(value, Tensor) and value.is_floating_point()
