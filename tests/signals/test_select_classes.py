from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from kdgraph.signals.select_classes import SelectClasses
from kdgraph.spec.shapes import Shape, ShapeMismatch

ENTRY = SelectClasses(of="teacher.logits", classes=(3, 0, 4))


@pytest.mark.parametrize("shape", [(2, 5), (2, 7, 5), (2, 5, 3, 4)])
def test_softmax_is_the_renormalised_one(shape: Shape) -> None:
    z = torch.randn(shape, dtype=torch.float64)
    dim = 1 if len(shape) == 4 else -1
    p = z.softmax(dim).movedim(dim, -1)[..., [3, 0, 4]]
    expected = (p / p.sum(-1, keepdim=True)).movedim(-1, dim)
    torch.testing.assert_close(ENTRY.forward(of=z).softmax(dim), expected)


def test_the_order_written_is_kept() -> None:
    z = torch.arange(5.0)[None]
    assert ENTRY.forward(of=z).tolist() == [[3.0, 0.0, 4.0]]


def test_every_class_must_be_there() -> None:
    with pytest.raises(ShapeMismatch, match=r"class 4 is not among the 4 of \[2, 4\]"):
        ENTRY.shape(of=(2, 4))


@pytest.mark.parametrize("shape", [(2, 5), (2, 7, 5), (2, 5, 3, 4)])
def test_a_number_stands_for_the_first_classes(shape: Shape) -> None:
    z = torch.randn(shape)
    few, written = (SelectClasses(of="teacher.logits", classes=c) for c in (3, (0, 1, 2)))
    assert torch.equal(few.forward(of=z), written.forward(of=z))
    assert torch.equal(few.module()(of=z), written.forward(of=z))
    assert few.shape(of=shape) == written.shape(of=shape)
    with pytest.raises(ShapeMismatch, match="5 classes, not 6"):
        SelectClasses(of="teacher.logits", classes=6).shape(of=shape)


@pytest.mark.parametrize("classes", [0, 0.5, "all", [], [0, 0], [-1], [0.5], ["cat"]])
def test_refuses(classes: list[object]) -> None:
    with pytest.raises(ValidationError):
        SelectClasses.model_validate({"of": "teacher.logits", "classes": classes})
