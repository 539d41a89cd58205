"""A compiled step under Accelerate: what docs/embedding.md says of its accumulation."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

import kdgraph

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "vectors",
    "batch": {"x": {"shape": ["B", 4]}, "label": {"shape": ["B"], "dtype": "int64", "classes": 3}},
    "models": {"student": {"taps": {"logits": "output"}}},
    "losses": {"label": {"use": "cross_entropy", "student": "student.logits", "target": "label"}},
}


def trained(cuts: list[int], **settings: Any) -> dict[str, torch.Tensor]:
    """The student after one step on seven rows, two without a label, cut in batches."""
    torch.manual_seed(1)
    x, label = torch.randn(7, 4), torch.tensor([-100, -100, 1, 2, 0, 1, 1])
    batches = [{"x": a, "label": b} for a, b in zip(x.split(cuts), label.split(cuts), strict=True)]
    step = kdgraph.compile(SPEC, models={"student": nn.Linear(4, 3)})
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=len(cuts))
    optimizer = torch.optim.SGD(step.parameters(), lr=0.5)
    model, optimizer = accelerator.prepare(step, optimizer)
    with step.window(batches, averaged=True):
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
    return {name: value.detach() for name, value in step.student.named_parameters()}


def test_a_window_inside_accumulate_is_one_large_batch() -> None:
    whole = trained([7])
    for name, value in trained([3, 2, 2]).items():
        torch.testing.assert_close(value, whole[name], msg=name)
