"""The numbers that a spec steers, as they are now; and which edges are of the labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor, optim

from kdgraph.runtime.module import DistillModule
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import schedules
from kdgraph.spec.steer import Schedule


def weights(step: DistillModule, edges: Collection[str]) -> dict[str, float]:
    """The weight of each edge at the present progress; one that a signal gives is left out."""
    found: dict[str, float] = {}
    for name in edges:
        value = _number(step.spec.losses[name].weight, step)
        if value is not None:
            found[name] = value
    return found


def figures(step: DistillModule, losses: Mapping[str, float]) -> dict[str, float]:
    """``weight/EDGE``, ``weighted/EDGE`` and ``steered/losses.EDGE.tau`` at the present progress.

    Args:
        step: knows the progress.
        losses: the unweighted value of each edge of the last step.
    """
    now = weights(step, losses)
    found = {f"weight/{name}": value for name, value in now.items()}
    found |= {f"weighted/{name}": value * losses[name] for name, value in now.items()}
    for name, schedule in schedules(step.spec, weights=False):
        value = _number(schedule, step)
        assert value is not None
        found[f"steered/{name}"] = value
    return found


def rates(optimizer: optim.Optimizer) -> dict[str, float]:
    """``lr`` of the first group of parameters, and ``lr/2`` and so on of others."""
    groups = enumerate(optimizer.param_groups, 1)
    return {f"lr/{at}" if at > 1 else "lr": _plain(group["lr"]) for at, group in groups}


def label_edges(spec: Spec, model: str, target: str, booked: Collection[str]) -> list[str]:
    """The edges that read the labels and the student, and nothing of a teacher.

    Args:
        spec: of the run.
        model: the student.
        target: the batch entry with the labels.
        booked: batch entries that a book gives: what teachers say.
    """
    taps = {f"{model}.{tap}" for tap in spec.models[model].taps}
    own = taps | (spec.batch.keys() - set(booked))
    found = []
    for name, edge in spec.losses.items():
        read = {leaf for _, ref in edge.references() for leaf in _leaves(spec, ref)}
        if target in read and read & taps and read <= own:
            found.append(name)
    return found


def _leaves(spec: Spec, ref: str) -> Iterator[str]:
    """The taps and batch entries behind a reference."""
    if ref in spec.signals:
        for _, inner in spec.signals[ref].references():
            yield from _leaves(spec, inner)
    else:
        yield ref


def _number(value: object, step: DistillModule) -> float | None:
    if isinstance(value, Schedule):
        return value.at(epoch=step.steer.epoch, iteration=step.steer.iteration)
    return float(value) if isinstance(value, int | float) else None


def _plain(rate: float | Tensor) -> float:
    return float(rate)
