from __future__ import annotations

from typing import Any

import pytest

REST = """
losses:
  label: {use: cross_entropy, student: student.logits, target: label, smoothing: 0.1}
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits, weight: 0.9}
"""


def test_smoothing_and_a_soft_target(say: Any) -> None:
    (found,) = say("smoothing", REST)
    assert found.code == "KD604"
    assert found.message.startswith("'label' smooths its labels by 0.1, and 'soft' gives")
    assert found.span.excerpt[found.span.column - 1 :].startswith("0.1}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("smoothing: 0.1", "smoothing: 0"),
        ("weight: 0.9", "weight: 0"),
        ("soft_target", "logit_mse"),
        ("student: student.logits, teacher", "student: student.layer2, teacher"),
    ],
)
def test_one_without_the_other_is_fine(say: Any, old: str, new: str) -> None:
    rest = REST.replace(old, new)
    if "layer2" in new:
        rest = rest.replace("soft_target", "similarity").replace("teacher.logits", "teacher.layer2")
    assert say("smoothing", rest) == []


def test_a_target_without_a_teacher_is_fine(say: Any) -> None:
    rest = REST.replace("soft_target", "soft_cross_entropy")
    rest = rest.replace("teacher: teacher.logits", "target: made")
    made = "signals:\n  made: {use: virtual_teacher, label: label, like: student.logits}\n"
    assert say("smoothing", made + rest) == []
    made = "signals:\n  made: {use: probabilities, of: teacher.logits}\n"
    assert len(say("smoothing", made + rest)) == 1
