"""Frozen models before training = after it, bit for bit; no gradient reaches them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from kdgraph.runtime.module import DistillModule
from kdgraph.spec.calls import plain
from kdgraph.verify._compare import gap, kept
from kdgraph.verify._subject import Subject
from kdgraph.verify._training import optimizer_of, trained
from kdgraph.verify.base import Finding, NotApplicable, register_check

STEPS = 2


@register_check("teacher")
def run(subject: Subject) -> Finding:
    """Every parameter and buffer of every frozen model."""
    subject = subject.single()
    step = subject.step()
    frozen = [name for name in step.spec.networks if not step.spec.is_trainable(name)]
    if not frozen:
        raise NotApplicable("no model of this spec is frozen")
    before = _tensors(step, frozen)
    trained(subject, step, optimizer_of(subject, step), range(STEPS))
    gaps = {"weights": gap(_tensors(step, frozen), before)}
    gaps["gradients"] = gap(_reached(subject, step, frozen), {})
    return Finding(
        f"{', '.join(frozen)} before = after {STEPS} steps", gaps, 0.0, ("in train mode",)
    )


def _tensors(step: DistillModule, frozen: list[str]) -> dict[str, Tensor]:
    """Parameters and buffers, by their names."""
    return {
        f"{name}.{key}": kept(value)
        for name in frozen
        for key, value in step.report.captures[name].root.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor)
    }


def _reached(subject: Subject, step: DistillModule, frozen: list[str]) -> Mapping[str, Tensor]:
    """Gradients of frozen models; a tap that takes part in the backward is one of them."""
    found = {}
    for name in frozen:
        for key, parameter in step.report.captures[name].root.named_parameters():
            if parameter.grad is not None:
                found[f"{name}.{key}"] = kept(parameter.grad)
    for reference, value in step(**subject.batch()).outputs.items():
        model = plain(reference).partition(".")[0]
        if step.spec.network(model) in frozen and value.requires_grad:
            found[reference] = kept(value.abs().max().clamp(min=1))
    return found
