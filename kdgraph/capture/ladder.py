"""From a module and its taps to a graph, by the coarsest means that works."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from kdgraph.capture.taps import resolve_taps
from kdgraph.capture.tracing import trace
from kdgraph.capture.twin import twin


@dataclass(frozen=True)
class Captured:
    """A model as a graph.

    Attributes:
        rung: how it was captured: ``fx``, ``export`` or ``ports``.
        graph: placeholders are the inputs, the output is a dictionary of every tap.
            Each node has ``meta["val"]`` (its fake value) and ``meta["kd_path"]`` (the path of
            the module it comes from); ``meta["kd_mutates"]`` marks the nodes that write to a
            value or a buffer that is used elsewhere and so must not be removed or moved.
        root: the module given; targets of the graph are attribute paths of it,
        extras: save for these tensors, made while it was captured,
        modules: and these modules.
        declined: the rungs tried before, with the reason why each would not do.
        nodes: number of nodes that compute.
        seconds: time that the capture took.
        mode_dependent: whether the graph holds only in the mode (train or eval) it was
            captured in. Submodules left whole follow their own mode in any case.
    """

    rung: str
    graph: fx.Graph
    root: nn.Module
    extras: dict[str, Tensor] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)
    declined: tuple[tuple[str, str], ...] = ()
    nodes: int = 0
    seconds: float = 0.0
    mode_dependent: bool = False


def capture(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    taps: Mapping[str, str],
    *,
    rungs: Sequence[str] = ("fx", "export", "ports"),
) -> Captured:
    """Captures ``module`` as a graph from ``inputs`` to ``taps``; the module is not changed."""
    start = time.perf_counter()
    paths = resolve_taps(module, taps)
    graph, extras = trace(twin(module), inputs, paths)
    nodes = sum(n.op not in ("placeholder", "output", "get_attr") for n in graph.nodes)
    return Captured(
        "fx", graph, module, extras=extras, nodes=nodes, seconds=time.perf_counter() - start
    )
