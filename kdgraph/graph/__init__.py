"""The one IR: a single fx graph from the batch to the total loss, over all models."""

from kdgraph.graph.distill_graph import DistillGraph, Role, owner_of, role_of, shape_of

__all__ = ["DistillGraph", "Role", "owner_of", "role_of", "shape_of"]
