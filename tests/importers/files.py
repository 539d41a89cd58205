"""A small configuration of torchdistill whose parts each test sets."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import indent
from typing import Any

import yaml

from kdgraph.importers.base import Imported

CONFIG = """\
models:
  teacher_model:
    key: &teacher 'tiny'
    kwargs:
      num_classes: 5
  student_model:
    key: 'tiny'
    kwargs:
      num_classes: 5
    _experiment: &experiment !join ['toy-', *teacher]
    dst_ckpt: !join ['./out/', *experiment, '.pt']
train:
  log_freq: 10
  num_epochs: 3
  train_data_loader:
    dataset_id: 'toy/train'
    kwargs:
      batch_size: 8
      drop_last: True
  teacher:
    sequential: []
    requires_grad: False
  student:
STUDENT
    sequential: []
    requires_grad: True
  optimizer:
    key: 'SGD'
    kwargs:
      lr: 0.1
  criterion:
CRITERION
"""

Read = Callable[..., Imported]


def config(criterion: dict[str, Any], student: dict[str, Any] | None = None) -> str:
    """The file with this ``criterion``, and with these keys in ``train.student``."""
    parts = {"STUDENT": student or {}, "CRITERION": criterion}
    text = CONFIG
    for word, part in parts.items():
        dumped = yaml.safe_dump(part, sort_keys=False) if part else ""
        text = text.replace(f"{word}\n", indent(dumped, " " * 4))
    return text


def weighted(**terms: Any) -> dict[str, Any]:
    """A ``WeightedSumLoss`` of terms."""
    return {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}}


def term(key: str, weight: float = 1.0, wrapper: Any = None, **kwargs: Any) -> dict[str, Any]:
    """A term of a sum; ``wrapper`` says what a loss of torch reads."""
    found = {"criterion": {"key": key, "kwargs": kwargs}, "weight": weight}
    if wrapper is not None:
        found["criterion_wrapper"] = {"key": "SimpleLossWrapper", "kwargs": wrapper}
    return found


def place(path: str, *, teacher: bool = False, io: str = "output") -> dict[str, Any]:
    """One side of a wrapper."""
    return {"is_from_teacher": teacher, "module_path": path, "io": io}


def pair(student: str, teacher: str, weight: float = 1.0) -> dict[str, Any]:
    """Two outputs that a loss of features compares."""
    sides = {"student": student, "teacher": teacher}
    return {r: {"io": "output", "path": p} for r, p in sides.items()} | {"weight": weight}
