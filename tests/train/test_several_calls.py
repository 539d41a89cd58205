"""Training knows networks, not their calls: each is trained and scored once."""

from __future__ import annotations

import pytest

from kdgraph.errors import DataError
from kdgraph.spec.language import Spec
from kdgraph.spec.read import load_spec
from kdgraph.train.derive import student_alone, teacher_by_itself, to_train
from kdgraph.train.score import trained_model

TEXT = """
kdgraph: 1
name: calls
batch:
  image: {shape: [B, 1, 8, 8]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher: {source: cifar/resnet8, args: {in_channels: 1}, taps: {logits: output}, passes: 2}
  teacher_again: {same_as: teacher, taps: {logits: output}}
  learner:
    {source: cifar/resnet8, args: {in_channels: 1}, trainable: true, taps: {logits: output}}
  learner_again: {same_as: learner, taps: {logits: output}}
signals:
  mean: {use: ensemble, of: [teacher.logits, teacher_again.logits]}
losses:
  label: {use: cross_entropy, student: learner.logits, target: label, weight: 0.5}
  again: {use: cross_entropy, student: learner_again.logits, target: label, weight: 0.5}
  soft: {use: soft_target, student: learner_again.logits, teacher: mean}
data: {use: digits}
train: {epochs: 1, optimizer: {use: SGD, lr: 0.1}, teacher: {epochs: 1}}
"""


@pytest.fixture
def spec() -> Spec:
    return load_spec(TEXT)


def test_one_teacher_and_one_student(spec: Spec) -> None:
    assert to_train(spec) == ["teacher"]
    assert trained_model(spec) == "learner"


def test_the_student_alone_is_called_once(spec: Spec) -> None:
    alone = student_alone(spec)
    assert list(alone.models) == ["learner"]
    assert {name: edge.weight for name, edge in alone.losses.items()} == {"label": 1.0}


def test_a_teacher_by_itself_is_called_once(spec: Spec) -> None:
    own = teacher_by_itself(spec, "teacher")
    assert list(own.models) == ["teacher"]
    assert own.models["teacher"].passes is None


def test_a_call_cannot_be_trained_by_itself() -> None:
    with pytest.raises(DataError, match=r"not a frozen model"):
        to_train(load_spec(TEXT, set=["train.teacher.models=[teacher_again]"]))
