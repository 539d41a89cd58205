"""Links and edges are checked by shape before anything runs, with the fix in the message."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import kdgraph

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "shapes",
    "batch": {
        "image": {"shape": ["B", 3, 32, 32]},
        "label": {"shape": ["B"], "dtype": "int64"},
    },
    "models": {
        "teacher": {
            "source": "cifar/resnet14",
            "args": {"num_classes": 6},
            "taps": {"mid": "layer2", "logits": "output"},
        },
        "student": {
            "source": "cifar/resnet8",
            "args": {"num_classes": 6},
            "taps": {"mid": "layer1", "logits": "output"},
        },
    },
    "losses": {
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"}
    },
}


def errors(spec: dict[str, Any]) -> list[str]:
    return [str(d) for d in kdgraph.check(spec) if d.severity == "error"]


def test_a_sound_spec_has_no_errors() -> None:
    assert errors(SPEC) == []


def test_different_maps_suggest_a_link() -> None:
    spec = copy.deepcopy(SPEC)
    spec["losses"]["hint"] = {"use": "hint", "student": "student.mid", "teacher": "teacher.mid"}
    (error,) = errors(spec)
    assert "error[KD301]: edge 'hint' (hint)" in error
    assert "[13, 16, 32, 32]" in error
    assert "[13, 32, 16, 16]" in error
    assert "pair the two in a link with `adapter: auto`" in error


def test_different_class_counts_suggest_a_signal() -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["args"]["num_classes"] = 9
    (error,) = errors(spec)
    assert "signal `use: select_classes`" in error


def test_an_adapter_that_cannot_fit_is_refused() -> None:
    spec = copy.deepcopy(SPEC)
    spec["links"] = {
        "mid": {"student": "student.mid", "teacher": "teacher.mid", "adapter": "linear"}
    }
    spec["losses"]["hint"] = {"use": "hint", "link": "mid"}
    assert any("error[KD301]: link 'mid'" in e for e in errors(spec))


def test_all_mismatches_are_told_at_once() -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["args"]["num_classes"] = 9
    spec["losses"]["hint"] = {"use": "hint", "student": "student.mid", "teacher": "teacher.mid"}
    spec["losses"]["mse"] = {
        "use": "logit_mse",
        "student": "student.logits",
        "teacher": "teacher.logits",
    }
    assert len(errors(spec)) == 3


def test_a_relation_cannot_be_weighted_per_sample() -> None:
    spec = copy.deepcopy(SPEC)
    spec["batch"]["trust"] = {"shape": ["B"]}
    spec["losses"]["relation"] = {
        "use": "similarity",
        "student": "student.mid",
        "teacher": "teacher.mid",
        "weight": "trust",
    }
    (error,) = errors(spec)
    assert "error[KD303]" in error
    assert "cannot be a signal" in error


def test_an_unknown_tap_lists_near_ones() -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["student"]["taps"]["mid"] = "layr1"
    (error,) = errors(spec)
    assert "layr1" in error
    assert "did you mean 'layer1'" in error


def test_both_models_faults_are_told() -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["student"]["taps"]["mid"] = "layr1"
    spec["models"]["teacher"]["taps"]["mid"] = "leyer2"
    assert len(errors(spec)) == 2


@pytest.mark.parametrize("adapter", ["auto", "conv1x1", "identity"])
def test_the_adapter_chosen_is_reported(adapter: str) -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["student"]["taps"]["mid"] = "layer2"
    spec["models"]["teacher"]["source"] = "cifar/resnet32x4"
    spec["links"] = {
        "mid": {"student": "student.mid", "teacher": "teacher.mid", "adapter": adapter}
    }
    spec["losses"]["relation"] = {"use": "similarity", "link": "mid"}
    report = kdgraph.plan(spec)
    (line,) = next(r for r in report.records if r.name == "derive_values").did
    assert line.startswith("link mid: " + ("conv1x1" if adapter == "auto" else adapter))


def test_an_edge_that_trains_nothing_is_refused() -> None:
    spec = copy.deepcopy(SPEC)
    spec["losses"]["soft"] |= {"student": "teacher.logits", "teacher": "student.logits"}
    (error,) = errors(spec)
    assert "error[KD305]: edge 'soft' trains nothing" in error
    assert "are student and teacher swapped?" in error


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"dtype": "int64", "classes": 10}, "10 classes of labels, but logits of 6"),
        ({}, "the class numbers in 'label' are float32"),
    ],
)
def test_labels_must_fit_the_logits(label: dict[str, Any], words: str) -> None:
    spec = copy.deepcopy(SPEC)
    spec["batch"]["label"] = {"shape": ["B"], **label}
    spec["losses"]["label"] = {
        "use": "cross_entropy", "student": "student.logits", "target": "label",
    }  # fmt: skip
    (error,) = errors(spec)
    assert "error[KD304]" in error
    assert words in error


def test_a_link_may_read_a_signal() -> None:
    spec = copy.deepcopy(SPEC)
    spec["signals"] = {"unit": {"use": "normalise", "of": "teacher.mid"}}
    spec["links"] = {"mid": {"student": "student.mid", "teacher": "unit"}}
    spec["losses"]["hint"] = {"use": "hint", "link": "mid"}
    assert errors(spec) == []
