"""What a student holds beside its weights, and what its code does to that and to its inputs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import kdgraph
from kdgraph.errors import ExportError, KDGraphError
from tests.export.test_formats import ROWS, session, spec

needs_onnx = pytest.mark.skipif(not find_spec("onnxscript"), reason="needs onnxscript")


class Counts(nn.Module):
    """Counts how often it was run, in a buffer that is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("runs", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        result: Tensor = self.head(x) * self.runs
        return result


def test_what_it_counts_is_as_training_left_it(tmp_path: Path) -> None:
    student = Counts()
    student(torch.ones(2, 4))
    kdgraph.export(spec(ROWS), student, tmp_path / "s.safetensors")
    assert load_file(tmp_path / "s.safetensors")["runs"] == 1
    kdgraph.export(spec(ROWS), student, tmp_path / "s.pt2")
    result = torch.export.load(tmp_path / "s.pt2").module()(torch.ones(2, 4))
    torch.testing.assert_close(result, student.head(torch.ones(2, 4)) * 2)


class Keeps(nn.Linear):
    """Makes a table when it is first run, and looks it up from then on."""

    def __init__(self, table: dict[int, Tensor] | None) -> None:
        super().__init__(4, 3)
        self.table = table
        self.shift: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is not None:
            shift = self.table.setdefault(x.shape[1], torch.arange(3.0))
        else:
            if self.shift is None:
                self.shift = torch.arange(3.0)
            shift = self.shift
        return super().forward(x) + shift


@pytest.mark.parametrize("table", [{}, None], ids=["in a dict", "in an attribute"])
def test_what_code_keeps_from_run_to_run(table: dict[int, Tensor] | None, tmp_path: Path) -> None:
    student = Keeps(table)
    kdgraph.export(spec(ROWS), student, tmp_path / "s.pt2")
    assert not student.table
    assert student.shift is None
    result = torch.export.load(tmp_path / "s.pt2").module()(torch.ones(2, 4))
    torch.testing.assert_close(result, student(torch.ones(2, 4)))


class Scales(nn.Linear):
    """Changes what it is given in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2))


@pytest.mark.parametrize("form", [".safetensors", ".pt2", pytest.param(".onnx", marks=needs_onnx)])
def test_code_that_writes_to_its_input(form: str, tmp_path: Path) -> None:
    told = kdgraph.export(spec(ROWS), Scales(4, 3), tmp_path / f"s{form}")
    assert told.relative < 1e-6


SHIFTED = """
import torch
from torch import nn

class Shifted(nn.Linear):
    def __init__(self, random):
        super().__init__(4, 3)
        shift = torch.rand(3) if random else torch.arange(3.0)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, x):
        return super().forward(x) + self.shift
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of one network, with a buffer that is in no checkpoint."""
    name = "net_of_export_tests"
    (tmp_path / f"{name}.py").write_text(SHIFTED)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_buffer_that_no_checkpoint_holds(source: str, tmp_path: Path) -> None:
    def student(random: bool) -> dict[str, Any]:
        named = {"source": f"python/{source}:Shifted", "args": {"random": random}}
        return spec(ROWS, **named)

    step = kdgraph.compile(student(False), trust=[source], models={"teacher": nn.Linear(4, 3)})
    torch.save(step.state_dict(), tmp_path / "s.pt")
    kdgraph.export(student(False), tmp_path / "s.pt", tmp_path / "s.pt2", trust=[source])
    result = torch.export.load(tmp_path / "s.pt2").module()(torch.ones(2, 4))
    torch.testing.assert_close(result, step.student(torch.ones(2, 4)))
    with pytest.raises(KDGraphError, match="its buffer 'shift' is random") as caught:
        kdgraph.export(student(True), tmp_path / "s.pt", tmp_path / "other.pt2", trust=[source])
    assert caught.value.diagnostics[0].code == "KD410"
    assert not (tmp_path / "other.pt2").exists()


class Named(nn.Module):
    """Results named as a weight, and as what torch calls a value within."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, 3.0, 4.0, 5.0]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        centred = x - x.mean(1, keepdim=True)
        return {"scale": (centred * self.scale).sum(1), "mean": x * 2}


class Echo(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x * 2}


@needs_onnx
def test_onnx_results_of_names_that_torch_has_given(tmp_path: Path) -> None:
    x = torch.arange(8.0).view(2, 4) ** 2
    kdgraph.export(spec(ROWS), Named(), tmp_path / "s.onnx")
    scale, mean = session(tmp_path / "s.onnx").run(["scale", "mean"], {"x": x.numpy()})
    expected = ((x - x.mean(1, keepdim=True)) * torch.tensor([2.0, 3.0, 4.0, 5.0])).sum(1)
    assert scale.tolist() == pytest.approx(expected.tolist())
    assert mean.tolist() == (x * 2).tolist()


@needs_onnx
def test_onnx_has_one_name_for_what_is_taken_and_given(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"KD781.*takes and gives 'x'"):
        kdgraph.export(spec(ROWS), Echo(), tmp_path / "s.onnx")
    kdgraph.export(spec(ROWS), Echo(), tmp_path / "s.pt2")
