from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.visual import python


def load(text: str, path: Path) -> ModuleType:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("graph", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same_as_compiled(step: kdgraph.DistillModule, path: Path, batch: dict[str, Tensor]) -> None:
    made = load(python(step.report), path).DistillStep(step.report.graph.root)
    with torch.no_grad():
        expected, found = step.eval()(**batch), made.eval()(**batch)
    torch.testing.assert_close(found["loss"], expected.loss, rtol=0, atol=0)
    assert found["losses"].keys() == expected.losses.keys()
    assert found["outputs"].keys() == expected.outputs.keys()


def test_runs_as_the_compiled_module(text: str, tmp_path: Path) -> None:
    step = kdgraph.compile(text)
    batch = {"image": torch.randn(4, 3, 16, 16), "label": torch.tensor([1, 2, 3, 4])}
    same_as_compiled(step, tmp_path / "graph.py", batch)


def test_says_what_each_part_is(report: kdgraph.runtime.report.Report) -> None:
    lines = [line.strip() for line in python(report).splitlines()]
    assert "# teacher: cifar/resnet14, frozen" in lines
    assert "# student: cifar/resnet8, trained" in lines
    assert "# adapters.mid: conv1x1" in lines
    assert "# losses.hint: hint, weight linear 1 to 0" in lines
    assert any(line.endswith("# [B, 8, 8, 8]  student.mid") for line in lines)


class Odd(nn.Module):
    """Uses functions of many homes, and a name that Python has."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)
        self.register_buffer("shift", torch.ones(5))

    def forward(self, image: Tensor) -> Tensor:
        mid = torch.nn.functional.gelu(self.body(image.flatten(1))) + self.shift
        mid = torch.where(mid > 0, mid, torch.full_like(mid, -float("inf")).clamp(min=-2.0))
        mid = mid.to(torch.float32) * torch.arange(5, device=mid.device)
        return self.head(mid[:, :])


def test_functions_of_many_homes(tmp_path: Path) -> None:
    text = (
        """
kdgraph: 1
name: 'odd """
        + '"""'
        + """ name'
batch: {image: {shape: [B, 6]}, label: {shape: [B], dtype: int64, classes: 3}}
models: {student: {taps: {mid: body, logits: output}}}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
"""
    )
    step = kdgraph.compile(text, models={"student": Odd()})
    batch = {"image": torch.randn(4, 6), "label": torch.tensor([0, 1, 2, 0])}
    same_as_compiled(step, tmp_path / "graph.py", batch)


def test_an_exported_model(tmp_path: Path) -> None:
    class Branching(Odd):
        def forward(self, image: Tensor) -> Tensor:
            mid = self.body(image)
            if mid.shape[0] > 1 and mid.sum() is not None:
                mid = nn.functional.relu(mid)
            return self.head(mid)

    text = """
kdgraph: 1
name: branching
batch: {image: {shape: [B, 6]}, label: {shape: [B], dtype: int64, classes: 3}}
models: {student: {taps: {mid: body, logits: output}}}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
"""
    step = kdgraph.compile(text, models={"student": Branching()})
    if step.report.captures["student"].rung == "fx":
        pytest.fail("this model was meant to need another rung")
    batch = {"image": torch.randn(4, 6), "label": torch.tensor([0, 1, 2, 0])}
    same_as_compiled(step, tmp_path / "graph.py", batch)
    assert "graph" not in sys.modules
