"""Weighs batches over which gradients are accumulated: many small ones are one large one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, fx

from kdgraph.errors import InputError
from kdgraph.graph import DistillGraph, owner_of
from kdgraph.passes import prune
from kdgraph.passes._across import AcrossRanks
from kdgraph.passes.base import Context
from kdgraph.runtime.lower import lower

_PATH = "rewritten.across_ranks"


def across_of(programs: Mapping[bool, fx.GraphModule]) -> AcrossRanks | None:
    """What weighs the values of a step's edges; None in a step made for one process."""
    try:
        module = programs[True].get_submodule(_PATH)
    except AttributeError:
        return None
    assert isinstance(module, AcrossRanks)
    return module


@contextmanager
def window(
    across: AcrossRanks,
    counting: fx.GraphModule,
    batches: Sequence[Mapping[str, Tensor]],
    averaged: bool | int,
) -> Iterator[None]:
    """While it is open, each of ``batches`` gives its share of the loss of them all."""
    with torch.no_grad():
        numbers = [across.numbers(counting(**batch)) for batch in batches]
        of = across.totals(torch.stack(numbers).sum(0))
    before = across.window, across.factor
    across.window = of
    across.factor = float(len(batches) if averaged is True else averaged or 1)
    try:
        yield
    finally:
        across.window, across.factor = before


def counting(graph: DistillGraph) -> fx.GraphModule:
    """The part of a step by which it counts its rows: a batch in, what is counted out.

    Raises:
        InputError: KD731 where a trained model would have to run for it.
    """
    small = graph.copy()
    (node,) = small.graph.find_nodes(op="call_module", target=_PATH)
    small.output.args = (node.args[1],)
    small = prune.run(small, Context(small.spec))
    for left in small:
        model = owner_of(left) if owner_of(left) in small.spec.models else None
        if left.op in ("call_module", "get_attr") and model and small.spec.is_moving(model):
            raise InputError.of(
                "KD731",
                f"the rows of a batch are counted by what {owner_of(left)!r} says, which is not "
                "known before it has run",
                span=small.spec.span("losses"),
                help="let masks come from the batch or from a teacher",
            )
    return lower(small)
