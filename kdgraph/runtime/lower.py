"""The last step: ``DistillGraph -> the module that runs``."""

from __future__ import annotations

from torch import fx, nn

from kdgraph.graph import DistillGraph
from kdgraph.graph.ops import tap


def lower(graph: DistillGraph, steer: nn.Module) -> fx.GraphModule:
    """Drops the markers and binds the graph to the modules it calls.

    Trained parts are the caller's very modules. Of a frozen model the result holds only the
    submodules that are still called, so that nothing else is moved to the device.
    """
    lowered = graph.copy()
    for node in lowered.graph.find_nodes(op="call_function", target=tap):
        node.replace_all_uses_with(node.args[0])
        lowered.graph.erase_node(node)
    if "steer" not in dict(lowered.root.named_children()):
        lowered.root.add_module("steer", steer)
    module = fx.GraphModule(lowered.root, lowered.graph, class_name="DistillStep")
    for name in graph.spec.models:
        if graph.spec.is_trainable(name):
            _bind(module, "models", name, graph.root.get_submodule(f"models.{name}"))
    if hasattr(module, "steer"):
        module.add_module("steer", steer)
    return module


def _bind(module: fx.GraphModule, part: str, name: str, real: nn.Module) -> None:
    """Puts the real module where fx has made a shell with only the submodules called."""
    if hasattr(module, part) and hasattr(module.get_submodule(part), name):
        module.get_submodule(part).add_module(name, real)
