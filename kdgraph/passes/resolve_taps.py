"""Names every tap: ``models' outputs -> tap markers``."""

from __future__ import annotations

from torch import fx

from kdgraph.graph import DistillGraph, owner_of, role_of, shape_of
from kdgraph.graph.ops import tap
from kdgraph.passes.base import Context, tagged
from kdgraph.spec.calls import plain, together


def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``return {"student.mid": %layer3}`` -> ``%tap = tap(%layer3, "student.mid")``.

    From here on a tap is found by its reference, whatever later passes do to the nodes
    around it.
    """
    marked: dict[str, fx.Node] = {}
    with graph.graph.inserting_before(graph.output):
        for reference, node in graph.outputs.items():
            model, name = plain(reference).split(".", 1)
            span = context.spec.span("models", model, "taps", name)
            marker = graph.graph.call_function(tap, (node, reference))
            tagged(marker, role_of(node), owner_of(node), span, shape_of(node))
            marker.meta["kd_path"] = context.spec.models[model].taps[name]
            marked[reference] = marker
            line = f"{model}.{name} reads {context.spec.models[model].taps[name]}"
            if line not in context.did:  # once for all passes
                context.did.append(line)
    graph.output.args = (dict(marked),)
    for network in context.spec.networks:
        calls = together(context.spec, network)
        if calls.several:
            run = "1 batch" if len(calls.batches) == 1 else f"{len(calls.batches)} batches together"
            context.did.append(f"{', '.join(calls.places)}: one call of {network} on {run}")
    return graph
