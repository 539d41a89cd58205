"""The size of a book, told from shapes, is that of the book."""

from __future__ import annotations

import json
from pathlib import Path

import kdgraph
from kdgraph.train import build_book
from kdgraph.train.foresee import book_size

SPEC = """
kdgraph: 1
name: kept
batch:
  image: {shape: [B, 1, 8, 8]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher:
    source: cifar/resnet8
    args: {in_channels: 1, width: 0.25}
    taps: {mid: layer2, logits: output}
  student:
    source: cifar/resnet8
    args: {in_channels: 1, width: 0.25}
    taps: {mid: layer2, logits: output}
signals:
  target: {use: probabilities, of: teacher.logits, tau: 4}
  best: {use: correct, of: teacher.logits, label: label}
losses:
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits, mask: best}
  even: {use: soft_cross_entropy, student: student.logits, target: target, tau: 4}
  hint: {use: hint, student: student.mid, teacher: teacher.mid}
book:
  views: 2
  store: {teacher.logits: {top_k: 3, dtype: float16}, teacher.mid: {dtype: int8}, target: {},
          best: {}}
data: {use: digits, limit: 40, batch_size: 16}
"""


def test_it_is_what_is_built(tmp_path: Path) -> None:
    told = book_size(kdgraph.load_spec(SPEC)).as_dict()
    built = build_book(SPEC, out=tmp_path / "book")
    assert told["columns"] == json.loads(json.dumps(built.columns))
    assert (told["rows"], told["views"], told["bytes"]) == (built.rows, built.views, built.bytes)


def test_later_stages_count_as_well() -> None:
    spec = SPEC.replace("  store: {teacher.logits: {top_k: 3, dtype: float16}, ", "# ")
    spec = spec.replace("          best: {}}\n", "")
    stages = "stages: [{name: a, epochs: 1, losses: {hint: 0}}, {name: b, epochs: 1}]\n"
    whole, staged = (book_size(kdgraph.load_spec(text)) for text in (spec, spec + stages))
    assert whole == staged
    assert "teacher.mid" in [column.name for column in staged.columns]


def test_what_cannot_be_kept_so_is_the_reason() -> None:
    told = book_size(kdgraph.load_spec(SPEC.replace("top_k: 3", "top_k: 30"))).as_dict()
    assert told == {"skipped": "'teacher.logits' of [10] has no 30 classes to keep"}
