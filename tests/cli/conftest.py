"""Small specs, and a way to run the command in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kdgraph.cli.main import main

TEXT = """\
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
  label: {use: cross_entropy, student: student.logits, target: label, weight: 0.5}
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits, tau: 4}
  hint: {use: hint, link: mid, weight: {linear: [1.0, 0.0], epochs: [0, 60]}}
"""

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """``run("check", path)``: the command's result, with stdout and stderr apart."""

    def invoke(*args: object) -> Result:
        return CliRunner().invoke(main, [str(a) for a in args])

    return invoke


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec that is fine."""
    path = tmp_path / "kd.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def wrong(tmp_path: Path) -> Callable[[str, str], Path]:
    """A spec with one piece of text replaced."""

    def make(old: str, new: str) -> Path:
        assert old in TEXT
        path = tmp_path / "wrong.yaml"
        path.write_text(TEXT.replace(old, new))
        return path

    return make
