"""How strongly each edge pulls at the student, and whether it pulls the way the labels do."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdgraph.runtime.module import DistillModule, StepOutput
from kdgraph.train.ranks import averaged

EVERY = 32
"""Batches between two samples for each edge of a stage: with three edges, every 96th is one.

A sample is one backward pass of the student for each edge. Such a pass takes at most about two
thirds of a step, so that samples take about two thirds of a 32nd of the training, and less with a
teacher in the step.
"""

Gradient = Sequence[Tensor | None]


class Probe:
    """Samples the gradients of single edges, by extra backward passes over the step's own graph.

    Which batches are samples depends on their number alone, counted for each stage and phase by
    itself: the first, and every ``EVERY`` times the number of edges. Gradients are given to
    nobody; random state and buffers are as before. What the graph keeps for the training's own
    backward pass stays.

    Args:
        labels: the edges whose gradients together are that of the labels.
    """

    def __init__(self, labels: Collection[str]) -> None:
        self.labels = labels
        self.declined: dict[str, str] = {}
        self._turns: dict[str, int] = {}

    def is_due(self, leg: str, edges: int) -> bool:
        """Whether the next batch of a stage or phase, with so many edges, is a sample.

        It is counted: to be asked once for each batch.
        """
        turn = self._turns.get(leg, 0)
        self._turns[leg] = turn + 1
        return leg not in self.declined and turn % (EVERY * max(1, edges)) == 0

    def sample(
        self, step: DistillModule, out: StepOutput, weights: Mapping[str, float], scale: float = 1.0
    ) -> dict[str, float]:
        """``grad_norm/EDGE`` and ``grad_cosine/EDGE`` of a batch.

        The norm is of the gradient of the unweighted edge with respect to all trained parameters
        of the student. The cosine is with the sum of the label edges' gradients, each times its
        weight, and not known where a signal gives one of several weights; the only label edge has
        none. What is zero has no direction, and an edge that does not reach the student has
        neither figure.

        Args:
            step: in the stage whose turn it is.
            out: of this batch, before its backward pass.
            weights: of the edges, as far as they are known.
            scale: what edges are multiplied by so that half precision holds their gradients.
        """
        leg = step.spec.leg or ""
        edges = {name: value for name, value in out.losses.items() if value.requires_grad}
        student = step.student
        parameters = [p for p in student.parameters() if p.requires_grad]
        if why := _hindrance(student, parameters):
            self.declined[leg] = why
            return {}
        first = [name for name in edges if name in self.labels]
        order = first + [name for name in edges if name not in self.labels]
        try:
            with _untouched(step, out.loss.device):
                return self._all({n: edges[n] for n in order}, parameters, weights, scale)
        except RuntimeError as error:  # a backward that is not to be repeated refuses
            self.declined[leg] = str(error).partition("\n")[0][:200]
            return {}

    def _all(
        self, edges: Mapping[str, Tensor], parameters: Sequence[nn.Parameter],
        weights: Mapping[str, float], scale: float,
    ) -> dict[str, float]:  # fmt: skip
        """One edge after the other, so that there are never more than three gradients at a time."""
        own = [name for name in edges if name in self.labels]
        compass = [self._gradient(edges[n], parameters, scale) for n in own]
        labels: Gradient = compass[0] if compass else []
        if len(own) > 1:  # of a single one the weight changes no direction
            known_weights = all(n in weights for n in own)
            labels = _sum(compass, [weights[n] for n in own]) if known_weights else []
        known = dict(zip(own, compass, strict=True))
        found: dict[str, float] = {}
        for name, value in edges.items():
            gradient = known[name] if name in known else self._gradient(value, parameters, scale)
            found |= _figures(name, gradient, [] if own == [name] else labels)
        return found

    @staticmethod
    def _gradient(value: Tensor, parameters: Sequence[nn.Parameter], scale: float) -> Gradient:
        of_edge = torch.full_like(value, scale)
        found = cast(
            Gradient,
            torch.autograd.grad(value, parameters, of_edge, retain_graph=True, allow_unused=True),
        )
        if scale != 1:
            found = [None if g is None else g.float() / scale for g in found]
        return [None if g is None else averaged(g) for g in found]

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"turns": dict(self._turns), "declined": dict(self.declined)}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self._turns, self.declined = dict(state["turns"]), dict(state["declined"])


def _hindrance(student: nn.Module, parameters: Sequence[nn.Parameter]) -> str | None:
    """Why there are no figures, where that is known beforehand."""
    if not parameters:
        return "the student is not trained here"
    hooked = any(m._backward_hooks or m._backward_pre_hooks for m in student.modules())
    if hooked or any(p._backward_hooks for p in parameters):
        return "the student has backward hooks, which an extra backward pass would call"
    return None


@contextmanager
def _untouched(step: nn.Module, device: torch.device) -> Iterator[None]:
    """Leaves random state and buffers as they were: checkpointed blocks run again in a backward."""
    before = [(buffer, buffer.clone()) for buffer in step.buffers()]
    devices = [device] if device.type not in ("cpu", "mps") else []
    with (
        torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"),
        torch.autocast(device.type, enabled=False),
    ):
        try:
            yield
        finally:
            for buffer, value in before:
                buffer.data.copy_(value)  # not counted as a change: the graph may hold the buffer


def _sum(gradients: Sequence[Gradient], weights: Sequence[float]) -> Gradient:
    found: list[Tensor | None] = []
    for parts in zip(*gradients, strict=True):
        terms = [g * w for g, w in zip(parts, weights, strict=True) if g is not None]
        found.append(sum(terms[1:], terms[0]) if terms else None)
    return found


def _figures(name: str, gradient: Gradient, labels: Gradient) -> dict[str, float]:
    """Norm and cosine of one edge."""
    square = _product(gradient, gradient)
    if square is None:
        return {}
    found = {f"grad_norm/{name}": math.sqrt(square)}
    of_labels, both = _product(labels, labels), _product(gradient, labels)
    if square and of_labels and both is not None:
        cosine = both / math.sqrt(square) / math.sqrt(of_labels)
        found[f"grad_cosine/{name}"] = max(-1.0, min(1.0, cosine))
    return found


def _product(one: Gradient, other: Gradient) -> float | None:
    """The inner product over all parameters; None where no parameter has both."""
    pairs = [(a, b) for a, b in zip(one, other, strict=False) if a is not None and b is not None]
    if not pairs:
        return None
    return float(torch.stack([(a.float() * b.float()).sum() for a, b in pairs]).sum())
