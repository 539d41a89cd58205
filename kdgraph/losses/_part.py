"""What losses compute of one tensor alone: functions that a graph calls on their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, cast

from kdgraph.losses.base import per_sample
from kdgraph.spec.shapes import class_dim

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")
Part = Callable[Concatenate["Tensor", P], "Tensor"]


def part(function: Part[P]) -> Part[P]:
    """Makes a function of one tensor (and numbers, by position) what ``Loss.parts`` may name.

    It keeps the precision of a loss wherever it is called: half precision is widened, autocast
    is off. It must be reached by its name in its module, for the graph that is written out.
    """

    @wraps(function)
    def run(x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        import torch

        from kdgraph.losses._module import widen

        wide: Any = [widen(cast("Tensor | float | None", value)) for value in (x, *args)]
        if not torch.is_autocast_enabled(x.device.type):
            return function(*wide, **kwargs)
        with torch.autocast(x.device.type, enabled=False):
            return function(*wide, **kwargs)

    return run


@part
def log_probabilities(logits: Tensor, tau: Tensor | float) -> Tensor:
    """``log softmax(z / tau)`` over the classes, in the shape of the logits."""
    return (logits / per_sample(tau, logits)).log_softmax(class_dim(tuple(logits.shape)))


def tempered(
    student: Any, teacher: Any, tau: Any, tau_student: Any = None
) -> dict[str, partial[Any]]:
    """The parts of a loss between two sides of logits: ``log softmax`` of each at its tau."""
    own = tau if tau_student is None else tau_student
    return {
        "student": partial(log_probabilities, student, own),
        "teacher": partial(log_probabilities, teacher, tau),
    }
