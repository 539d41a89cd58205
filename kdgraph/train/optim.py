"""Optimisers and schedulers by their torch names."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.optim import lr_scheduler

from kdgraph.errors import DataError, Span, near
from kdgraph.spec.training import Optimizer, Scheduler

_CLOSURE = {"LBFGS"}  # needs the loss to be computed again inside its step
_COMPOSED = {"LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler"}

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    name: value
    for name, value in vars(torch.optim).items()
    if isinstance(value, type)
    and issubclass(value, torch.optim.Optimizer)
    and value is not torch.optim.Optimizer
    and name not in _CLOSURE
}
SCHEDULERS: dict[str, type[lr_scheduler.LRScheduler]] = {
    name: value
    for name, value in vars(lr_scheduler).items()
    if isinstance(value, type)
    and issubclass(value, lr_scheduler.LRScheduler)
    and value is not lr_scheduler.LRScheduler
    and not name.startswith("_")
    and name not in _COMPOSED
}


def build_optimizer(
    written: Optimizer, parameters: Iterable[nn.Parameter], span: Span | None = None
) -> torch.optim.Optimizer:
    """The optimiser as written, over ``parameters``.

    Raises:
        DataError: KD712 for an unknown name or argument, or a value that torch refuses.
    """
    cls = _find("optimiser", written.use, OPTIMIZERS, span)
    # torch wants pairs such as betas as tuples
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in written.arguments.items()}
    _check_arguments(cls, arguments, span)
    trained = [p for p in parameters if p.requires_grad]
    return cast(torch.optim.Optimizer, _built(cls, trained, arguments, span))


def build_scheduler(
    written: Scheduler,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    steps: int,
    higher_is_better: bool = True,
    span: Span | None = None,
) -> lr_scheduler.LRScheduler:
    """The scheduler as written, over a run of ``epochs`` or ``steps`` of the optimiser.

    Raises:
        DataError: KD712 for an unknown name or argument, or a value that torch refuses.
    """
    cls = _find("scheduler", written.use, SCHEDULERS, span)
    whole = epochs if written.interval == "epoch" else steps
    arguments = {k: whole if v == "auto" else v for k, v in written.arguments.items()}
    if cls is lr_scheduler.ReduceLROnPlateau:
        arguments.setdefault("mode", "max" if higher_is_better else "min")
        if written.interval == "step":
            raise DataError.of("KD712", f"{written.use} moves after epochs, not steps", span=span)
    _check_arguments(cls, arguments, span)
    return cast(lr_scheduler.LRScheduler, _built(cls, optimizer, arguments, span))


def _find(kind: str, name: str, known: Mapping[str, Any], span: Span | None) -> Any:
    if name not in known:
        same = [k for k in known if k.lower() == name.lower()]
        hint = f"did you mean {same[0]!r}?" if same else near(name, known)
        raise DataError.of(
            "KD712",
            f"torch has no {kind} {name!r} that can be used here",
            span=span,
            help=hint or f"there are {', '.join(sorted(known))}",
        )
    return known[name]


def _check_arguments(cls: type, arguments: Mapping[str, Any], span: Span | None) -> None:
    known = list(inspect.signature(cls).parameters)[1:]
    for name in arguments:
        if name not in known:
            raise DataError.of(
                "KD712",
                f"{cls.__name__} has no argument {name!r}",
                span=span,
                help=near(name, known) or f"it has {', '.join(known)}",
            )


def _built(cls: Any, first: Any, arguments: Mapping[str, Any], span: Span | None) -> Any:
    try:
        return cls(first, **arguments)
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError.of("KD712", f"{cls.__name__}: {error}", span=span) from error
