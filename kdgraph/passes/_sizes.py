"""The shapes that a loss is estimated at: those of the graph, with the batch size of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import fx

from kdgraph.graph.distill_graph import shape_of
from kdgraph.graph.example import letter_sizes
from kdgraph.losses.base import Loss
from kdgraph.spec.language import Spec
from kdgraph.spec.shapes import Shape


class Sizes(NamedTuple):
    """The batch size of the graph, the one to estimate with, and where that comes from."""

    example: int
    batch: int
    origin: str


def sizes(spec: Spec) -> Sizes:
    """A fixed batch size, else that of the stage or of ``data``, else an example."""
    first = next(iter(spec.batch.values())).shape[0]
    if not isinstance(first, str):
        return Sizes(first, first, "as in batch")
    example = letter_sizes(spec)[first]
    if spec.data is None:
        return Sizes(example, example, "an example")
    return Sizes(example, spec.data.batch_size, spec.batch_from)


def shapes_at(loss: Loss, inputs: Mapping[str, Any], sizes: Sizes) -> dict[str, Shape]:
    """The shapes of a loss's tensors by field, at the batch size to estimate with."""
    shapes: dict[str, Shape] = {}
    for field in loss.ref_fields():
        node = inputs.get(field)
        shape = shape_of(node) if isinstance(node, fx.Node) else None
        if shape:
            samples, left = divmod(shape[0], sizes.example)
            shapes[field] = (shape[0] if left else samples * sizes.batch, *shape[1:])
    return shapes
