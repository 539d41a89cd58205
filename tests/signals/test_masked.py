from __future__ import annotations

from typing import Any

import pytest
import torch

from kdgraph.losses.soft_target import SoftTarget
from kdgraph.signals.masked import Masked
from kdgraph.spec.shapes import ShapeMismatch

SIGNAL = Masked(of="student.logits", mask="frames")


def inputs(shape: Any) -> dict[str, torch.Tensor]:
    return {"of": torch.randn(shape), "mask": torch.arange(shape[0]) % 2}


@pytest.mark.parametrize(
    ("of", "mask", "at"),
    [
        ((2, 3), (2,), (1,)),
        ((2, 4, 3), (2,), (1,)),
        ((2, 4, 3), (2, 4), (1, 2)),
        ((2, 3, 4, 5), (2, 4, 5), (0, slice(None), 1, 2)),
    ],
)
def test_the_rest_is_as_it_was(of: Any, mask: Any, at: Any) -> None:
    x = torch.randn(of)
    where = torch.zeros(mask)
    where[tuple(i for i in at if i != slice(None))] = 1
    expected = torch.zeros(of)
    expected[at] = x[at]
    assert torch.equal(SIGNAL.forward(of=x, mask=where), expected)


def test_nan_outside_reaches_no_gradient() -> None:
    mask = torch.tensor([[True, False]])
    student = torch.randn(1, 2, 3)
    student[0, 1] = float("nan")
    student.requires_grad_()
    teacher = torch.tensor([[[0.0, 1.0, 2.0], [float("inf")] * 3]])
    loss = SoftTarget(student="s.logits", teacher="t.logits", mask="m").module(
        student=(1, 2, 3), teacher=(1, 2, 3)
    )
    sides = {
        side: SIGNAL.forward(of=x, mask=mask)
        for side, x in (("student", student), ("teacher", teacher))
    }
    value = loss(**sides, mask=mask, tau=4.0)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert not student.grad[0, 1].any()


@pytest.mark.parametrize(("of", "mask"), [((3, 4, 5), (3, 5)), ((3, 4), ()), ((3,), (3,))])
def test_masks_that_do_not_fit(of: Any, mask: Any) -> None:
    with pytest.raises(ShapeMismatch, match="mask"):
        SIGNAL.shape(of=of, mask=mask)
