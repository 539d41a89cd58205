"""Removes what no loss needs: ``code past the last tap -> nothing``.

What a model's own record says counts parameters that are read by nothing any more. Those of a
frozen model are not moved to the device; those of a trained one stay in ``parameters()`` and in
the state dict, since the model is the caller's, but get no gradient.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

from torch import fx, nn

from kdgraph.capture.ports import PortModel
from kdgraph.graph import DistillGraph, owner_of, role_of
from kdgraph.passes._ports import shorten_ports
from kdgraph.passes._updates import Updates
from kdgraph.passes.base import Context, register_pass


@register_pass("prune", after="attach_losses")
def run(graph: DistillGraph, context: Context) -> DistillGraph:
    """``layer1 -> layer2 (tapped) -> layer3 -> fc`` becomes ``layer1 -> layer2``.

    A node is removed when nothing returned depends on it. A node that changes a tensor in place
    stays with all it reads, unless it only updates a buffer (counts batches) for code that is
    gone. A model that runs whole behind its ports stops at the last one that is needed.

    Dropout that is cut draws no numbers any more, so what is left draws others than it would
    have: as good, but not the same with and without this pass.
    """
    before = {name: _parameters(graph, name) for name in graph.spec.models}
    live = _live(graph)
    removed: Counter[str] = Counter()
    for node in reversed(list(graph)):
        if node in live or node.op == "placeholder":
            continue
        if role_of(node) in ("teacher", "student"):
            removed[owner_of(node)] += 1
        graph.graph.erase_node(node)
    shorten_ports(graph, context)
    left = Counter(owner_of(n) for n in graph)
    for name in sorted(before):
        now = _parameters(graph, name)
        gone = sum(p.numel() for p in before[name] - now)
        if removed[name] or gone:
            share = gone / max(sum(p.numel() for p in before[name]), 1)
            context.did.append(
                f"{name}: {removed[name]} nodes past the last tap removed, {left[name]} left; "
                f"{gone:,} parameters ({share:.0%}) no longer needed"
            )
    stays = Counter(owner_of(n) for n in graph if n.meta.get("kd_mutates"))
    for owner, count in sorted(stays.items()):
        nodes = "1 node that changes" if count == 1 else f"{count} nodes that change"
        context.declined.append(f"{owner}: {nodes} a tensor in place must stay")
    return graph


def _parameters(graph: DistillGraph, model: str) -> set[nn.Parameter]:
    """The parameters of a model that the graph reads."""
    found: set[nn.Parameter] = set()
    for node in graph:
        if owner_of(node) != model or node.op not in ("call_module", "get_attr"):
            continue
        value: Any = operator.attrgetter(str(node.target))(graph.root)
        if isinstance(value, PortModel):
            found.update(p for m in value.needed() for p in m.parameters(recurse=False))
        elif isinstance(value, nn.Module):
            found.update(value.parameters())
        elif isinstance(value, nn.Parameter):
            found.add(value)
    return found


def _live(graph: DistillGraph) -> set[fx.Node]:
    """Nodes that a returned value depends on, and those behind an in-place change."""
    live: set[fx.Node] = set()
    updates = Updates(graph)
    waiting = [graph.output, *updates.always]
    while waiting:
        while waiting:
            node = waiting.pop()
            if node not in live:
                live.add(node)
                waiting += node.all_input_nodes
        waiting = updates.needed(live)
    return live
