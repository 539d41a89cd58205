"""Computes each loss the cheapest way: ``HW x HW correlations -> C x C products``."""

from __future__ import annotations

from torch import fx

from kdgraph.graph import DistillGraph, role_of
from kdgraph.losses._module import LossModule
from kdgraph.losses._work import Work
from kdgraph.passes._sizes import Sizes, shapes_at, sizes
from kdgraph.passes.base import Context, register_pass


@register_pass("rewrite_losses", after="batch_teachers")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``maps -> losses.csc`` (HW x HW) becomes ``maps -> rewritten.csc`` (C x C products).

    A loss offers the forms that its shapes allow, each with the operations and memory it takes;
    the one of the least estimated time (``Work.time``) is taken. Shapes are those of the graph,
    with the batch size of the ``data`` block where there is one.
    """
    at = sizes(graph.spec)
    for node in graph.graph.find_nodes(op="call_module"):
        target = str(node.target)
        if role_of(node) != "loss" or not target.startswith("losses."):
            continue
        module = graph.root.get_submodule(target)
        if isinstance(module, LossModule):
            _rewrite(graph, context, node, module, at)
    return graph


def _rewrite(
    graph: DistillGraph, context: Context, node: fx.Node, module: LossModule, at: Sizes
) -> None:
    name = str(node.target).removeprefix("losses.")
    shapes = shapes_at(module.loss, node.kwargs, at)
    forms = module.loss.forms(**shapes)
    if len(forms) < 2:
        if reason := module.loss.why_plain(**shapes):
            context.declined.append(f"{name}: {reason}")
        return
    best = min(forms, key=lambda form: forms[form].time)
    plain, where = _show(forms["plain"]), f"(batch of {at.batch}, {at.origin})"
    if best == "plain":
        other = min(forms.keys() - {"plain"}, key=lambda form: forms[form].time)
        context.declined.append(
            f"{name}: stays plain, {plain}; {other} would take {_show(forms[other])} {where}"
        )
        return
    node.target = f"rewritten.{name}"
    made = context.module(node.target, lambda: _in_form(module, best))
    graph.root.get_submodule("rewritten").add_module(name, made)
    context.did.append(f"{name}: {best}, {_show(forms[best])} instead of {plain} {where}")


def _in_form(module: LossModule, form: str) -> LossModule:
    """The loss in another form, with the very numbers that the given one learns."""
    made = LossModule(module.loss.in_form(form), {})
    for name, value in module.named_parameters():
        made.register_parameter(name, value)
    return made


def _show(work: Work) -> str:
    """``0.31 GFLOP and 2.1 MB``: the products, and the largest tensor as float32."""
    return f"{work.flops / 1e9:.3g} GFLOP and {work.numbers * 4 / 1e6:.3g} MB"
