"""Text read off logits of frames, and what a teacher of such a student is trained on."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import kdgraph
from kdgraph.errors import DataError
from kdgraph.train.derive import student_alone, teacher_by_itself
from kdgraph.train.metrics import build_metrics, rises
from kdgraph.train.runner import check_training
from kdgraph.train.score import find_score

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "speech",
    "batch": {
        "features": {"shape": ["B", "T", 4]},
        "frames": {"shape": ["B"], "dtype": "int64"},
        "text": {"shape": ["B", "S"], "dtype": "int64", "classes": 4},
        "text_length": {"shape": ["B"], "dtype": "int64"},
    },
    "models": {
        role: {
            "source": "speech/conv2",
            "args": {"mels": 4, "num_classes": 4, "width": 8},
            "input": {"features": "features", "frames": "frames"},
            "taps": {"logits": "output", "late": "blocks.1"},
        }
        for role in ("teacher", "student")
    } | {"again": {"same_as": "student", "taps": {"logits": "output"}}},
    "signals": {
        "lengths": {"use": "strided_lengths", "of": "frames", "stride": 2},
        "valid": {"use": "sequence_mask", "lengths": "lengths", "like": "student.logits"},
    },
    "losses": {
        "ctc": {
            "use": "ctc", "student": "student.logits", "target": "text", "input_lengths": "lengths",
            "target_lengths": "text_length", "weight": 0.5,
        },
        "ctc_again": {
            "use": "ctc", "student": "again.logits", "target": "text", "input_lengths": "lengths",
            "target_lengths": "text_length", "weight": 0.5,
        },
        "soft": {
            "use": "soft_target", "student": "student.logits", "teacher": "teacher.logits",
            "mask": "valid",
        },
    },
    "data": {"use": "spoken_words"},
    "train": {
        "epochs": 1,
        "optimizer": {"use": "SGD", "lr": 0.1},
        "evaluate": {"student": "student.logits", "decode": {"use": "ctc", "symbols": " ab"}},
        "metrics": ["word_error_rate", "char_error_rate"],
        "teacher": {"epochs": 2},
    },
}  # fmt: skip
MOVING = {"use": "affine", "of": "frames", "scale": {"linear": [1, 0.5], "epochs": [0, 9]}}


def spec(**changes: Any) -> kdgraph.Spec:
    written = copy.deepcopy(SPEC)
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if value is None:
            del written[section][name]
        else:
            written[section][name] = value
    return kdgraph.load_spec(written)


def one_hot(rows: list[list[int]]) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(rows), 4).float() * 5


def test_repeats_are_joined_before_blanks_are_dropped() -> None:
    """``a a - a b`` is ``aab``; frames behind the length and a first space are read as they are."""
    score = find_score(spec())
    assert score.decoder is not None
    logits = one_hot([[2, 2, 0, 2, 3], [0, 0, 0, 3, 3], [2, 1, 3, 3, 2]])
    batch = {"frames": torch.tensor([10, 6, 7])}  # 5, 3 and 4 frames of the output
    assert score.decoder.read(logits, batch) == ["aab", "", "a b"]


def test_lengths_that_signals_compute() -> None:
    """``0.5 * (7 * 1) + 0.5`` is 4, and ``0.5 * (6 * 1) + 0.5`` is 3.5: the half is cut off."""
    text = copy.deepcopy(SPEC)
    text["signals"] |= {
        "one": {"use": "number", "value": 1.0},
        "same": {"use": "product", "of": ["frames", "one"]},
        "lengths": {"use": "affine", "of": "same", "scale": 0.5, "shift": 0.5},
    }
    score = find_score(kdgraph.load_spec(text))
    assert score.decoder is not None
    logits = one_hot([[2, 0, 2, 3, 1], [2, 0, 2, 3, 1]])
    assert score.decoder.read(logits, {"frames": torch.tensor([7, 6])}) == ["aab", "aa"]


def test_truth_stops_at_its_length() -> None:
    score = find_score(spec())
    assert score.decoder is not None
    batch = {
        "text": torch.tensor([[2, 3, 1, 2], [3, 0, 0, 0]]),
        "text_length": torch.tensor([4, 1]),
    }
    assert score.decoder.truth(batch) == ["ab a", "b"]


def test_a_blank_in_the_middle_has_no_symbol() -> None:
    losses = {**SPEC["losses"]["ctc"], "blank": 2}
    score = find_score(spec(losses__ctc=losses))
    assert score.decoder is not None
    assert score.decoder.symbols == {0: " ", 1: "a", 3: "b"}


def test_error_rates() -> None:
    """Two of the five words are wrong: one replaced, one left out."""
    score = find_score(spec())
    metrics = build_metrics(kdgraph_metrics(), score.classes, text=True)
    batch = {
        "frames": torch.tensor([14, 14]),
        "text": torch.tensor([[2, 1, 3, 1, 2], [2, 1, 3, 0, 0]]),
        "text_length": torch.tensor([5, 3]),
    }
    logits = one_hot([[2, 0, 1, 2, 1, 2, 2], [2, 2, 0, 0, 0, 0, 0]])  # "a a a", "a"
    for metric in metrics.values():
        score.update(metric, logits, batch)
        assert not rises(metrics, next(iter(metrics)))
    assert metrics["word_error_rate"].compute().item() == pytest.approx(2 / 5)
    assert metrics["char_error_rate"].compute().item() == pytest.approx(3 / 8)


def kdgraph_metrics() -> Any:
    train = spec().train
    assert train is not None
    return train.metrics


def test_a_teacher_is_trained_by_the_edge_that_aligns() -> None:
    own = teacher_by_itself(spec(), "teacher")
    edge: Any = own.losses["label"]
    assert edge.use == "ctc"
    assert edge.student == "teacher.logits"
    assert edge.weight == 1
    assert list(own.signals) == ["lengths"]
    assert set(own.batch) == set(SPEC["batch"])
    assert find_score(own).decoder is not None
    check_training(own)
    kdgraph.compile(own)


def test_a_student_alone_is_called_once() -> None:
    alone = student_alone(spec())
    assert list(alone.losses) == ["ctc"]
    assert alone.losses["ctc"].weight == 1
    assert list(alone.models) == ["student"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"losses__ctc": None, "losses__ctc_again": None}, "there is none"),
        ({"signals__lengths": {"use": "detach", "of": "student.late"}}, "from the batch alone"),
        ({"signals__lengths": MOVING}, "no schedule"),
        ({"train__evaluate": {"decode": {"use": "ctc", "symbols": "ab"}}}, "2 symbols for 4"),
    ],
)
def test_what_decoding_needs(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=rf"KD714.*{said}"):
        find_score(spec(**changes))


def test_metrics_of_labels_are_none_of_text() -> None:
    with pytest.raises(DataError, match=r"KD713.*for text"):
        check_training(spec(train__metrics=["accuracy"]))
