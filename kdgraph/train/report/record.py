"""The curves of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch


class Record:
    """Figures by name, each at the steps of the optimiser at which it was noted.

    A checkpoint holds it, so that a run that is resumed has the curves of one that never stopped.

    Attributes:
        curves: steps and values by name.
        marks: the stages, each with the number of steps before it.
        notes: what could not be found out, and why.
    """

    def __init__(self) -> None:
        self.curves: dict[str, tuple[list[int], list[float]]] = {}
        self.marks: list[tuple[int, str]] = []
        self.notes: list[str] = []

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Notes some values at a step."""
        for name, value in values.items():
            steps, found = self.curves.setdefault(name, ([], []))
            steps.append(step)
            found.append(float(value))

    def note(self, text: str) -> None:
        """Says once what could not be found out."""
        if text not in self.notes:
            self.notes.append(text)

    def mark(self, step: int, stage: str) -> None:
        """Notes that a stage begins, if it is another one than before."""
        if not self.marks or self.marks[-1][1] != stage:
            self.marks.append((step, stage))

    def state(self) -> dict[str, Any]:
        """For a checkpoint: numbers as tensors, which are small and quickly read."""
        curves = {
            name: (torch.tensor(steps), torch.tensor(values, dtype=torch.float64))
            for name, (steps, values) in self.curves.items()
        }
        return {"curves": curves, "marks": list(self.marks), "notes": list(self.notes)}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self.curves = {
            name: (steps.tolist(), values.tolist())
            for name, (steps, values) in state["curves"].items()
        }
        self.marks = [(step, stage) for step, stage in state["marks"]]
        self.notes = list(state["notes"])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "curves": {
                name: {"steps": steps, "values": finite(values)}
                for name, (steps, values) in self.curves.items()
            },
            "stages": [{"name": stage, "after_steps": step} for step, stage in self.marks],
            "notes": self.notes,
        }


def finite(value: Any) -> Any:
    """A copy for JSON, which has no nan: what is no finite number is None."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
