from __future__ import annotations

from typing import Any

import pytest

import kdgraph
from kdgraph.compiler import plans
from kdgraph.visual.advice import advise_of_plan
from kdgraph.visual.costs import costs

REST = """
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  alike: {use: similarity, student: student.layer2, teacher: teacher.layer2}
"""


def test_a_relation_within_one_row(say: Any) -> None:
    (found,) = say("one_row", REST, rows=1)
    assert found.code == "KD605"
    assert "'alike' (similarity) compares the rows of a batch" in found.message
    assert found.span.line == 13


@pytest.mark.parametrize("rows", [2, None])
def test_more_rows_are_fine(say: Any, rows: int | None) -> None:
    assert say("one_row", REST, rows=rows) == []


def test_a_loss_of_each_row_is_fine(say: Any) -> None:
    rest = REST.replace("use: similarity", "use: attention_transfer")
    assert say("one_row", rest, rows=1) == []


SPEC = """
kdgraph: 1
name: one
batch:
  image: {shape: [B, 1, 8, 8]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher: {source: cifar/resnet14, args: {in_channels: 1}, taps: {late: layer3}}
  student: {source: cifar/resnet8, args: {in_channels: 1}, taps: {late: layer3, logits: output}}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  alike: {use: relation, student: student.late, teacher: teacher.late}
data: {use: digits, batch_size: SIZE}
"""


def test_check_knows_the_batch_size() -> None:
    (found,) = kdgraph.check(SPEC.replace("SIZE", "1"))
    assert (found.code, found.severity) == ("KD605", "warning")
    assert kdgraph.check(SPEC.replace("SIZE", "2")) == []
    (found,) = kdgraph.check(SPEC.replace("SIZE", "2").replace("[B", "[1"))
    assert found.code == "KD605"


STAGES = "stages: [{name: a, epochs: 1, batch_size: FIRST}, {name: b, epochs: 1}]\n"


@pytest.mark.parametrize(("whole", "first"), [(1, 8), (8, 1)])
def test_a_stage_has_a_batch_of_its_own(whole: int, first: int) -> None:
    text = SPEC.replace("SIZE", str(whole)) + STAGES.replace("FIRST", str(first))
    told = {report.spec.leg: [d.code for d in advise_of_plan(report)] for report in plans(text)}
    assert told == {"a": ["KD605"][first - 1 :], "b": ["KD605"][whole - 1 :]}
    found = costs(kdgraph.plan(text, stage="a"))
    assert (found["batch"], found["batch_from"]) == (first, "batch_size of stage 'a'")
    assert costs(kdgraph.plan(text, stage="b"))["batch_from"] == "data.batch_size"
