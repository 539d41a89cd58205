"""Training resumed from a file = uninterrupted, bit for bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdgraph.runtime.module import DistillModule
from kdgraph.spec.legs import schedules
from kdgraph.verify._compare import gap, kept
from kdgraph.verify._subject import Subject
from kdgraph.verify._training import optimizer_of, trained
from kdgraph.verify.base import Finding, register_check

STEPS = 4
_HALF = STEPS // 2


@register_check("resume")
def run(subject: Subject) -> Finding:
    """Some steps with the optimiser; half way a fresh compilation loads the state of both."""
    subject = subject.single()
    step = subject.step()
    optimizer = optimizer_of(subject, step)
    epoch = _middle(subject)
    step.set_progress(epoch=epoch, iteration=_HALF)
    trained(subject, step, optimizer, range(_HALF))
    with tempfile.TemporaryDirectory(prefix="kdgraph-verify-") as folder:
        file = Path(folder) / "checkpoint.pt"
        torch.save({"step": step.state_dict(), "optimizer": optimizer.state_dict()}, file)
        state = torch.load(file, weights_only=True)
    rest = range(_HALF, STEPS)
    losses = trained(subject, step, optimizer, rest)
    fresh = subject.step()
    fresh.load_state_dict(state["step"])
    restored = optimizer_of(subject, fresh)
    restored.load_state_dict(state["optimizer"])
    again = trained(subject, fresh, restored, rest)
    return Finding(
        f"{STEPS} steps = {_HALF}, a file, a fresh compilation, {STEPS - _HALF}",
        {
            "loss": gap(again, losses),
            "weights": gap(_state(fresh), _state(step)),
        },
        0.0,
        (f"in train mode and float32, at epoch {epoch:g}",),
    )


def _middle(subject: Subject) -> float:
    """An epoch at which every schedule of epochs has left its start."""
    ends = [getattr(schedule, "epochs", None) for _, schedule in schedules(subject.spec)]
    return max(((end[0] + end[-1]) / 2 for end in ends if end), default=1.0)


def _state(step: DistillModule) -> dict[str, Tensor]:
    """All that a checkpoint holds; the course of stages by what it says, not by its bytes."""
    state: dict[str, Any] = step.state_dict()
    found = {n: kept(v) for n, v in state.items() if isinstance(v, Tensor) and n != _COURSE}
    if step.stages is not None:
        course = repr((step.stages.leg, step.stages.log, step.stages.visited)).encode()
        found[_COURSE] = torch.tensor(list(course), dtype=torch.float64)
    return found


_COURSE = "stages._extra_state"
