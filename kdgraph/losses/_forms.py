"""Closed forms of losses between forward and backward, and their step of autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdgraph.losses._closed import Logits
from kdgraph.losses.base import Loss, RowLoss

_BLOCK = 1 << 19  # numbers of a tensor at a time: fewer, and threads wait for each other instead
SIDES = ("student", "teacher")  # the logits
_FOR_ROWS = ("mask", "row_weight")  # what comes in only when rows are reduced


class Call(NamedTuple):
    """A loss and its arguments; tensors by their numbers."""

    loss: Loss
    tensors: dict[str, int]
    constants: dict[str, Any]

    def place(self) -> tuple[int, float | int | None]:
        """Which student at which temperature."""
        tau = self.tensors.get("tau", self.constants.get("tau", 1.0))
        return self.tensors["student"], tau

    def arguments(
        self, tensors: Mapping[int, Tensor], logits: Mapping[int, Logits] | None = None
    ) -> dict[str, Any]:
        """As the loss takes them; both sides as ``logits`` where those are given."""
        given: dict[str, Any] = {f: tensors[n] for f, n in self.tensors.items()}
        if logits is not None:
            given |= {f: logits[n] for f, n in self.tensors.items() if f in SIDES}
        return {**self.constants, **given}


def numbered(
    losses: Sequence[Loss], inputs: Sequence[Mapping[str, Any]]
) -> tuple[list[Tensor], list[Call]]:
    """The distinct tensors that the losses read, and the calls over them."""
    numbers: dict[int, int] = {}
    tensors: list[Tensor] = []
    calls: list[Call] = []
    for loss, given in zip(losses, inputs, strict=True):
        call = Call(loss, {}, {})
        for field, value in given.items():
            if field in _FOR_ROWS:
                continue
            if isinstance(value, Tensor):
                call.tensors[field] = numbers.setdefault(id(value), len(tensors))
                tensors += [value] if len(numbers) > len(tensors) else []
            else:
                call.constants[field] = value
        calls.append(call)
    return tensors, calls


def _blocks(logits: Tensor, by_rows: bool) -> Iterator[slice]:
    """Samples to be computed at a time: all, where the rows only make sense together."""
    if not by_rows or logits.numel() < 2 * _BLOCK:
        yield slice(None)
        return
    step = max(1, _BLOCK * len(logits) // logits.numel())
    yield from (slice(i, min(i + step, len(logits))) for i in range(0, len(logits), step))


class _Part(NamedTuple):
    """What the gradients of some rows need: their logits, and what to call for which loss."""

    rows: slice
    logits: dict[int, Logits]
    pulls: list[tuple[int, Callable[[Tensor], None]]]


class Forms:
    """The closed forms of some losses, between forward and backward."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.parts: list[_Part] = []

    def values(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The value of each loss, [N] or 0-dim; holds what the gradients need."""
        found: list[list[Tensor]] = [[] for _ in self.calls]
        places = [call.place() for call in self.calls]
        for place in dict.fromkeys(places):  # what shares softmaxes, one after the other
            here = [i for i, other in enumerate(places) if other == place]
            by_rows = all(isinstance(self.calls[i].loss, RowLoss) for i in here)
            for samples in _blocks(tensors[place[0]], by_rows):
                for i, value in self._part(here, samples, tensors):
                    found[i].append(value)
        return tuple(v[0] if len(v) == 1 else torch.cat(v) for v in found)

    def _part(
        self, losses: Sequence[int], samples: slice, tensors: Sequence[Tensor]
    ) -> list[tuple[int, Tensor]]:
        """The values of some losses for some samples."""
        calls = [self.calls[i] for i in losses]
        read = {(f in SIDES, n) for call in calls for f, n in call.tensors.items()}
        given = {n: tensors[n][samples] if tensors[n].dim() else tensors[n] for _, n in read}
        logits = {n: Logits(given[n]) for side, n in read if side}
        found = [call.loss.closed_form(**call.arguments(given, logits)) for call in calls]
        for each in logits.values():
            each.release()
        of_each = logits[calls[0].tensors["student"]].shape[1:].numel()  # rows of a sample
        rows = slice((samples.start or 0) * of_each, samples.stop and samples.stop * of_each)
        pulls = [(i, pull) for i, (_, pull) in zip(losses, found, strict=True)]
        self.parts.append(_Part(rows, logits, pulls))
        return [(i, value) for i, (value, _) in zip(losses, found, strict=True)]

    def gradients(
        self, tensors: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> dict[int, Tensor]:
        """The gradients of the students by number; lets go of all it held."""
        if not self.parts:  # a second time over a retained graph
            self.values(tensors)
        pairs = zip(self.calls, grads, strict=True)
        reached = {call.tensors["student"] for call, grad in pairs if grad is not None}
        found = {n: Logits(tensors[n]) for n in reached}
        for whole in found.values():
            whole.grad = torch.zeros_like(whole.z)
        for part in self.parts:
            for n in reached & part.logits.keys():
                part.logits[n].grad = found[n].grad[part.rows]
            for i, pull in part.pulls:
                grad = grads[i]
                if grad is not None:
                    pull(grad[part.rows] if grad.dim() else grad)
        self.parts = []
        return {n: whole.gradient() for n, whole in found.items()}

    def differentiable(
        self, tensors: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> dict[int, Tensor]:
        """The same with a gradient of their own, by autograd through the losses themselves."""
        # views: one student may be made of another, and its gradient flows on elsewhere
        tensors = [t.view_as(t) for t in tensors]
        reached = [
            (call, grad)
            for call, grad in zip(self.calls, grads, strict=True)
            if grad is not None and tensors[call.tensors["student"]].requires_grad
        ]
        values = [
            _value(call.loss, call.arguments(dict(enumerate(tensors)))) for call, _ in reached
        ]
        students = sorted({call.tensors["student"] for call, _ in reached})
        found = torch.autograd.grad(
            values, [tensors[n] for n in students], [g for _, g in reached], create_graph=True
        )
        return dict(zip(students, found, strict=True))


def _value(loss: Loss, inputs: Mapping[str, Any]) -> Tensor:
    """What the closed form gives as value, computed as the loss is written."""
    prepared = {**inputs, **{f: run() for f, run in loss.parts(**inputs).items()}}
    value = loss.rows(**prepared) if isinstance(loss, RowLoss) else loss.forward(**prepared)
    return value.flatten() if isinstance(loss, RowLoss) else value


class Function(torch.autograd.Function):
    """The losses, whose gradients need no graph inside."""

    @staticmethod
    def forward(ctx: Any, forms: Forms, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.forms = forms
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return forms.values(tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            found = ctx.forms.differentiable(tensors, grads)
        else:
            found = ctx.forms.gradients(tensors, grads)
        return None, *(found.get(n) for n in range(len(tensors)))
