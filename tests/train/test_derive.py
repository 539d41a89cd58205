"""What follows from a spec with transforms, signals and a part of the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kdgraph
from kdgraph.signals.affine import Affine
from kdgraph.train.data.base import DataSet
from kdgraph.train.derive import student_alone, teacher_by_itself, to_train

METHODS = Path(__file__).parents[2] / "specs" / "methods"


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


def test_a_teacher_that_an_action_changes_is_trained_before(make_spec: Any) -> None:
    text = make_spec(train={"teacher": {"epochs": 1}})
    text["models"]["past"] = {"snapshot_of": "student"}
    quantised = {"name": "one", "before": [{"use": "quantize", "modules": "teacher"}]}
    assert to_train(kdgraph.load_spec({**text, "stages": [quantised]})) == ["teacher"]
    both = {"name": "one", "trainable": {"teacher": True}}
    assert to_train(kdgraph.load_spec({**text, "stages": [both]})) == []


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


def test_alone_learns_the_labels_and_no_more(make_spec: Any) -> None:
    """Neither what is asked of features nor of a prediction that no label stands beside."""
    text = make_spec()
    text["models"]["student"]["taps"]["features"] = "3"
    own = {"student": "student.features", "target": "label"}
    text["losses"] |= {
        "together": {"use": "intra_class_variance", **own},
        "apart": {"use": "orthogonal_projection", **own},
        "humble": {"use": "confidence_penalty", "student": "student.logits"},
        "bent": {"use": "soft_target", "student": "student.logits", "teacher": "still"},
    }
    text["signals"] = {"still": {"use": "detach", "of": "student.logits"}}
    alone = student_alone(kdgraph.load_spec(text))
    assert {name: edge.weight for name, edge in alone.losses.items()} == {"label": 1.0}
    assert list(alone.models["student"].taps) == ["logits"]
    del text["losses"]["label"]  # cross-entropy comes in its place
    alone = student_alone(kdgraph.load_spec(text))
    assert [edge.use for edge in alone.losses.values()] == ["cross_entropy"]


def test_alone_learns_numbers_in_the_batch(make_spec: Any) -> None:
    text = make_spec()
    text["batch"]["wanted"] = {"shape": ["B", 10]}
    text["train"]["evaluate"] = {"target": "wanted"}
    edge = {"use": "hint", "student": "student.logits"}
    text["losses"] = {
        "number": {**edge, "teacher": "wanted", "weight": 0.25},
        "soft": {**edge, "teacher": "teacher.logits"},
    }
    alone = student_alone(kdgraph.load_spec(text))
    assert {name: edge.weight for name, edge in alone.losses.items()} == {"number": 1.0}


def test_shipped_methods_alone() -> None:
    """Every one learns its labels, with weights that add up to 1, and no feature."""
    found = {path.stem: student_alone(kdgraph.load_spec(path)) for path in METHODS.glob("*.yaml")}
    edges = {name: list(alone.losses) for name, alone in found.items()}
    assert edges.pop("cons_kd") == ["ctc"]
    assert edges.pop("liver_fibrosis") == ["label_a", "label_b"]
    assert set(map(tuple, edges.values())) == {("label",)}
    weights = {n: [e.weight for e in alone.losses.values()] for n, alone in found.items()}
    signals = found["liver_fibrosis"].signals
    shares = [signals[str(weight)] for weight in weights.pop("liver_fibrosis")]
    of = {s.of: s.scale for s in shares if isinstance(s, Affine)}
    assert of == pytest.approx({"share_a": 2.5, "share_b": 2.5})
    assert set(map(tuple, weights.values())) == {(1.0,)}


def weights(make_spec: Any, signals: dict[str, Any], *written: Any) -> list[Any]:
    """What becomes of the weights of label edges, each signal as its scale and its shift."""
    text = make_spec()
    text["batch"]["mix"] = {"shape": ["B"]}
    text["signals"] = signals
    edge = {"use": "cross_entropy", "student": "student.logits", "target": "label"}
    text["losses"] |= {f"l{at}": {**edge, "weight": w} for at, w in enumerate(written)}
    del text["losses"]["label"]
    alone = student_alone(kdgraph.load_spec(text))
    assert kdgraph.check(alone, trust=["small_nets"]) == []
    found = [edge.weight for edge in alone.losses.values()]
    shown = {n: (s.of, s.scale, s.shift) for n, s in alone.signals.items() if isinstance(s, Affine)}
    return [shown.get(w, w) if isinstance(w, str) else w for w in found]


def test_weights_of_labels_add_up_to_one(make_spec: Any) -> None:
    assert weights(make_spec, {}, 0.1, 0.3) == pytest.approx([0.25, 0.75])
    assert weights(make_spec, {}, 0, 0) == [0.5, 0.5]
    assert weights(make_spec, {}, {"linear": [1, 0], "epochs": [0, 3]}) == [1.0]
    signals = {
        "a": {"use": "affine", "of": "mix", "scale": 0.4},
        "b": {"use": "affine", "of": "mix", "scale": -0.4, "shift": 0.4},
    }
    first, second = weights(make_spec, signals, "a", "b")
    assert (first[0], second[0]) == ("a", "b")
    assert first[1:] == second[1:] == pytest.approx((2.5, 0.0))
    part = {"use": "number", "value": 0.25}
    found = weights(make_spec, {"part": part}, "part", 0.25)
    assert found == [("part", pytest.approx(2.0), 0.0), pytest.approx(0.5)]


def test_a_single_weight_stays_where_it_tells_samples_apart(make_spec: Any) -> None:
    """It says what each label is worth; a number says what all are worth beside a teacher."""
    halved = {"use": "affine", "of": "mix", "scale": 0.5}
    assert weights(make_spec, {}, "mix") == ["mix"]
    assert weights(make_spec, {"halved": halved}, "halved") == [("mix", 0.5, 0.0)]
    moving = {"use": "number", "value": {"linear": [1, 0], "epochs": [0, 3]}}
    signals = {"part": moving, "rest": {"use": "affine", "of": "part", "scale": -1, "shift": 1}}
    assert weights(make_spec, signals, "part") == [1.0]
    assert weights(make_spec, signals, "rest") == [1.0]
    signals["both"] = {"use": "product", "of": ["rest", "mix"]}
    assert weights(make_spec, signals, "both") == ["both"]


def test_weights_whose_sum_moves_stay(make_spec: Any) -> None:
    moving = {"linear": [1.0, 0.0], "epochs": [0.0, 3.0]}
    first, second = weights(make_spec, {}, moving, 0.5)
    assert first.at(epoch=0, iteration=0) == 1
    assert second == 0.5
    assert weights(make_spec, {}, "mix", 0.5) == ["mix", 0.5]
    clamped = {"use": "affine", "of": "mix", "clamp": [0.1, 1.0]}
    rest = {"use": "affine", "of": "mix", "scale": -1, "shift": 1}
    found = weights(make_spec, {"one": clamped, "rest": rest}, "one", "rest")
    assert found == [("mix", 1.0, 0.0), ("mix", -1.0, 1.0)]


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


def test_groups_of_what_is_not_there_are_left_out(make_spec: Any) -> None:
    patterns = [["student.5.*", "teacher.5.*"], "links.mid.*", "links.m*.weight", "*.5.bias"]
    groups = [{"params": p, "lr": 0.5} for p in [*patterns, "studnet.*"]]
    sgd = {"use": "SGD", "lr": 0.1, "groups": groups}
    text = make_spec(train={"optimizer": sgd})
    for model in ("student", "teacher"):
        text["models"][model]["taps"]["mid"] = "3"
    text["links"] = {"mid": {"student": "student.mid", "teacher": "teacher.mid"}}
    text["losses"]["hint"] = {"use": "hint", "link": "mid"}
    spec = kdgraph.load_spec(text)
    derived = {"student": student_alone(spec), "teacher": teacher_by_itself(spec, "teacher")}
    for model, own in derived.items():
        assert own.train is not None
        left = [group.params for group in own.train.optimizer.groups]
        assert left == [(f"{model}.5.*",), ("*.5.bias",), ("studnet.*",)]
        assert own.train.optimizer.groups[0].arguments == {"lr": 0.5}


@pytest.mark.parametrize(("sizes", "found"), [((8, 8, None), 8), ((8, 4, 8), 16)])
def test_alone_has_the_batches_of_the_stages(make_spec: Any, sizes: Any, found: int) -> None:
    """Of those that train the student, where they agree."""
    text = make_spec(data={"batch_size": 16})
    text["losses"]["own"] = {
        "use": "cross_entropy", "student": "teacher.logits", "target": "label"
    }  # fmt: skip
    first, second, third = ({"batch_size": size} if size else {} for size in sizes)
    other = {"trainable": {"student": False, "teacher": True}}
    text["stages"] = [
        {"name": "a", **first}, {"name": "b", **second}, {"name": "c", **third, **other}
    ]  # fmt: skip
    alone = student_alone(kdgraph.load_spec(text))
    assert isinstance(alone.data, DataSet)
    assert (alone.data.batch_size, alone.train and alone.train.epochs) == (found, 6)
