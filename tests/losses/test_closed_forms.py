"""What holds for every loss that offers a closed form: it is the loss, in other words.

Each is run through ``FusedLosses``, as edges over the same logits are; ``only_closed`` makes a
test fail that would get the loss's own module instead.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from kdgraph.losses._forms import Forms
from kdgraph.losses._fused import FusedLosses
from kdgraph.losses._module import LossModule
from kdgraph.losses.base import RowLoss
from kdgraph.losses.soft_target import SoftTarget
from kdgraph.spec.entry import LOSSES

if TYPE_CHECKING:
    from conftest import Case


@pytest.fixture
def only_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the module was called")

    with monkeypatch.context() as patch:
        patch.setattr(LossModule, "forward", refuse)
        yield


def constants(loss: Any) -> dict[str, Any]:
    found = {f: getattr(loss, f) for f in loss.steer_fields() if f != "weight"}
    return {f: v for f, v in found.items() if v is not None}


def fused(loss: Any, **inputs: Any) -> Any:
    """The value by the closed form."""
    module = FusedLosses({"edge": loss.module()})
    (value,) = module({"edge": {**constants(loss), **inputs}})
    return value


def with_gradient(function: Any, loss: Any, **inputs: Any) -> tuple[Tensor, Tensor]:
    leaf = inputs.pop("student").clone().requires_grad_()
    value = function(loss, student=leaf, **inputs)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def own(loss: Any, **inputs: Any) -> Any:
    """The value by the loss's own module."""
    return loss.module()(**{**constants(loss), **inputs})


def test_the_losses_over_logits_have_one() -> None:
    found = {name for name, cls in LOSSES.items() if cls.has_closed_form()}
    assert found >= {"soft_target", "reverse_kl", "dist", "cross_entropy", "logit_mse"}
    assert "hint" not in found


@pytest.mark.parametrize("block", [4, 1 << 17])
def test_same_value_and_gradient(
    closed_case: Case, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("kdgraph.losses._forms._BLOCK", block)  # sample by sample, and at once
    tensors = closed_case.tensors()
    expected = with_gradient(own, closed_case.loss, **tensors)
    with monkeypatch.context() as patch:
        patch.setattr(LossModule, "forward", None)
        found = with_gradient(fused, closed_case.loss, **tensors)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("only_closed")
def test_gradient_is_the_derivative(closed_case: Case) -> None:
    tensors = closed_case.tensors()
    student = tensors.pop("student").requires_grad_()

    def value(x: Tensor) -> Any:
        return fused(closed_case.loss, student=x, **tensors)

    assert torch.autograd.gradcheck(value, student)
    assert torch.autograd.gradgradcheck(value, student)


@pytest.mark.usefixtures("only_closed")
def test_half_precision_is_widened(closed_case: Case) -> None:
    tensors = closed_case.tensors(torch.bfloat16)
    wide = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = with_gradient(fused, closed_case.loss, **tensors)
    expected, expected_grad = with_gradient(fused, closed_case.loss, **wide)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)
    assert torch.equal(grad, expected_grad.bfloat16())


@pytest.mark.parametrize("shape", [(1, 40), (40, 300), (2, 4, 3, 3), (2, 6, 4)], ids=str)
def test_no_less_exact_than_the_loss_itself(closed_case: Case, shape: tuple[int, ...]) -> None:
    if len(shape) != len(closed_case.student) or getattr(closed_case.loss, "class_weights", None):
        return
    case = type(closed_case)(closed_case.loss, shape, shape)
    tempered = "tau" in case.loss.steer_fields()
    for spread, gap, tau in itertools.product([1, 5, 1e4], [0, 1e-3, 1], [0.1, 1.0, 100.0]):
        if (not tempered and tau != 1) or (spread == 1e4 and gap == 0):
            continue
        exact = case.tensors()
        exact["student"] = exact["student"] * spread
        if "teacher" in exact:
            exact["teacher"] = exact["student"] + gap * spread * exact["teacher"]
        given = {"tau": tau} if tempered else {}
        short = {n: t.float() if t.is_floating_point() else t for n, t in exact.items()}
        exact = {n: t.double() if t.is_floating_point() else t for n, t in short.items()}
        truth = with_gradient(own, case.loss, **exact, **given)
        ours = with_gradient(fused, case.loss, **short, **given)
        theirs = with_gradient(own, case.loss, **short, **given)
        for a, b, c, unit in zip(ours, theirs, truth, (tau**2, tau), strict=True):
            scale = c.abs().max().item()
            error, usual = (a - c).abs().max().item(), (b - c).abs().max().item()
            assert error <= 20 * usual + 1e-6 * scale + 1e-6 * unit, (spread, gap, tau)


@pytest.mark.usefixtures("only_closed")
def test_temperatures_come_as_numbers_tensors_or_per_sample(closed_case: Case) -> None:
    if "tau" not in closed_case.loss.steer_fields():
        return
    tensors = closed_case.tensors()
    number = with_gradient(fused, closed_case.loss, **tensors, tau=2.5)
    for tau in (torch.tensor(2.5), torch.full((3,), 2.5, dtype=torch.float64)):
        torch.testing.assert_close(
            with_gradient(fused, closed_case.loss, **tensors, tau=tau), number
        )
    if getattr(closed_case.loss, "scale", True):
        tau = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        found = with_gradient(fused, closed_case.loss, **tensors, tau=tau)
        assert not torch.equal(found[0], number[0])


@pytest.mark.parametrize("block", [4, 1 << 17])
def test_per_sample_temperatures_equal_the_loss(
    closed_case: Case, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("kdgraph.losses._forms._BLOCK", block)
    if "tau" not in closed_case.loss.steer_fields():
        return
    tensors = closed_case.tensors()
    tau = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(
        with_gradient(fused, closed_case.loss, **tensors, tau=tau),
        with_gradient(own, closed_case.loss, **tensors, tau=tau),
    )


def test_masked_classes_get_the_loss_itself(closed_case: Case) -> None:
    for side in ("student", "teacher"):
        tensors = closed_case.tensors()
        if side not in tensors:
            continue
        classes = tensors[side].movedim(1 if tensors[side].dim() == 4 else -1, -1)
        classes[0, ..., 3] = -float("inf")
        found = with_gradient(fused, closed_case.loss, **tensors)
        expected = with_gradient(own, closed_case.loss, **tensors)
        torch.testing.assert_close(found, expected, equal_nan=True)


def test_masks_and_row_weights(closed_case: Case) -> None:
    if not isinstance(closed_case.loss, RowLoss):
        return
    tensors = closed_case.tensors()
    mask, weight = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([2.0, 1.0, 0.0])
    both = {"mask": mask, "row_weight": weight}
    results = []
    for function in (fused, own):
        leaf = tensors["student"].clone().requires_grad_()
        pair = function(closed_case.loss, **{**tensors, "student": leaf}, **both)
        results.append([*pair, *torch.autograd.grad(pair[0] + 3 * pair[1], leaf)])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.usefixtures("only_closed")
def test_a_retained_graph_can_be_walked_twice(closed_case: Case) -> None:
    tensors = closed_case.tensors()
    leaf = tensors.pop("student").clone().requires_grad_()
    value = fused(closed_case.loss, student=leaf, **tensors)
    (first,) = torch.autograd.grad(value, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(value, leaf)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, leaf)


@pytest.mark.usefixtures("only_closed")
def test_nothing_is_kept_alive(closed_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Forms]] = []

    class Watched(Forms):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(weakref.ref(self))

    monkeypatch.setattr("kdgraph.losses._fused.Forms", Watched)
    tensors = closed_case.tensors()
    leaf = tensors.pop("student").clone().requires_grad_()
    value = fused(closed_case.loss, student=leaf, **tensors)
    assert made[0]() is not None
    del value
    assert made[0]() is None, "the value is held by what its gradient needs: a cycle"


def test_a_teacher_that_learns_gets_its_gradient() -> None:
    loss = SoftTarget(student="a.b", teacher="c.d")
    student, teacher = torch.randn(3, 4), torch.randn(3, 4, requires_grad=True)
    fused(loss, student=student, teacher=teacher).backward()
    assert teacher.grad is not None


def test_transforms_of_functions_work() -> None:
    loss = SoftTarget(student="a.b", teacher="c.d")
    student, teacher = torch.randn(2, 3, 4)
    grad = torch.func.grad(lambda x: fused(loss, student=x, teacher=teacher))(student)
    torch.testing.assert_close(grad, with_gradient(own, loss, student=student, teacher=teacher)[1])
    each = torch.func.vmap(lambda s, t: fused(loss, student=s[None], teacher=t[None]))
    assert each(student, teacher).shape == (3,)


def test_a_changed_loss_has_none() -> None:
    class Halved(SoftTarget):
        def rows(self, **inputs: Any) -> Tensor:
            return super().rows(**inputs) / 2

    class Renamed(SoftTarget):
        tau_of_mine: float = 1.0

    assert not Halved.has_closed_form()
    assert Renamed.has_closed_form()


def test_a_loss_of_no_rows_is_what_it_was() -> None:
    loss = SoftTarget(student="a.b", teacher="c.d", reduction="sum")
    student = torch.zeros(0, 4, requires_grad=True)
    value = fused(loss, student=student, teacher=torch.zeros(0, 4))
    value.backward()
    assert value == 0
    assert student.grad is not None
    assert student.grad.shape == (0, 4)
