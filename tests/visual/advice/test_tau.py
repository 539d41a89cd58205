from __future__ import annotations

from typing import Any

import pytest

CHAIN = """
signals:
  target: {use: probabilities, of: teacher.logits, tau: 4}
  again: {use: logits, of: target, tau: BACK}
losses:
  soft: {use: USE, student: student.logits, SIDE, tau: TAU}
"""


def chain(use: str, side: str, tau: object, back: float = 1) -> str:
    text = CHAIN.replace("USE", use).replace("SIDE", side).replace("BACK", str(back))
    return text.replace("TAU", str(tau))


def test_a_tempered_target_and_a_student_that_is_not(say: Any) -> None:
    (found,) = say("tau", chain("soft_cross_entropy", "target: target", 1))
    assert found.code == "KD602"
    assert found.message == "'soft' has tau 1 on the student's side and 4 on the teacher's"
    assert found.span.excerpt[found.span.column - 1 :].startswith("1}")


def test_a_softmax_of_a_softmax(say: Any) -> None:
    (found,) = say("tau", chain("soft_target", "teacher: target", 4))
    assert "makes probabilities of them at tau 4, but 'target' holds probabilities" in found.message


def test_a_detached_softmax_is_one_too(say: Any) -> None:
    rest = chain("soft_target", "teacher: again", 4)
    rest = rest.replace("{use: logits, of: target, tau: 1}", "{use: detach, of: target}")
    (found,) = say("tau", rest)
    assert "but 'again' holds probabilities" in found.message


def test_a_target_that_is_tempered_twice(say: Any) -> None:
    (found,) = say("tau", chain("soft_target", "teacher: again", 4))
    assert found.message == "'soft' has tau 4 on the student's side and 16 on the teacher's"


def test_a_student_temperature_of_1(say: Any) -> None:
    edge = "losses:\n  soft: {use: soft_target, student: student.logits, teacher: teacher.logits, "
    (found,) = say("tau", f"{edge}tau: 4, tau_student: 1}}")
    assert found.message == "'soft' has tau 1 on the student's side and 4 on the teacher's"
    assert say("tau", f"{edge}tau: 4, tau_student: 2}}") == []  # tempered, if not alike
    assert say("tau", f"{edge}tau: {{linear: [4, 1], epochs: [0, 9]}}}}") == []
    moving = f"{edge}tau: {{linear: [4, 2], epochs: [0, 9]}}, tau_student: 1}}"
    assert "tau 1 on the student's side and 4 to 2" in say("tau", moving)[0].message


@pytest.mark.parametrize(
    "rest",
    [
        chain("soft_cross_entropy", "target: target", 4),
        chain("soft_target", "teacher: teacher.logits", 4),
        chain("soft_target", "teacher: again", 4, back=4),
        chain("soft_cross_entropy", "target: target", "{linear: [4, 1], epochs: [0, 9]}").replace(
            "tau: 4}", "tau: {linear: [4, 1], epochs: [0, 9]}}"
        ),
    ],
)
def test_one_temperature_on_both_sides_is_fine(say: Any, rest: str) -> None:
    assert say("tau", rest) == []


def test_what_is_more_than_a_temperature_is_left_alone(say: Any) -> None:
    rest = chain("soft_cross_entropy", "target: target", 1)
    assert say("tau", rest.replace("probabilities, of", "extract, of")) == []


BOOK = """
signals:
  both: {use: ensemble, of: [teacher.logits, teacher.logits], tau: 4}
  mean: {use: probabilities, of: both, tau: 4}
  page: {use: regularise, of: mean, by: 0.1}
losses:
  soft: {use: soft_cross_entropy, student: student.logits, target: page, tau: TAU}
"""


def test_an_ensemble_and_smoothing_hide_no_temperature(say: Any) -> None:
    (found,) = say("tau", BOOK.replace("TAU", "1"))
    assert found.message == "'soft' has tau 1 on the student's side and 4 on the teacher's"
    assert say("tau", BOOK.replace("TAU", "4")) == []


def test_members_of_other_temperatures_are_left_alone(say: Any) -> None:
    rest = BOOK.replace("TAU", "1").replace("[teacher.logits, t", "[sharp, t")
    rest = rest.replace(
        "signals:",
        "signals:\n  p: {use: probabilities, of: teacher.logits, tau: 2}"
        "\n  sharp: {use: logits, of: p}",
    )
    assert say("tau", rest) == []


def test_logits_where_probabilities_are_taken(say: Any) -> None:
    (found,) = say("tau", BOOK.replace("target: page", "target: both").replace("TAU", "4"))
    assert "takes probabilities as they are, but 'both' holds logits" in found.message


def test_a_student_that_is_a_distribution_already(say: Any) -> None:
    text = chain("soft_cross_entropy", "target: target", 4).replace("losses:", (
        "  own: {use: probabilities, of: student.logits, tau: 4}\nlosses:"
    ))  # fmt: skip
    (found,) = say("tau", text.replace("student: student.logits", "student: own"))
    assert "at tau 4, but 'own' holds probabilities" in found.message
