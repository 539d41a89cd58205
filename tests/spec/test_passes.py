"""References to a model with ``passes``: a list takes all of its tensors, one reference none."""

from __future__ import annotations

from collections.abc import Callable

from kdgraph.spec.calls import expanded
from kdgraph.spec.read import diagnose, load_spec

TEXT = """
kdgraph: 1
name: passes
batch:
  image: {shape: [B, 3, 32, 32]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher: {source: cifar/resnet14, taps: {mid: layer3, logits: output}, passes: 3}
  student: {source: cifar/resnet8, taps: {mid: layer3, logits: output}}
links:
  mid: {student: student.mid, teacher: teacher.mid}
signals:
  mean: {use: ensemble, of: [teacher.logits]}
  one: {use: detach, of: teacher.logits}
losses:
  label: {use: cross_entropy, student: student.logits, target: label}
  soft: {use: soft_target, student: student.logits, teacher: teacher.logits}
  mean: {use: soft_target, student: student.logits, teacher: mean}
  hint: {use: hint, link: mid}
"""
GOOD = ["links=null", "signals.one=null", "losses.soft=null", "losses.hint=null"]


def test_where_one_tensor_is_meant(errors: Callable[..., list[str]]) -> None:
    said = errors(TEXT)
    assert [s.split(" ")[0] for s in said] == ["KD215"] * 3
    assert "'teacher.mid' is 3 tensors, one for each pass" in said[0]
    _, found = diagnose(TEXT)
    assert found[0].help is not None
    assert {"ensemble", "uncertainty"} <= set(found[0].help.replace(",", " ").split())
    assert "detach" not in found[0].help


def test_a_list_stands_for_all_of_them() -> None:
    spec = load_spec(TEXT, set=GOOD)
    assert expanded(spec, ["teacher.logits", "student.logits"]) == [
        "teacher.logits@1",
        "teacher.logits@2",
        "teacher.logits@3",
        "student.logits",
    ]


def test_what_a_call_reads_and_whether_it_learns() -> None:
    again = ["models.again={same_as: student, taps: {logits: output}}"]
    spec = load_spec(TEXT, set=[*GOOD, *again])
    assert spec.inputs("again") == "image"
    assert spec.is_trainable("again")
    assert spec.networks == ["teacher", "student"]
