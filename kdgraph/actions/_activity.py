"""How active the neurons of a layer are on data, and what they are on average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from kdgraph.actions._flow import Flow, in_mode
from kdgraph.actions._spots import Spot
from kdgraph.actions._world import Batches


def measure(
    flow: Flow, batches: Batches, statistic: str, *, means: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """One pass over the data, in eval mode.

    Args:
        flow: the way of the neurons.
        batches: the data.
        statistic: ``max`` or ``mean`` of a neuron's absolute value behind its activation, over
            samples and positions, or its ``rate``: the share of those where it is not 0.
        means: also averages what consumers read.

    Returns:
        The statistic [width], float64, of the most active place where there are several; and by
        the path of each consumer the mean of each column that it reads, float64.
    """
    found = [_Tally(node, spot, flow.width, statistic) for node, spot in flow.taps.items()]
    read: dict[str, _Tally] = {}
    if means:
        for call, (node, spot) in flow.consumers.items():
            columns = flow.width * spot.block
            read[str(call.target)] = _Tally(node, Spot(spot.dim), columns, "value")
    tallies = [*found, *read.values()]
    program = flow.reader([tally.node for tally in tallies])
    device = next((p.device for p in flow.net.parameters()), torch.device("cpu"))
    with in_mode(flow.net, training=False), torch.no_grad():
        for batch in batches():
            values = program(*(batch[entry].to(device) for entry in flow.inputs))
            for tally, value in zip(tallies, values, strict=True):
                tally.add(value)
    statistics = torch.stack([tally.result() for tally in found])
    return statistics.amax(0), {path: tally.result() for path, tally in read.items()}


@dataclass
class _Tally:
    """One number for each neuron (or column), over batches."""

    node: fx.Node
    spot: Spot
    width: int
    kind: str
    total: Tensor | None = None
    count: int = 0

    def add(self, value: Tensor) -> None:
        rows = value.movedim(self.spot.dim, 0).reshape(self.width, -1)
        if self.kind == "max":
            now = rows.abs().amax(1).double().cpu()
            self.total = now if self.total is None else torch.maximum(self.total, now)
            return
        if self.kind != "value":
            rows = rows.abs() if self.kind == "mean" else rows != 0
        now = rows.sum(1, dtype=torch.float64 if rows.device.type != "mps" else None).double().cpu()
        self.total = now if self.total is None else self.total + now
        self.count += rows.shape[1]

    def result(self) -> Tensor:
        assert self.total is not None
        return self.total if self.kind == "max" else self.total / self.count
