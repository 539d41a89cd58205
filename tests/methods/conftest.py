"""Shipped specs over models that hand on the logits they are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import kdgraph

SPECS = Path(__file__).parents[2] / "specs" / "methods"

Shipped = Callable[..., kdgraph.DistillModule]


class Given(nn.Module):
    """Hands logits on, plus an offset for each class that can be trained."""

    def __init__(self, classes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(classes, dtype=dtype))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.offset


@pytest.fixture(scope="session")
def shipped() -> Shipped:
    """``shipped("gslr", "losses.soft.tau=2")``: signals and losses as they ship, but for ``set``.

    The batch holds ``z_s`` for the student, ``z_t`` for the teacher if there is one, and
    ``label``. The gradient of ``models.student.offset`` is that of the logits, summed over the
    batch.
    """

    def compiled(
        name: str, *changes: str, classes: int = 3, dtype: torch.dtype = torch.float64
    ) -> kdgraph.DistillModule:
        text = yaml.safe_load((SPECS / f"{name}.yaml").read_text())
        logits = {"shape": ["B", classes], "dtype": str(dtype).removeprefix("torch.")}
        label = {"shape": ["B"], "dtype": "int64", "classes": classes}
        entries = {model: f"z_{model[0]}" for model in text["models"]}
        spec: dict[str, Any] = {
            "kdgraph": 1,
            "name": name,
            "batch": {**dict.fromkeys(entries.values(), logits), "label": label},
            "models": {
                model: {"input": entry, "taps": text["models"][model]["taps"]}
                for model, entry in entries.items()
            },
            "signals": text.get("signals", {}),
            "losses": text["losses"],
        }
        models = {model: Given(classes, dtype) for model in entries}
        return kdgraph.compile(spec, models=models, set=changes)

    return compiled
