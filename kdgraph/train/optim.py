"""Optimisers and schedulers by their torch names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import nn
from torch.optim import lr_scheduler

from kdgraph.errors import DataError, Span, near
from kdgraph.runtime.module import DistillModule
from kdgraph.spec.training import Group, Optimizer, Scheduler

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
    written: Optimizer,
    parameters: Mapping[str, nn.Parameter],
    span: Span | None = None,
    frozen: Collection[str] = (),
) -> torch.optim.Optimizer:
    """The optimiser as written. With ``groups`` its first group is of what is in none of them.

    Args:
        written: its class, arguments and groups.
        parameters: what it gets, by name, ``student.fc.weight`` or ``links.mid.weight``.
        frozen: names that a group may be of as well, though there is nothing to train.
        span: where it is written.

    Raises:
        DataError: KD712 for an unknown name or argument, a value that torch refuses, or a group
            that no parameter is in.
    """
    cls = _find("optimiser", written.use, OPTIMIZERS, span)
    arguments = _tuples(written.arguments)
    _check_arguments(cls, arguments, span)
    left = dict(parameters)
    groups = []
    for group in written.groups:
        own = _tuples(group.arguments)
        _check_arguments(cls, own, span)
        found = [n for n in left if _is_in(group, n)]
        if not found and not any(_is_in(group, n) for n in frozen):
            raise DataError.of(
                "KD712",
                f"no trained parameter is called {' or '.join(map(repr, group.params))}",
                span=span,
                help=near(group.params[0], left),
            )
        groups.append({"params": [left.pop(n) for n in found], **own})
    rest: list[Any] = list(left.values())
    given = [{"params": rest}, *groups] if groups else rest
    return cast(torch.optim.Optimizer, _built(cls, given, arguments, span))


def _is_in(group: Group, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in group.params)


def join(optimizer: torch.optim.Optimizer, written: Optimizer, step: DistillModule) -> None:
    """Puts what can be trained since the optimiser was built into the group it is written in."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in trained_parameters(step).items():
        if id(parameter) not in known:
            places = [i for i, group in enumerate(written.groups, 1) if _is_in(group, name)]
            optimizer.param_groups[places[0] if places else 0]["params"].append(parameter)


def frozen_names(step: DistillModule) -> set[str]:
    """The names of what is not trained now."""
    return named(step).keys() - trained_parameters(step).keys()


def trained_parameters(step: DistillModule) -> dict[str, nn.Parameter]:
    """What an optimiser gets, by the names that ``groups`` know; frozen parameters are left out.

    Those that only wait for the turn of their model are in: without a gradient they rest, and so
    do their moments.
    """
    waiting = {id(p) for p in step.stages.waiting()} if step.stages else set()
    found = named(step)
    return {n: p for n, p in found.items() if p.requires_grad or id(p) in waiting}


def by_model(step: DistillModule, student: str) -> list[list[nn.Parameter]]:
    """What is trained, each model's by itself; adapters and parts of losses with the student's."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in trained_parameters(step).items():
        model = name.partition(".")[0]
        found.setdefault(model if model in step.models else student, []).append(parameter)
    return list(found.values())


def only_gradients_of(parts: Sequence[Sequence[nn.Parameter]]) -> Iterator[None]:
    """Hides all gradients but those of one part, for each part in turn; at the end all are back.

    What clips, as Lightning does, takes all that an optimiser has a gradient of.
    """
    grads = {p: p.grad for part in parts for p in part}
    for part in parts:
        for p in grads:
            p.grad = None
        for p in part:
            p.grad = grads[p]
        yield
    for p, grad in grads.items():
        p.grad = grad


def state_of(optimizer: torch.optim.Optimizer, step: DistillModule) -> dict[str, Any]:
    """The state of an optimiser with the names of its parameters.

    They are kept since an action may give a parameter another place among the others: an
    optimiser that is built afterwards has them in another order.
    """
    names = {id(p): name for name, p in named(step).items()}
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    return {**optimizer.state_dict(), "names": groups}


def restore(
    optimizer: torch.optim.Optimizer, step: DistillModule, state: Mapping[str, Any]
) -> None:
    """Goes on from ``state_of``, with the groups as they were."""
    found = named(step)
    for group, names in zip(optimizer.param_groups, state["names"], strict=True):
        group["params"] = [found[name] for name in names]
    optimizer.load_state_dict({key: state[key] for key in ("state", "param_groups")})


def named(step: DistillModule) -> dict[str, nn.Parameter]:
    """All parameters, frozen or not, by the names that ``groups`` know."""
    found: dict[str, nn.Parameter] = {}
    for name, parameter in step.named_parameters():
        part, _, rest = name.partition(".")
        plain = {"models": rest, "adapters": f"links.{rest}"}.get(part, name)
        # a quantised weight goes by the name that it has in the plain model
        found[re.sub(r"\.parametrizations\.(\w+)\.original$", r".\1", plain)] = parameter
    return found


def _tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples, which torch wants of pairs such as betas."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}


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
    except ZeroDivisionError as error:  # OneCycleLR, where its first phase has one step
        given = ", ".join(f"{name}={value}" for name, value in arguments.items())
        message = f"{cls.__name__}({given}) divides by zero"
        raise DataError.of("KD712", message, span=span, help="change one of them") from error
