"""A way to ask what is said of a spec."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import kdgraph
from kdgraph.errors import Diagnostic
from kdgraph.visual.advice import ADVICE, Sight

HEAD = """
kdgraph: 1
name: pair
batch:
  image: {shape: [B, 3, 16, 16]}
  label: {shape: [B], dtype: int64, classes: 10}
models:
  teacher: {source: cifar/resnet14, args: {width: 0.5}, taps: {TEACHER}}
  student: {source: cifar/resnet8, args: {width: 0.25}, taps: {STUDENT}}
"""

Say = Callable[..., list[Diagnostic]]


@pytest.fixture
def say() -> Say:
    """``say("depth", rest)``: the warnings of that name about HEAD and the rest of a spec.

    The taps are named after what they tap: ``layer1``, ``logits`` for the output.
    """

    def told(
        name: str, rest: str, *, rows: int | None = None, head: str = HEAD
    ) -> list[Diagnostic]:
        taps = {"logits": "output", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3"}
        for model in ("teacher", "student"):
            used = [f"{t}: {path}" for t, path in taps.items() if f"{model}.{t}" in rest]
            head = head.replace(model.upper(), ", ".join(used))
        sight = Sight(kdgraph.plan(head + rest), rows)
        return list(ADVICE.get(name).run(sight))

    return told
