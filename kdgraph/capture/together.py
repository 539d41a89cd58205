"""One capture for several roles, or several calls, of the same network: all see it opened alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, fx, nn

from kdgraph.capture.ladder import RUNGS, Captured, capture
from kdgraph.errors import CaptureError, Diagnostic


def capture_together(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    taps: Mapping[str, Mapping[str, str]],
    *,
    free: Mapping[str, Collection[int]] | None = None,
    rungs: Sequence[str] = RUNGS,
) -> dict[str, Captured]:
    """Captures ``module`` for the taps of all roles, so that equal nodes can be found.

    Args:
        module: the network.
        inputs: argument name of its forward to an example tensor.
        taps: role to tap name to tap path.
        free: argument name to further dimensions that stay free.
        rungs: the means to try, in order.

    Returns:
        A capture by role, with the taps of that role.

    Raises:
        CaptureError: as ``capture``.
    """
    if len(taps) == 1:
        ((role, own),) = taps.items()
        return {role: capture(module, inputs, own, free=free, rungs=rungs)}
    paths = {path: path for own in taps.values() for path in own.values()}
    whole = capture(module, inputs, paths, free=free, rungs=rungs)
    return {role: replace(whole, graph=_with_taps(whole.graph, own)) for role, own in taps.items()}


def capture_calls(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    taps: Mapping[str, Mapping[str, str]],
    batches: int,
    *,
    free: Mapping[str, Collection[int]] | None = None,
    rungs: Sequence[str] = RUNGS,
) -> Captured:
    """Captures ``module`` for calls that run as one, on their batches put together.

    Args:
        module: the network.
        inputs: argument name of its forward to an example of a single batch.
        taps: model to tap name to tap path.
        batches: how many batches there are.
        free: argument name to further dimensions that stay free.
        rungs: the means to try, in order.

    Returns:
        A capture on inputs of all batches, whose taps are called ``MODEL.TAP``.

    Raises:
        CaptureError: as ``capture``, and KD406 for a tap that cannot be taken apart again.
    """
    paths = {path: path for own in taps.values() for path in own.values()}
    joined = {name: torch.cat([value] * batches) for name, value in inputs.items()}
    whole = capture(module, joined, paths, free=free, rungs=rungs)
    rows, values = next(iter(joined.values())).shape[0], whole.graph.output_node().args[0]
    wrong: list[Diagnostic] = []
    for path, node in cast(dict[str, fx.Node], values).items() if batches > 1 else ():
        if (shape := tuple(node.meta["val"].shape))[:1] != (rows,):
            message = f"tap {path!r} is {list(shape)} for a batch of {rows}: its rows cannot be "
            message += "told apart by call"
            help = "calls of one network can be tapped where the batch comes first"
            wrong.append(Diagnostic("KD406", message, help=help))
    if wrong:
        raise CaptureError(wrong)
    named = {f"{model}.{tap}": path for model, own in taps.items() for tap, path in own.items()}
    return replace(whole, graph=_with_taps(whole.graph, named))


def _with_taps(graph: fx.Graph, taps: Mapping[str, str]) -> fx.Graph:
    """A copy that returns some of the tapped values, under other names."""
    copy = fx.Graph()
    values = copy.graph_copy(graph, {})
    assert isinstance(values, dict)
    copy.output({name: values[path] for name, path in taps.items()})
    return copy
