"""A compiled step under Accelerate: what docs/embedding.md says of its accumulation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

import kdgraph

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "vectors",
    "batch": {"x": {"shape": ["B", 4]}, "label": {"shape": ["B"], "dtype": "int64", "classes": 3}},
    "models": {"student": {"taps": {"logits": "output"}}},
    "losses": {"label": {"use": "cross_entropy", "student": "student.logits", "target": "label"}},
}


def trained(cuts: list[int], size: int) -> dict[str, torch.Tensor]:
    """The student after one step on seven rows, two without a label, cut in batches.

    Where there are fewer than ``size``, they are the last of an epoch.
    """
    torch.manual_seed(1)
    x, label = torch.randn(7, 4), torch.tensor([-100, -100, 1, 2, 0, 1, 1])
    batches = [{"x": a, "label": b} for a, b in zip(x.split(cuts), label.split(cuts), strict=True)]
    step = kdgraph.compile(SPEC, models={"student": nn.Linear(4, 3)})
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=size)
    optimizer = torch.optim.SGD(step.parameters(), lr=0.5)
    loader: Any = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]  # a list will do
    model, optimizer, loader = accelerator.prepare(step, optimizer, loader)
    with step.window(batches, averaged=accelerator.gradient_accumulation_steps):
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
    return {name: value.detach() for name, value in step.student.named_parameters()}


@pytest.mark.parametrize("size", [3, 4])
def test_a_window_inside_accumulate_is_one_large_batch(size: int) -> None:
    whole = trained([7], 1)
    for name, value in trained([3, 2, 2], size).items():
        torch.testing.assert_close(value, whole[name], msg=name)
