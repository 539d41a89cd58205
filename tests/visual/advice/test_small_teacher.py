from __future__ import annotations

from typing import Any

import kdgraph
from kdgraph.models.load import build_model
from kdgraph.visual.advice import ADVICE, Sight

REST = """
losses:
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits}
"""


HEAD = """
kdgraph: 1
name: pair
batch: {image: {shape: [B, 3, 16, 16]}}
models:
  teacher: {source: cifar/resnet8, args: {width: 0.25}, taps: {logits: output}}
  other: {source: cifar/resnet8, args: {width: 0.25}, taps: {logits: output}}
  student: {source: cifar/STUDENT, args: {width: 0.25}, taps: {logits: output}}
signals:
  both: {use: ensemble, of: [teacher.logits, other.logits]}
losses:
  soft: {use: soft_target, student: student.logits, teacher: both, tau: 4}
"""


def told(text: str) -> list[str]:
    return [d.message for d in ADVICE.get("small_teacher").run(Sight(kdgraph.plan(text)))]


def test_a_teacher_smaller_than_its_student(say: Any) -> None:
    head = HEAD.partition("  other:")[0] + (
        "  student: {source: cifar/resnet14, args: {width: 0.25}, taps: {logits: output}}"
    )
    (found,) = say("small_teacher", REST, head=head)
    assert found.code == "KD606"
    small, large = (
        sum(p.numel() for p in build_model(f"cifar/{name}", {"width": 0.25}).parameters())
        for name in ("resnet8", "resnet14")
    )
    assert found.message == (
        f"teacher 'teacher' has {small:,} parameters, student 'student' {large:,}"
    )
    assert found.span.line == 6
    assert "arXiv 1909.11723" in found.help


def test_a_larger_teacher_or_an_equal_one_is_fine(say: Any) -> None:
    assert say("small_teacher", REST) == []
    head = HEAD.partition("  other:")[0] + (
        "  student: {source: cifar/resnet8, args: {width: 0.25}, taps: {logits: output}}"
    )
    assert say("small_teacher", REST, head=head) == []


def test_several_count_together() -> None:
    (message,) = told(HEAD.replace("STUDENT", "resnet14"))
    assert message.startswith("teachers 'teacher' and 'other' have ")
    assert told(HEAD.replace("STUDENT", "resnet8")) == []


def test_what_only_weighs_rows_is_no_teacher() -> None:
    text = HEAD.replace("STUDENT", "resnet14").replace("cifar/resnet8", "cifar/resnet20", 1)
    text = text.replace("teacher: both, tau: 4", "teacher: teacher.logits, weight: sure")
    text = text.replace("both: {use: ensemble", "sure: {use: certainty")
    text = text.replace("[teacher.logits, other.logits]", "other.logits")
    assert told(text) == []
    assert len(told(text.replace("teacher: teacher.logits", "teacher: other.logits"))) == 1
