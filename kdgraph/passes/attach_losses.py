"""Adds the loss edges and the weighted total: ``named values -> loss``."""

from __future__ import annotations

import operator
from typing import Any, cast

from torch import fx

from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.ops import stop_gradient, total
from kdgraph.losses.base import Loss, RowLoss
from kdgraph.passes._wiring import Wiring
from kdgraph.passes.base import Context, tagged
from kdgraph.spec.calls import plain, spread
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, show

Term = tuple[fx.Node, fx.Node | float]


def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``links, taps`` -> ``soft = losses.soft(student=..., teacher=...); loss = total(...)``.

    Returns ``{loss, losses: {edge: unweighted}, outputs: {reference: value}}``, where the
    outputs are the taps that something reads and every output tap of a trained model, without
    the logits of an edge with a fused head.
    """
    wiring = Wiring(graph, context)
    edges: dict[str, fx.Node] = {}
    terms: list[Term] = []
    with graph.graph.inserting_before(graph.output):
        for name, loss in context.spec.losses.items():
            added = _edge(wiring, name, spread(context.spec, cast(Loss, loss)))
            if added is not None:
                edges[name], term = added
                terms.append(term)
        if not edges and not context.diagnostics:
            what = f"stage {context.spec.leg!r} has no loss edge that trains something"
            context.wrong("KD216", what, context.spec.span("stages"))
        if context.diagnostics:
            return graph
        node = graph.graph.call_function(total, ([v for v, _ in terms], [w for _, w in terms]))
    tagged(node, "total", "total", context.spec.span("losses"), ())
    graph.output.args = ({"loss": node, "losses": edges, "outputs": _outputs(wiring)},)
    context.did.append(f"{len(edges)} edges into one total")
    return graph


def _edge(wiring: Wiring, name: str, loss: Loss) -> tuple[fx.Node, Term] | None:
    """The node of an edge's unweighted value, and its term of the total."""
    inputs = wiring.inputs(loss, "losses", name)
    if inputs is None:
        return None
    key, span = f"losses.{name}", wiring.spec.span("losses", name)
    weight = inputs.pop("weight")
    shapes = wiring.shapes(loss, inputs, "losses", name)
    if shapes is None or wiring.result(loss, shapes, "losses", name) is None:
        return None
    if not wiring.steered(loss, inputs, shapes, "losses", name):
        return None
    if not _fits_labels(wiring, name, loss, shapes) or not _counts(wiring, name, loss):
        return None
    if not _trains(wiring, name, loss, inputs):
        return None
    if "teacher" in inputs and _learns(inputs["teacher"]):
        inputs["teacher"] = _detached(wiring, inputs["teacher"], name)
    if not _fits_rows(wiring, name, loss, weight, shapes):
        return None
    if not isinstance(weight, fx.Node) or shape_of(weight) == ():
        node = wiring.call(key, loss, inputs, shapes, ())
        return node, (node, weight)
    pair = wiring.call(key, loss, {**inputs, "row_weight": weight}, shapes, None)
    item = wiring.graph.graph.call_function
    plain, weighted = (
        tagged(item(operator.getitem, (pair, i)), "loss", key, span, ()) for i in (0, 1)
    )
    return plain, (weighted, 1.0)


def _fits_rows(
    wiring: Wiring, name: str, loss: Loss, weight: fx.Node | float, shapes: dict[str, Shape]
) -> bool:
    """Whether a weight is one number, one per sample or one per row of the loss."""
    if not isinstance(weight, fx.Node) or (shape := shape_of(weight)) == ():
        return True
    if shape is None:
        wiring.no_tensor(f"{name!r} reads {loss.weight!r}", "losses", name, "weight")
        return False
    span = wiring.spec.span("losses", name, "weight")
    if not isinstance(loss, RowLoss):
        wiring.context.wrong(
            "KD303",
            f"edge {name!r}: {loss.use} has one value for the whole batch, so its weight cannot "
            f"be a signal of {show(shape)}",
            span,
            help="give a number, a schedule, or a signal that is one number",
        )
        return False
    try:
        loss.shapes(**{**shapes, "mask": shape})  # the same rule as for masks
    except ShapeMismatch:
        message = f"edge {name!r}: weight {loss.weight!r} {show(shape)} is neither one number, "
        message += f"nor one per sample, nor one per row of {loss.use}"
        wiring.context.wrong("KD303", message, span)
        return False
    return True


def _fits_labels(wiring: Wiring, name: str, loss: Loss, shapes: dict[str, Shape]) -> bool:
    """Whether class numbers in the batch are integers that the logits have a class for."""
    entry = wiring.spec.batch.get(getattr(loss, "target", None) or "")
    if entry is None or shapes.get("target") == shapes.get("student"):
        return True
    span = wiring.spec.span("losses", name, "target")
    if entry.dtype.startswith(("float", "bfloat")):
        target = loss.target  # type: ignore[attr-defined]
        message = f"edge {name!r}: the class numbers in {target!r} are {entry.dtype}"
        wiring.context.wrong("KD304", message, span, help="give the entry `dtype: int64`")
        return False
    classes = shapes["student"][class_dim(shapes["student"])]
    if entry.classes is not None and entry.classes > classes and not loss.of_features:
        message = f"edge {name!r}: {entry.classes} classes of labels, but logits of {classes}"
        wiring.context.wrong("KD304", message, span)
        return False
    return True


def _counts(wiring: Wiring, name: str, loss: Loss) -> bool:
    """Whether batch entries that hold lengths, say, are integers."""
    for field in loss.integers:
        ref = getattr(loss, field)
        entry = wiring.spec.batch.get(ref)
        if entry is not None and entry.dtype.startswith(("float", "bfloat")):
            message = f"edge {name!r}: {field!r} takes integers, and {ref!r} is {entry.dtype}"
            span = wiring.spec.span("losses", name, field)
            wiring.context.wrong("KD304", message, span, help="give the entry `dtype: int64`")
            return False
    return True


def _trains(wiring: Wiring, name: str, loss: Loss, inputs: dict[str, Any]) -> bool:
    """Whether something that the edge reads is trained; the teacher side does not count."""
    read = [n for field, n in inputs.items() if isinstance(n, fx.Node) and field != "teacher"]
    if any(_learns(node) for node in read):
        return True
    if any(_rests(wiring, node) for node in read):
        wiring.context.did.append(f"{name}: idle, what it trains is frozen in this stage")
        return False
    student = getattr(loss, "student", None)
    wiring.context.wrong(
        "KD305",
        f"edge {name!r} trains nothing: {student!r} comes from frozen models only",
        wiring.spec.span("losses", name),
        help="are student and teacher swapped?" if "teacher" in inputs else None,
    )
    return False


def _learns(node: fx.Node) -> bool:
    """Whether a value depends on something that is trained."""
    return any(role_of(n) in ("student", "adapter") for n in _behind(node))


def _behind(node: fx.Node) -> set[fx.Node]:
    """A node and all that it depends on."""
    waiting, seen = [node], set()
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += current.all_input_nodes
    return seen


def _rests(wiring: Wiring, node: fx.Node) -> bool:
    """Whether a value depends on a model that another stage trains."""
    owners = {owner_of(n) for n in _behind(node)} & wiring.spec.models.keys()
    return wiring.spec.leg is not None and any(map(wiring.spec.is_learning, owners))


def _detached(wiring: Wiring, node: fx.Node, loss: str) -> fx.Node:
    """The teacher side without its gradient: who teaches is not taught by the same edge."""
    wiring.context.did.append(f"{loss}: no gradient into its teacher side, which is trained too")
    stopped = wiring.graph.graph.call_function(stop_gradient, (node,))
    return tagged(stopped, "loss", f"losses.{loss}", node.meta["kd_span"], shape_of(node))


def _outputs(wiring: Wiring) -> dict[str, fx.Node]:
    spec = wiring.spec
    read = {ref for e in spec.losses.values() for _, ref in e.references()}
    read |= {ref for e in spec.signals.values() for _, ref in e.references()}
    read |= {ref for x in spec.links.values() for ref in (x.student, x.teacher)}
    for model, description in spec.models.items():
        if spec.is_trainable(model):
            outputs = (t for t, path in description.taps.items() if path.startswith("output"))
            read |= {f"{model}.{t}" for t in outputs}
    for loss in spec.losses.values():
        if getattr(loss, "fused_head", False):  # its logits are not to exist
            source = spec.links[loss.link] if loss.link else loss
            read -= {getattr(source, side, None) for side in ("student", "teacher")}
    taps = {f"{m}.{t}" for m, description in spec.models.items() for t in description.taps}
    return {name: node for name, node in wiring.named.items() if plain(name) in read & taps}
