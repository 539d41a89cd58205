from __future__ import annotations

from typing import Any

import pytest

import kdgraph
from kdgraph.train import explain
from kdgraph.visual.advice import ADVICE, Sight
from kdgraph.visual.start import Part, Start

SPEC = """
kdgraph: 1
name: pair
batch:
  image: {shape: [B, 3, 16, 16]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher: {source: cifar/resnet14, args: {width: 0.5}, taps: {mid: layer2, logits: output}}
  student: {source: cifar/resnet8, args: {width: 0.25}, taps: {mid: layer2, logits: output}}
links:
  mid: {student: student.mid, teacher: teacher.mid}
losses:
  label: {use: cross_entropy, student: student.logits, target: label, weight: LABEL}
  hint: {use: hint, link: mid, weight: HINT}
"""


def spec(label: object, hint: object) -> str:
    return SPEC.replace("LABEL", str(label)).replace("HINT", str(hint))


def test_an_edge_with_a_large_weight() -> None:
    facts, warnings = explain(spec(0.5, 1000))
    (found,) = warnings
    hint, label = facts["start"]["edges"]["hint"], facts["start"]["edges"]["label"]
    assert found.code == "KD603"
    assert found.message == (
        f"'hint' dominates at the start: it adds {hint['weighted']:.3g} (weight 1e+03 times "
        f"{hint['value']:.3g}), which is {hint['share']:.1%} of the loss, beside label "
        f"{label['weighted']:.3g}"
    )
    assert found.span is not None
    assert found.span.excerpt[found.span.column - 1 :].startswith("1000}")
    assert hint["weighted"] == pytest.approx(1000 * hint["value"])
    assert hint["share"] + label["share"] == pytest.approx(1)
    # what the help names makes it half of the sum
    weight = float(found.help.split()[4]) if found.help else 0.0
    assert weight * hint["value"] == pytest.approx(label["weighted"], rel=0.05)


def test_balanced_edges_are_fine() -> None:
    assert explain(spec(0.5, 1))[1] == []


def told(**parts: tuple[float, float, bool]) -> list[Any]:
    """Of edges with a weight, a value and whether they are of labels."""
    whole = sum(weight * value for weight, value, _ in parts.values())
    known = {n: Part(v, w * v, w * v / whole, task) for n, (w, v, task) in parts.items()}
    sight = Sight(kdgraph.plan(spec(1, 1)), start=Start(4, known))
    return list(ADVICE.get("dominating").run(sight))


def test_labels_beside_a_random_teacher_are_fine() -> None:
    assert told(label=(1, 2.3, True), hint=(1, 0.01, False)) == []
    assert len(told(label=(1, 2.3, True), hint=(1, 0.01, True))) == 1


def test_an_edge_that_is_off_at_the_start_does_not_count() -> None:
    assert told(label=(0, 2.3, True), hint=(1, 1.2, False)) == []


def test_the_limit_is_19_times_the_others() -> None:
    assert told(label=(1, 1, True), hint=(18.9, 1, False)) == []
    assert len(told(label=(1, 1, True), hint=(19.1, 1, False))) == 1
