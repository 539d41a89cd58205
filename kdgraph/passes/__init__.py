"""Rewrites of the graph, one per file. ``run(graph, context) -> graph``, pure from outside."""
