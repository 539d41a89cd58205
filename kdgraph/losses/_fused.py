"""Several losses over the same logits in one step of autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kdgraph.losses._closed import Logits
from kdgraph.losses._module import LossModule, widen
from kdgraph.losses.base import Loss, RowLoss, without_channels

Inputs = Mapping[str, Any]
Value = Tensor | tuple[Tensor, Tensor]


class FusedLosses(nn.Module):
    """Runs losses by their closed forms where those hold, and their modules elsewhere.

    Closed forms are for finite values on the CPU, in eager mode. Compilers, transforms of
    functions, other devices and masked classes get the modules. A kernel for some set of losses
    would be chosen here, by ``edges``.

    Attributes:
        names: the edges, in the order of the values.
        edges: their modules, in the same order.
    """

    def __init__(self, edges: Mapping[str, LossModule]) -> None:
        super().__init__()
        self.names = tuple(edges)
        self.edges = nn.ModuleList(edges.values())

    def forward(self, inputs: Mapping[str, Inputs]) -> tuple[Value, ...]:
        """The value of each edge, from the arguments of its module by name."""
        given = [inputs[name] for name in self.names]
        values = self._closed(given) if _here_and_now(given) else None
        if values is not None:
            return values
        return tuple(edge(**g) for edge, g in zip(self.edges, given, strict=True))

    def _closed(self, given: Sequence[Inputs]) -> tuple[Value, ...] | None:
        """By the closed forms; None where they do not hold."""
        losses = [cast(Loss, edge.loss) for edge in self.edges]
        wide = _widened(given)
        tensors, calls = _numbered(losses, wide)
        students = {c.tensors["student"] for c in calls}
        logits = {tensors[n].dtype for c in calls for f, n in c.tensors.items() if f in _SIDES}
        learn = {n for n, t in enumerate(tensors) if t.requires_grad}
        if len(logits) > 1 or not learn <= students:
            return None
        with torch.autocast("cpu", enabled=False):
            values = _Function.apply(_Forms(calls), *tensors)
            if not all(math.isfinite(value.sum().item()) for value in values):
                return None
            return tuple(_reduced(*edge) for edge in zip(losses, values, wide, strict=True))

    def extra_repr(self) -> str:
        return ", ".join(self.names)


def _here_and_now(given: Sequence[Inputs]) -> bool:
    """Whether plain numbers are computed at once, on the CPU."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    tensors = [v for g in given for v in g.values() if isinstance(v, Tensor)]
    kinds = (Tensor, nn.Parameter)
    return forward_ad._current_level < 0 and all(
        type(t) in kinds and t.device.type == "cpu" for t in tensors
    )


def _widened(given: Sequence[Inputs]) -> list[dict[str, Any]]:
    """As a loss module widens its inputs; what several edges read, once."""
    seen = {id(v): widen(v) for g in given for v in g.values() if isinstance(v, Tensor)}
    return [{f: seen.get(id(v), v) for f, v in g.items()} for g in given]


def _reduced(loss: Loss, value: Tensor, inputs: Inputs) -> Value:
    if not isinstance(loss, RowLoss):
        return value
    shape = without_channels(tuple(inputs["student"].shape))
    return loss.reduced(value.reshape(shape), **inputs)


_SIDES = ("student", "teacher")  # the logits
_FOR_ROWS = ("mask", "row_weight")  # what comes in only when rows are reduced


class _Call(NamedTuple):
    """A loss and its arguments; tensors by their numbers."""

    loss: Loss
    tensors: dict[str, int]
    constants: dict[str, Any]

    def place(self) -> tuple[int, float | int | None]:
        """Which student at which temperature."""
        tau = self.tensors.get("tau", self.constants.get("tau", 1.0))
        return self.tensors["student"], tau

    def arguments(self, tensors: Sequence[Any]) -> dict[str, Any]:
        return {**self.constants, **{f: tensors[n] for f, n in self.tensors.items()}}


def _numbered(losses: Sequence[Loss], inputs: Sequence[Inputs]) -> tuple[list[Tensor], list[_Call]]:
    """The distinct tensors that the losses read, and the calls over them."""
    numbers: dict[int, int] = {}
    tensors: list[Tensor] = []
    calls: list[_Call] = []
    for loss, given in zip(losses, inputs, strict=True):
        call = _Call(loss, {}, {})
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


class _Forms:
    """The closed forms of some losses, between forward and backward."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        self.calls = calls
        self.logits: dict[int, Logits] = {}
        self.pulls: list[Callable[[Tensor], None]] = []

    def values(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The value of each loss, [N] or 0-dim; holds what the gradients need."""
        given: list[Any] = list(tensors)
        for n in {n for c in self.calls for f, n in c.tensors.items() if f in _SIDES}:
            given[n] = self.logits[n] = Logits(tensors[n])
        found: dict[int, tuple[Tensor, Callable[[Tensor], None]]] = {}
        places = [call.place() for call in self.calls]
        for place in dict.fromkeys(places):  # what shares softmaxes, one after the other
            for i in (i for i, other in enumerate(places) if other == place):
                call = self.calls[i]
                found[i] = call.loss.closed_form(**call.arguments(given))
            for logits in self.logits.values():
                logits.release()
        self.pulls = [found[i][1] for i in range(len(found))]
        return tuple(found[i][0] for i in range(len(found)))

    def gradients(
        self, tensors: Sequence[Tensor], grads: Sequence[Tensor | None]
    ) -> dict[int, Tensor]:
        """The gradients of the students by number; lets go of all it held."""
        if not self.pulls:  # a second time over a retained graph
            self.values(tensors)
        for pull, grad in zip(self.pulls, grads, strict=True):
            if grad is not None:
                pull(grad)
        found = {n: x.gradient() for n, x in self.logits.items() if x.grad is not None}
        self.logits, self.pulls = {}, []
        return found

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
        values = [_value(call.loss, call.arguments(tensors)) for call, _ in reached]
        students = sorted({call.tensors["student"] for call, _ in reached})
        found = torch.autograd.grad(
            values, [tensors[n] for n in students], [g for _, g in reached], create_graph=True
        )
        return dict(zip(students, found, strict=True))


def _value(loss: Loss, inputs: Inputs) -> Tensor:
    """What the closed form gives as value, computed as the loss is written."""
    prepared = {**inputs, **{f: run() for f, run in loss.parts(**inputs).items()}}
    value = loss.rows(**prepared) if isinstance(loss, RowLoss) else loss.forward(**prepared)
    return value.flatten() if isinstance(loss, RowLoss) else value


class _Function(torch.autograd.Function):
    """The losses, whose gradients need no graph inside."""

    @staticmethod
    def forward(ctx: Any, forms: _Forms, *tensors: Tensor) -> tuple[Tensor, ...]:
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
