"""A small spec that every check has something to say of, and one set of processes for all tests."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from kdgraph import load_spec
from kdgraph.verify import Row
from kdgraph.verify._compare import Result
from kdgraph.verify._processes import together
from kdgraph.verify._run import _row, _subject
from kdgraph.verify._subject import Subject
from kdgraph.verify.ranks import job_of

# where the processes that a test starts find them too
sys.path.append(str(Path(__file__).parent / "modules"))
NETS = "verify_nets"
TAPS = {"mid": "3", "logits": "output"}
LOGITS = {"student": "student.logits", "teacher": "teacher.logits"}
SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "small",
    "batch": {
        "image": {"shape": ["B", 1, 8, 8]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 10},
    },
    "models": {
        "teacher": {"source": f"python/{NETS}:mlp", "args": {"width": 16}, "taps": TAPS},
        "student": {"source": f"python/{NETS}:mlp", "taps": TAPS},
    },
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {
            "use": "soft_target", **LOGITS, "tau": 4,
            "weight": {"linear": [1.0, 0.1], "epochs": [0, 4]},
        },
        "relation": {"use": "relation", "student": "student.mid", "teacher": "teacher.mid"},
    },
    "data": {"use": "digits", "batch_size": 9, "limit": 30, "augment": {"shift": 1}},
    "book": {"views": 2},
    "train": {"epochs": 4, "optimizer": {"use": "SGD", "lr": 0.1, "momentum": 0.9}},
}  # fmt: skip

Make = Callable[..., Subject]
Checked = Callable[..., Row]


def spec_with(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The spec with values set, or taken away where they are None: ``("book.views", 3)``."""
    found = copy.deepcopy(SPEC)
    for path, value in changes:
        *keys, last = path.split(".")
        part = found
        for key in keys:
            part = part[key]
        part[last] = value
        if value is None:
            del part[last]
    return found


def subject_of(*changes: tuple[str, Any], double: bool | None = None, rows: int = 9) -> Subject:
    return _subject(load_spec(spec_with(*changes)), rows, double, "cpu", (NETS,))[0]


@pytest.fixture(scope="session")
def small() -> Subject:
    """The small spec as it is."""
    return subject_of()


@pytest.fixture
def checked(small: Subject) -> Checked:
    """``checked("passes")``: what a check says of the small spec, or of another subject."""
    return lambda name, subject=small: _row(name, subject)


@pytest.fixture(scope="session")
def local(small: Subject) -> Subject:
    """The small spec with a relation that each process sees for itself."""
    return replace(subject_of(("losses.relation.scope", "rank")), ranks=small.ranks)


@pytest.fixture(scope="session")
def shared(small: Subject, local: Subject) -> list[list[list[Result]]]:
    """What two processes find of both."""
    return together([job_of(small), job_of(local)])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The small spec in a file."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SPEC, sort_keys=False))
    return path
