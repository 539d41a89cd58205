"""Computes each loss the cheapest way: ``HW x HW correlations -> C x C products``."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import fx

from kdgraph.graph import DistillGraph
from kdgraph.graph.distill_graph import role_of, shape_of
from kdgraph.graph.example import letter_sizes
from kdgraph.losses._module import LossModule
from kdgraph.losses._work import Work
from kdgraph.losses.base import Loss
from kdgraph.passes.base import Context, register_pass
from kdgraph.spec.language import Spec
from kdgraph.spec.shapes import Shape


class _Sizes(NamedTuple):
    """The batch size of the graph, the one to estimate with, and where that comes from."""

    example: int
    batch: int
    origin: str


@register_pass("rewrite_losses", after="batch_teachers")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``maps -> losses.csc`` (HW x HW) becomes ``maps -> rewritten.csc`` (C x C products).

    A loss offers the forms that its shapes allow, each with the operations and memory it takes;
    the one of the least estimated time (``Work.time``) is taken. Shapes are those of the graph,
    with the batch size of the ``data`` block where there is one.
    """
    sizes = _sizes(graph.spec)
    for node in graph.graph.find_nodes(op="call_module"):
        target = str(node.target)
        if role_of(node) != "loss" or not target.startswith("losses."):
            continue
        module = graph.root.get_submodule(target)
        if isinstance(module, LossModule):
            _rewrite(graph, context, node, module, sizes)
    return graph


def _rewrite(
    graph: DistillGraph, context: Context, node: fx.Node, module: LossModule, sizes: _Sizes
) -> None:
    name = str(node.target).removeprefix("losses.")
    shapes = _shapes(module.loss, node.kwargs, sizes)
    forms = module.loss.forms(**shapes)
    if len(forms) < 2:
        if reason := module.loss.why_plain(**shapes):
            context.declined.append(f"{name}: {reason}")
        return
    best = min(forms, key=lambda form: forms[form].time)
    plain, at = _show(forms["plain"]), f"(batch of {sizes.batch}, {sizes.origin})"
    if best == "plain":
        other = min(forms.keys() - {"plain"}, key=lambda form: forms[form].time)
        context.declined.append(
            f"{name}: stays plain, {plain}; {other} would take {_show(forms[other])} {at}"
        )
        return
    node.target = f"rewritten.{name}"
    made = context.module(node.target, lambda: _in_form(module, best))
    graph.root.get_submodule("rewritten").add_module(name, made)
    context.did.append(f"{name}: {best}, {_show(forms[best])} instead of {plain} {at}")


def _in_form(module: LossModule, form: str) -> LossModule:
    """The loss in another form, with the very numbers that the given one learns."""
    made = LossModule(module.loss.in_form(form), {})
    for name, value in module.named_parameters():
        made.register_parameter(name, value)
    return made


def _sizes(spec: Spec) -> _Sizes:
    first = next(iter(spec.batch.values())).shape[0]
    if not isinstance(first, str):
        return _Sizes(first, first, "as in batch")
    example = letter_sizes(spec)[first]
    if spec.data is None:
        return _Sizes(example, example, "an example")
    return _Sizes(example, spec.data.batch_size, "data.batch_size")


def _shapes(loss: Loss, inputs: dict[str, Any], sizes: _Sizes) -> dict[str, Shape]:
    """The shapes of a loss's tensors by field, at the batch size to estimate with."""
    shapes: dict[str, Shape] = {}
    for field in loss.ref_fields():
        node = inputs.get(field)
        shape = shape_of(node) if isinstance(node, fx.Node) else None
        if shape:
            samples, left = divmod(shape[0], sizes.example)
            shapes[field] = (shape[0] if left else samples * sizes.batch, *shape[1:])
    return shapes


def _show(work: Work) -> str:
    """``0.31 GFLOP and 2.1 MB``: the products, and the largest tensor as float32."""
    return f"{work.flops / 1e9:.3g} GFLOP and {work.numbers * 4 / 1e6:.3g} MB"
