"""The node that makes the values of loss edges those of the whole batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from kdgraph.graph.ranks import sum_over_ranks
from kdgraph.losses.base import Loss, RowLoss

# rows: a mean or sum over rows, of which each rank has some; whole: computed of all rows already,
# or of what no batch changes; rank: of this rank's rows, and meant so
Kind = Literal["rows", "whole", "rank"]


class Counted(NamedTuple):
    """A loss whose rows are counted.

    Attributes:
        edge: its name.
        loss: the loss.
        kind: what its value is of.
        dims: how many leading dimensions of the batch entry, given as ``like``, its rows have.
        ranks: of the student's and the teacher's tensors, where its rule of counting asks.
    """

    edge: str
    loss: Loss
    kind: Kind
    dims: int
    ranks: Mapping[str, int]

    @property
    def adds(self) -> bool:
        """Whether parts of the batch add up, and are not averaged."""
        by_sum = isinstance(self.loss, RowLoss) and self.loss.reduction == "sum"
        return by_sum and self.kind != "whole"

    def number(self, inputs: Mapping[str, Any]) -> Tensor:
        """What the rows of this batch count beside those of others, 0-dim."""
        like = inputs["like"]
        form = torch.zeros((), dtype=_wide(like), device=like.device)
        number: Tensor | int = like.shape[0]
        if isinstance(self.loss, RowLoss):
            # wide: a mask in half precision counts no further than 65,504
            given = {f: _as_wide(v, form) for f, v in inputs.items() if f != "like"}
            # of student and teacher counting may look at nothing but their form
            given |= {field: form.expand([1] * dims) for field, dims in self.ranks.items()}
            number = self.loss.number(math.prod(like.shape[: self.dims]), **given)
        return form + number


class AcrossRanks(nn.Module):
    """Turns the value of each edge on this rank's batch into its share of the loss of all.

    Without a window that is the loss of the batch of all ranks together: the mean over all rows
    is ``sum_r n_r v_r / sum_r n_r``, with ``v_r`` the mean of rank r over its ``n_r`` rows. Numbers
    and sums travel in one message. In a window of several batches it is what this batch adds to
    the loss of them all, so that gradients accumulate to that of one large batch.

    Attributes:
        edges: the losses, in the order of their values.
        window: what the rows of a window count for each edge, [edges]; None outside.
        factor: by which values are multiplied in a window, for trainers that divide them.
    """

    def __init__(self, edges: Sequence[Counted]) -> None:
        super().__init__()
        self.edges = tuple(edges)
        self.window: Tensor | None = None
        self.factor = 1.0

    def forward(
        self, values: Sequence[Sequence[Tensor]], inputs: Sequence[Mapping[str, Any]]
    ) -> tuple[Tensor, ...]:
        """The values of all edges, one after the other.

        Args:
            values: of each edge, its value on this batch, and beside it the weighted one where
                its weight is a signal of rows.
            inputs: of each edge, what its rows are counted by.
        """
        own = self.numbers(inputs)
        flat = [(at, value) for at, edge in enumerate(values) for value in edge]
        rows = [i for i, (at, _) in enumerate(flat) if self.edges[at].kind == "rows"]
        parts = [v.to(own.dtype) * (1 if self.edges[at].adds else own[at]) for at, v in flat]
        shared = sum_over_ranks(torch.stack([*(parts[i] for i in rows), *own.unbind()]))
        everywhere = shared[len(rows) :].detach()
        place = {i: n for n, i in enumerate(rows)}
        found = []
        for i, (at, value) in enumerate(flat):
            sums = shared[place[i]] if i in place else parts[i]
            found.append(self._share(at, value, sums, own[at], everywhere[at]))
        return tuple(found)

    def _share(self, at: int, value: Tensor, sums: Tensor, own: Tensor, every: Tensor) -> Tensor:
        edge = self.edges[at]
        if edge.adds:
            result = sums
        elif self.window is None:
            result = sums / every.where(every > 0, 1) if edge.kind == "rows" else value
        else:
            of = self.window[at]
            if edge.kind == "whole":
                sums = value * every
            result = sums / of.where(of > 0, 1)
        return (result if self.window is None else result * self.factor).to(value.dtype)

    def numbers(self, inputs: Sequence[Mapping[str, Any]]) -> Tensor:
        """What this rank's rows count for each edge, [edges]."""
        device = inputs[0]["like"].device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return torch.stack([e.number(i) for e, i in zip(self.edges, inputs, strict=True)])

    def totals(self, numbers: Tensor) -> Tensor:
        """Numbers of a window as its edges take them: of all ranks, or of this one."""
        every = sum_over_ranks(numbers)
        local = [edge.kind == "rank" for edge in self.edges]
        return numbers.where(torch.tensor(local, device=numbers.device), every)

    def extra_repr(self) -> str:
        return ", ".join(f"{edge.edge}: {edge.kind}" for edge in self.edges)


def _as_wide(value: Any, form: Tensor) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(form.dtype) if floating else value


def _wide(like: Tensor) -> torch.dtype:
    """Numbers of rows are exact in float64, which one kind of device does not have."""
    return torch.float32 if like.device.type == "mps" else torch.float64
