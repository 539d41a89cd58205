"""What follows from a spec with transforms, signals and a part of the classes."""

from __future__ import annotations

from typing import Any

import kdgraph
from kdgraph.train.data.base import DataSet
from kdgraph.train.derive import student_alone, teacher_by_itself


def test_a_teacher_sees_no_mixed_labels(make_spec: Any) -> None:
    steps = [{"use": "mixup"}, {"use": "view"}]
    text = make_spec(data={"transforms": steps})
    text["batch"] |= {"mix": {"shape": ["B"]}, "view": {"shape": ["B", 1, 8, 8]}}
    own = teacher_by_itself(kdgraph.load_spec(text), "teacher")
    assert list(own.batch) == ["image", "label"]
    assert isinstance(own.data, DataSet)
    assert own.data.steps() == []


def test_a_teacher_of_all_classes(make_spec: Any) -> None:
    text = make_spec(data={"select_classes": [4, 2]}, train={"teacher": {"epochs": 1}})
    text["batch"]["label"]["classes"] = 2
    own = teacher_by_itself(kdgraph.load_spec(text), "teacher")
    assert (own.data.select_classes, own.batch["label"].classes) == ((4, 2), 2)  # type: ignore[union-attr]
    text["train"]["teacher"]["classes"] = 10
    own = teacher_by_itself(kdgraph.load_spec(text), "teacher")
    assert (own.data.select_classes, own.batch["label"].classes) == (None, 10)  # type: ignore[union-attr]


def test_alone_keeps_edges_that_signals_of_the_batch_weigh(make_spec: Any) -> None:
    text = make_spec()
    text["batch"]["mix"] = {"shape": ["B"]}
    text["signals"] = {
        "rest": {"use": "affine", "of": "mix", "scale": -1, "shift": 1},
        "hidden": {"use": "detach", "of": "teacher.logits"},
    }
    edge = {"use": "cross_entropy", "student": "student.logits", "target": "label"}
    text["losses"] = {
        "a": {**edge, "weight": "mix"}, "b": {**edge, "weight": "rest"},
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "hidden"},
    }  # fmt: skip
    alone = student_alone(kdgraph.load_spec(text))
    assert {name: edge.weight for name, edge in alone.losses.items()} == {"a": "mix", "b": "rest"}
    assert list(alone.signals) == ["rest"]
    assert student_alone(kdgraph.load_spec(make_spec())).signals == {}


def test_alone_does_without_a_virtual_teacher(make_spec: Any) -> None:
    text = make_spec()
    text["signals"] = {
        "virtual": {"use": "virtual_teacher", "label": "label", "like": "student.logits"}
    }
    text["losses"]["soft"] = {
        "use": "soft_cross_entropy", "student": "student.logits", "target": "virtual",
    }  # fmt: skip
    alone = student_alone(kdgraph.load_spec(text))
    assert list(alone.losses) == ["label"]
    assert alone.signals == {}


def test_alone_keeps_the_passes_that_its_edges_read(make_spec: Any) -> None:
    """Uncertainty of a single pass would be an error."""
    text = make_spec()
    text["models"]["student"]["passes"] = 2
    text["signals"] = {
        "mean": {"use": "ensemble", "of": ["student.logits"]},
        "unsure": {"use": "uncertainty", "of": ["student.logits"]},
    }
    edge = {"use": "cross_entropy", "student": "mean", "target": "label"}
    text["losses"] = {
        "label": edge, "weighed": {**edge, "weight": "unsure"},
        "soft": {"use": "soft_target", "student": "mean", "teacher": "teacher.logits"},
    }  # fmt: skip
    alone = student_alone(kdgraph.load_spec(text))
    assert list(alone.losses) == ["label", "weighed"]
    assert alone.models["student"].passes == 2
    assert kdgraph.check(alone, trust=["small_nets"]) == []
    del text["losses"]["label"], text["losses"]["weighed"]
    assert student_alone(kdgraph.load_spec(text)).models["student"].passes is None
