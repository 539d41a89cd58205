"""One capture for several roles of the same network: all see it opened alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor, fx, nn

from kdgraph.capture.ladder import Captured, capture


def capture_together(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    taps: Mapping[str, Mapping[str, str]],
    *,
    free: Mapping[str, Collection[int]] | None = None,
) -> dict[str, Captured]:
    """Captures ``module`` for the taps of all roles, so that equal nodes can be found.

    Args:
        module: the network.
        inputs: argument name of its forward to an example tensor.
        taps: role to tap name to tap path.
        free: argument name to further dimensions that stay free.

    Returns:
        A capture by role, with the taps of that role.

    Raises:
        CaptureError: as ``capture``.
    """
    if len(taps) == 1:
        ((role, own),) = taps.items()
        return {role: capture(module, inputs, own, free=free)}
    paths = {path: path for own in taps.values() for path in own.values()}
    whole = capture(module, inputs, paths, free=free)
    return {role: replace(whole, graph=_with_taps(whole.graph, own)) for role, own in taps.items()}


def _with_taps(graph: fx.Graph, taps: Mapping[str, str]) -> fx.Graph:
    """A copy that returns some of the tapped values, under other names."""
    copy = fx.Graph()
    values = copy.graph_copy(graph, {})
    assert isinstance(values, dict)
    copy.output({name: values[path] for name, path in taps.items()})
    return copy
