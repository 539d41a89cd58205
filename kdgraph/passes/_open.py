"""Opens what a frozen model was captured as: ``block(x) -> conv(x), bn, relu``.

Only where something is gained inside: a convolution, a batch norm, a table read by fixed
numbers, a module of the model's own that computes nothing in eval mode.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from kdgraph.capture.ladder import open_module
from kdgraph.capture.observe import RawCapture
from kdgraph.capture.record import Declined, one_line
from kdgraph.capture.twin import fake_like
from kdgraph.capture.world import quiet
from kdgraph.graph.example import example_batch
from kdgraph.passes._fold import LIKE_CONV, LIKE_NORM
from kdgraph.passes._frozen import FrozenModel
from kdgraph.spec.language import Spec

_GAIN = (nn.modules.batchnorm._NormBase, nn.modules.conv._ConvNd)


def open_modules(model: FrozenModel) -> None:
    """Opens every module of the model that pays and can be opened, level by level if need be."""
    waiting = model.nodes()
    while waiting:
        node = waiting.pop(0)
        module = model.module(node)
        if module is None or not opens(module):
            continue
        path = str(node.meta.get("kd_path", ""))
        if any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
            model.keep("it has forward hooks, which must see it as it is", path)
            continue
        try:
            inputs = inputs_of(node, module, model.context.spec)
            raw = _traced_once(model, module, {n: value for n, (_, value) in inputs.items()})
        except Exception as error:  # the model's own code may raise anything while it is traced
            model.keep(f"it cannot be opened: {_reason(error)}", path)
            continue
        given = {name: source for name, (source, _) in inputs.items()}
        waiting = _splice(model, node, raw, given) + waiting
        model.done["# module* opened"] += 1


def opens(module: nn.Module) -> bool:
    """Whether something is gained by looking inside a module."""
    if is_leaf(module):
        return False
    parts = list(module.modules())
    return (
        any(isinstance(m, _GAIN) or _has_table(m) for m in parts)
        # DropPath and the like
        or (len(parts) == 1 and not module._parameters and not module._buffers)
    )


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is to be understood by its type, as torch's own are."""
    kind = type(module)
    own = kind.__module__.startswith(("torch.nn", "torch.ao", "kdgraph."))
    known = kind.__name__ in (*LIKE_CONV, *LIKE_NORM) or hasattr(module, "parametrizations")
    return known or (own and not isinstance(module, nn.Sequential))


def _has_table(module: nn.Module) -> bool:
    """Whether a module's own code reads a parameter at fixed places (relative positions)."""
    fixed = (b is not None and not b.is_floating_point() for b in module._buffers.values())
    return not is_leaf(module) and bool(module._parameters) and any(fixed)


def _traced_once(model: FrozenModel, module: nn.Module, inputs: dict[str, Tensor]) -> RawCapture:
    known = model.context.opened
    like = (
        (name, value.shape, value.dtype, value.device, getattr(value, "fake_mode", None))
        for name, value in inputs.items()
    )
    key = (module, tuple(m.training for m in module.modules()), *like)
    if key not in known:
        known[key] = _traced(module, inputs)
    raw: RawCapture = known[key]
    return raw


def _traced(module: nn.Module, inputs: dict[str, Tensor]) -> RawCapture:
    """The module as a graph; where it cannot be opened right through, one level of it."""
    with quiet(), torch.no_grad():
        try:
            return _pure(open_module(module, inputs, opens))
        except Exception:  # as above: some part of it is not for tracing
            if not any(opens(m) for m in module.modules() if m is not module):
                raise
            return _pure(open_module(module, inputs, lambda m: False))


def _pure(raw: RawCapture) -> RawCapture:
    if any(node.meta.get("kd_mutates") for node in raw.graph.nodes):
        raise Declined("its code changes a tensor in place")
    return raw


def _reason(error: Exception) -> str:
    text = one_line(error)
    return text if isinstance(error, Declined) else f"{type(error).__name__}: {text}"


def inputs_of(node: fx.Node, module: nn.Module, spec: Spec) -> dict[str, tuple[fx.Node, Tensor]]:
    """What a call gives to each argument of forward: the node, and an example of its value.

    Raises:
        Declined: where it is given anything but tensors, or returns anything but one.
    """
    if not isinstance(node.meta.get("val"), Tensor):
        raise Declined("it returns something other than one tensor")
    signature = inspect.signature(module.forward)
    bound = signature.bind(*node.args, **node.kwargs)
    inputs: dict[str, tuple[fx.Node, Tensor]] = {}
    for name, value in bound.arguments.items():
        parameter = signature.parameters[name]
        if value is parameter.default and not isinstance(value, fx.Node):
            continue
        if not isinstance(value, fx.Node) or parameter.kind in _VARIABLE:
            raise Declined("it takes something other than plain tensors")
        inputs[name] = (value, _example(value, node.meta["val"], spec))
    return inputs


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _example(node: fx.Node, near: Tensor, spec: Spec) -> Tensor:
    """A fake tensor like the value of a node, in the fake mode of ``near``."""
    if node.op == "placeholder" and isinstance(near, FakeTensor):
        entry = example_batch(spec)[str(node.target)]
        return fake_like(entry, near.fake_mode).to(near.device)
    value: object = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise Declined("it takes something other than plain tensors")
    return value


def _splice(
    model: FrozenModel, node: fx.Node, raw: RawCapture, given: dict[str, fx.Node]
) -> list[fx.Node]:
    """Puts an opened module in the place of its call; gives the new nodes."""
    values: dict[fx.Node, fx.Node] = {}
    path, target = str(node.meta.get("kd_path", "")), str(node.target)
    for inner in raw.graph.nodes:
        if inner.op == "placeholder":
            values[inner] = given[str(inner.target)]
        elif inner.op == "output":
            model.replace(node, values[inner.args[0]["output"]])
        else:
            with model.graph.graph.inserting_before(node):
                copied = model.graph.graph.node_copy(inner, values.__getitem__)
            if inner.op == "get_attr" and inner.target in raw.extras:
                made = raw.extras[str(inner.target)]
                copied.target = model.constant(path, made)
            elif inner.op in ("call_module", "get_attr"):
                copied.target = f"{target}.{inner.target}"
            below = f"{path}.{inner.meta.get('kd_path', '')}".strip(".")
            copied.meta = {"val": inner.meta["val"]}
            model.tag(copied, node, below).meta["val"] = inner.meta["val"]
            values[inner] = copied
    return [new for inner, new in values.items() if inner.op != "placeholder"]
