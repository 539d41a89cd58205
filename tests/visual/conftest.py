"""One compiled spec that the tests of this folder look at from all sides."""

from __future__ import annotations

import pytest

import kdgraph
from kdgraph.runtime.report import Report

TEXT = """
kdgraph: 1
name: pair
batch:
  image: {shape: [B, 3, 16, 16]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher:
    source: cifar/resnet14
    args: {width: 0.5}
    taps: {mid: layer2}
  student:
    source: cifar/resnet8
    args: {width: 0.25}
    taps: {mid: layer2, logits: output}
links:
  mid: {student: student.mid, teacher: teacher.mid}
signals:
  unit: {use: normalise, of: teacher.mid}
losses:
  label: {use: cross_entropy, student: student.logits, target: label, weight: 0.5}
  hint: {use: hint, link: mid, weight: {linear: [1.0, 0.0], epochs: [0, 60]}}
  relation: {use: relation, student: student.mid, teacher: unit, weight: 1.0}
"""


@pytest.fixture(scope="session")
def report() -> Report:
    """A plan: hints, a signal, a schedule, and a teacher whose end is cut off."""
    return kdgraph.plan(TEXT)


@pytest.fixture
def text() -> str:
    """The spec of ``report``."""
    return TEXT
