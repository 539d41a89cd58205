"""The last step: ``DistillGraph -> the module that runs``."""

from __future__ import annotations

from torch import fx

from kdgraph.graph import DistillGraph
from kdgraph.graph.ops import tap


def lower(graph: DistillGraph) -> fx.GraphModule:
    """Drops the markers and binds the graph to the modules it calls.

    Trained parts are the caller's very modules, and snapshots those that are written to. Of any
    other frozen model the result holds only the submodules that are still called, so that nothing
    else is moved to the device.
    """
    lowered = graph.copy()
    for node in lowered.graph.find_nodes(op="call_function", target=tap):
        node.replace_all_uses_with(node.args[0])
        lowered.graph.erase_node(node)
    module = fx.GraphModule(lowered.root, lowered.graph, class_name="DistillStep")
    for name in graph.spec.networks:
        if not graph.spec.is_constant(name):
            _bind(module, f"models.{name}", graph)
    _bind(module, "steer", graph)
    return module


def _bind(module: fx.GraphModule, path: str, graph: DistillGraph) -> None:
    """Puts the real module where fx has made a shell with only what the graph calls."""
    parent, _, name = path.rpartition(".")
    try:
        module.get_submodule(parent).get_submodule(name)
    except AttributeError:
        return  # not called at all
    module.get_submodule(parent).add_module(name, graph.root.get_submodule(path))
