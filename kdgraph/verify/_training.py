"""Some steps of training, as a loop of one's own would do them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from kdgraph.runtime.module import DistillModule
from kdgraph.spec.training import Optimizer
from kdgraph.train.optim import build_optimizer, frozen_names, trained_parameters
from kdgraph.verify._compare import SEED, TOTAL, kept
from kdgraph.verify._subject import Subject

_OTHERWISE = Optimizer.model_validate({"use": "AdamW", "lr": 1e-3})


def optimizer_of(subject: Subject, step: DistillModule) -> torch.optim.Optimizer:
    """As the spec says, for the first of its stages; AdamW where it says none."""
    spec = subject.spec
    own = [stage.optimizer for stage in spec.stages[:1]]
    own += [spec.train.optimizer] if spec.train is not None else []
    written = next((found for found in own if found is not None), _OTHERWISE)
    return build_optimizer(
        written, trained_parameters(step), spec.span("train", "optimizer"), frozen_names(step)
    )


def trained(
    subject: Subject, step: DistillModule, optimizer: torch.optim.Optimizer, steps: Iterable[int]
) -> dict[str, Tensor]:
    """Does the steps of these numbers; gives the total loss of each."""
    found = {}
    for number in steps:
        torch.manual_seed(SEED + number)
        optimizer.zero_grad()
        loss = step(**subject.batch(number)).loss
        loss.backward()
        optimizer.step()
        found[f"{TOTAL} of step {number + 1}"] = kept(loss)
    return found
