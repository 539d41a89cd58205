"""The comparison: what counts as different, and what is left behind then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.errors import ExportError
from kdgraph.exporter._check import _gap
from kdgraph.exporter._inputs import make_inputs
from kdgraph.exporter._outputs import by_name, plain
from kdgraph.exporter._student import take_student
from kdgraph.exporter.base import Run, Student
from kdgraph.exporter.pt2 import PT2

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "alone",
    "batch": {
        "words": {"shape": ["B", "L"], "dtype": "int32"},
        "keep": {"shape": ["B", "L"], "dtype": "int64"},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 5},
        "lengths": {"shape": ["B"], "dtype": "int64"},
    },
    "models": {
        m: {
            "taps": {"logits": "output"},
            "input": {"words": "words", "keep": "keep", "label": "label", "lengths": "lengths"},
        }
        for m in ("teacher", "student")
    },
    "losses": {"l": {"use": "logit_mse", "student": "student.logits", "teacher": "teacher.logits"}},
}


class Reader(nn.Module):
    """Looks words and labels up; places that are kept have to be there."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.labels = nn.Embedding(9, 4), nn.Embedding(5, 4)

    def forward(self, words: Tensor, keep: Tensor, label: Tensor, lengths: Tensor) -> Tensor:
        mean = (self.words(words.long()) * keep.unsqueeze(2)).sum(1) / keep.sum(1, keepdim=True)
        result: Tensor = mean + self.labels(label) + lengths.unsqueeze(1)
        return result


def test_integers_are_drawn_from_what_is_looked_up() -> None:
    student = take_student(kdgraph.load_spec(SPEC), Reader(), ())
    assert student.vocabularies["words"] == 9
    inputs = make_inputs(student, {"B": 200, "L": 6})
    assert inputs["words"].unique().tolist() == list(range(9))
    assert inputs["words"].dtype == torch.int32
    assert inputs["label"].unique().tolist() == list(range(5))
    assert inputs["lengths"].unique().tolist() == [1]
    kept = inputs["keep"]
    assert kept[:, 0].all()
    assert torch.equal(kept, kept.cummin(1).values)  # 1 and then 0
    assert kept.sum(1).unique().tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("got", "wanted", "gap", "share"),
    [
        ([1.0, 2.0], [1.0, 4.0], 2.0, 0.5),
        ([0.5, 0.0], [0.0, 0.0], 0.5, 0.5),
        ([math.inf, 1.0], [math.inf, 1.0], 0.0, 0.0),
        ([math.nan, 1.0], [math.nan, 1.0], 0.0, 0.0),
        ([0.0, 1.0], [math.nan, 1.0], math.inf, math.inf),
        ([math.nan, 1.0], [0.0, 1.0], math.inf, math.inf),
        ([-math.inf, 1.0], [math.inf, 1.0], math.inf, math.inf),
        ([math.nan], [math.nan], 0.0, 0.0),
    ],
)
def test_gap(got: list[float], wanted: list[float], gap: float, share: float) -> None:
    assert _gap(torch.tensor(got), torch.tensor(wanted)) == (gap, share)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda result: result * 1.001, "differs by 1.0e-03"),
        (lambda result: result[:1], "has the shape"),
        (lambda result: {"other": result}, "it gives other, not output"),
        (lambda result: result.nonsense, "cannot run it"),
    ],
)
def test_another_result_leaves_nothing_behind(
    change: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = PT2.read

    def changed(self: PT2, path: Path, student: Student) -> tuple[Run, list[str]]:
        run, notes = read(self, path, student)

        def other(inputs: Mapping[str, Tensor]) -> Any:
            return change(run(inputs))

        return other, notes

    monkeypatch.setattr(PT2, "read", changed)
    out = tmp_path / "s.pt2"
    out.write_text("an older one")
    spec = {**SPEC, "batch": {"x": {"shape": ["B", 4]}}}
    spec["models"] = {m: {"taps": {"logits": "output"}} for m in ("teacher", "student")}
    with pytest.raises(ExportError, match=said) as caught:
        kdgraph.export(spec, nn.Linear(4, 3), out)
    assert caught.value.diagnostics[0].code == "KD782"
    assert [file.name for file in tmp_path.iterdir()] == ["s.pt2"]
    assert out.read_text() == "an older one"


def test_outputs_by_name() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    assert plain(one) is one
    assert by_name(one) == {"output": one}
    assert list(by_name(plain((one, [two, one])))) == ["output.0", "output.1.0", "output.1.1"]
    assert list(by_name(plain({"a": one, "b": {"c": (two,)}}))) == ["a", "b.c.0"]
    assert list(by_name(plain({"output": {"a": one}, "a": two}))) == ["output.a", "a"]
    assert plain({"a": None, "b": [None, {}]}) is None
