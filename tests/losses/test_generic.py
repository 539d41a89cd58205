"""What holds for every loss; the cases come from ``conftest.py``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.losses.base import RowLoss
from kdgraph.spec.shapes import ShapeMismatch

if TYPE_CHECKING:
    from conftest import Case

SHAPES = [
    (3, 4), (3, 5), (3, 2, 4), (3, 2, 5), (3, 4, 4), (3, 4, 2, 2), (3, 5, 2, 2), (3, 4, 2, 3),
    (3, 4, 2, 2, 2), (3,),
]  # fmt: skip


def differentiated(case: Case, **tensors: Any) -> tuple[Tensor, Tensor]:
    """The value and the gradient of the student, on a leaf of the tensor's own dtype."""
    leaf = tensors["student"].clone().requires_grad_()
    value = case.value(**{**tensors, "student": leaf})
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def test_says_where_it_comes_from(loss_class: Any) -> None:
    assert re.search(r"arXiv \d{4}\.\d{4,5}|10\.\d{4,}/|\b(19|20)\d\d\b", loss_class.__doc__)


def test_reads_back_what_it_writes(case: Case) -> None:
    written = case.loss.model_dump(mode="json")
    assert type(case.loss).model_validate(written) == case.loss
    assert type(case.loss).model_validate_json(case.loss.model_dump_json()) == case.loss


def test_value_is_one_number(case: Case) -> None:
    value = case.value(**case.tensors())
    assert value.shape == ()
    assert value.dtype == torch.float64
    assert value.isfinite()


def test_gradient_is_the_derivative(smooth_case: Case) -> None:
    tensors, learned = smooth_case.tensors(), smooth_case.learned()

    def value(student: Tensor, *numbers: Tensor) -> Any:
        given = dict(zip(learned, numbers, strict=True))
        return smooth_case.value(**{**tensors, "student": student}, learned=given)

    leaves = [t.requires_grad_() for t in (tensors["student"].clone(), *learned.values())]
    assert torch.autograd.gradcheck(value, leaves)
    assert all(g.any() for g in torch.autograd.grad(value(*leaves), leaves))


def test_the_student_is_moved(case: Case) -> None:
    _, grad = differentiated(case, **case.tensors())
    assert grad.abs().sum() > 0


class Scaled(nn.Module):
    """Hands a tensor on, each number times one that can be trained."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.ones = nn.Parameter(torch.ones_like(like))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.ones


@pytest.mark.parametrize("trained", [False, True])
def test_no_gradient_reaches_a_teacher(first_paired_case: Case, trained: bool) -> None:
    """Not even one that is trained itself: the loss may have one, the edge of a graph has none."""
    loss, tensors = first_paired_case.loss, first_paired_case.tensors()
    sides = {n: Scaled(tensors[n]) for n in ("student", "teacher")}
    given = {f"given_{n}": t for n, t in tensors.items()}
    refs = {n: f"{n}.out" if n in sides else f"given_{n}" for n in tensors}
    spec = {
        "kdgraph": 1,
        "name": "one edge",
        "batch": {
            n: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for n, t in given.items()
        },
        "models": {
            n: {
                "input": f"given_{n}",
                "taps": {"out": "output"},
                "trainable": trained or n == "student",
            }
            for n in sides
        },
        "losses": {
            "edge": {**loss.model_dump(mode="json", exclude_unset=True), "use": loss.use, **refs}
        },
    }
    kdgraph.compile(spec, models=sides)(**given).loss.backward()
    assert sides["student"].ones.grad is not None
    assert sides["student"].ones.grad.any()
    assert sides["teacher"].ones.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    wide = {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
    value = case.value(**tensors)
    assert value.dtype == torch.float32
    assert torch.equal(value, case.value(**wide))
    exact = case.value(**case.tensors())
    torch.testing.assert_close(value.double(), exact, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_inputs_stay_finite(case: Case, dtype: torch.dtype) -> None:
    tensors = case.tensors(dtype)
    for side in {"student", "teacher"} & set(tensors):
        tensors[side] = (tensors[side].sign() * 6e4).to(dtype)
        tensors[side][0, 0] = 0
    value = case.value(**tensors)
    wide, grad = differentiated(case, **{**tensors, "student": tensors["student"].float()})
    assert value.isfinite()
    assert wide.isfinite()
    assert grad.isfinite().all()


def _zero_row(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[1:]])


def _coinciding(x: Tensor) -> Tensor:
    return torch.cat([x[:1], x[:1], x[2:]])


DEGENERATE: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "zero student row": (_zero_row, lambda t: t),
    "zero teacher row": (lambda s: s, _zero_row),
    "zero rows": (_zero_row, _zero_row),
    "all zero": (torch.zeros_like, torch.zeros_like),
    "constant": (lambda s: torch.full_like(s, 0.1), lambda t: torch.full_like(t, 0.1)),
    "constant student": (lambda s: torch.full_like(s, 0.1), lambda t: t),
    "coinciding student rows": (_coinciding, lambda t: t),
    "coinciding rows": (_coinciding, _coinciding),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_inputs_have_moderate_gradients(case: Case, dtype: torch.dtype) -> None:
    for kind, changes in DEGENERATE.items():
        tensors = case.tensors(dtype)
        for side, change in zip(("student", "teacher"), changes, strict=True):
            if side in tensors:
                tensors[side] = change(tensors[side])
        value, grad = differentiated(case, **tensors)
        assert value.isfinite(), kind
        assert grad.isfinite().all(), kind
        assert grad.abs().max() < 1e3, kind  # a division by an epsilon shows here


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_form_gives_the_same(case: Case, dtype: torch.dtype) -> None:
    forms = case.loss.forms(**case.shapes())
    assert not forms or "plain" in forms
    for form in forms.keys() - {"plain"}:
        other = type(case)(case.loss.in_form(form), case.student, case.teacher)
        for kind, changes in [("as they are", (Tensor.clone, Tensor.clone)), *DEGENERATE.items()]:
            tensors = case.tensors(dtype)
            for side, change in zip(("student", "teacher"), changes, strict=True):
                tensors[side] = change(tensors[side])
            expected, found = (differentiated(c, **tensors) for c in (case, other))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_sides_have_a_gradient_of_zero(zero_case: Case, dtype: torch.dtype) -> None:
    tensors = zero_case.tensors(dtype)
    assert zero_case.value(**tensors) > 0
    tensors["student"] = tensors["teacher"].clone()
    value, grad = differentiated(zero_case, **tensors)
    tiny = 64 * torch.finfo(dtype).eps
    assert abs(value) < tiny
    assert grad.abs().max() < tiny


def test_single_samples_channels_and_positions(case: Case) -> None:
    for B, K, N in [(1, 4, 2), (3, 1, 2), (3, 4, 1), (1, 1, 1)]:
        shape = {2: (B, K), 3: (B, N, K), 4: (B, K, N, N)}[len(case.student)]
        small = type(case)(case.loss, shape, shape)
        try:
            small.loss.shapes(**small.shapes())
        except ShapeMismatch:  # as many class weights as classes, say
            continue
        value, grad = differentiated(small, **small.tensors())
        assert value.isfinite(), (B, K, N)
        assert grad.isfinite().all(), (B, K, N)


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_masked_classes_make_no_nan(logit_case: Case, side: str) -> None:
    if side not in getattr(logit_case.helper, "MASKED", (side,)):
        return
    tensors = logit_case.tensors()
    for name in {"student", "teacher"} & set(tensors):
        if side in (name, "both"):
            classes = tensors[name].movedim(1 if tensors[name].dim() == 4 else -1, -1)
            classes[..., 3] = -float("inf")
    value, grad = differentiated(logit_case, **tensors)
    assert not value.isnan()
    assert not grad.isnan().any()
    if side != "student":
        assert value.isfinite()


@pytest.mark.parametrize("tau", [0.25, 1.0, 20.0, 1000.0])
def test_temperatures(tempered_case: Case, tau: float) -> None:
    tensors = tempered_case.tensors(torch.float32)
    value, grad = differentiated(tempered_case, **tensors, tau=tau)
    assert grad.isfinite().all()
    exact = tempered_case.value(**tempered_case.tensors(), tau=tau)
    few_digits = 0.05 if tau > 100 else 1e-3  # differences of numbers that are nearly 1
    torch.testing.assert_close(value.double(), exact, rtol=few_digits, atol=1e-6)
    as_tensor = tempered_case.value(**tensors, tau=torch.tensor(tau))
    per_sample = tempered_case.value(**tensors, tau=torch.full((3,), tau))
    torch.testing.assert_close(as_tensor, value)
    torch.testing.assert_close(per_sample, value)
    extreme = {n: t * 6e4 if n in ("student", "teacher") else t for n, t in tensors.items()}
    value, grad = differentiated(tempered_case, **extreme, tau=tau)
    assert value.isfinite()
    assert grad.isfinite().all()


def test_shape_rule_takes_what_the_loss_can_compute(first_case: Case) -> None:
    taken = 0
    for student, teacher in itertools.product(SHAPES, SHAPES):
        pair = type(first_case)(first_case.loss, student, teacher)
        tensors = pair.tensors(torch.float32)
        try:
            pair.loss.shapes(**{n: tuple(t.shape) for n, t in tensors.items()})
        except ShapeMismatch:
            continue
        taken += 1
        assert pair.value(**tensors).shape == ()
    assert 0 < taken < len(SHAPES) ** 2


def test_shape_rule_refuses_another_batch_size(paired_case: Case) -> None:
    shapes = paired_case.shapes()
    with pytest.raises(ShapeMismatch):
        paired_case.loss.shapes(**{**shapes, "teacher": (7, *shapes["teacher"][1:])})


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
def test_rows_left_out_move_nothing(row_case: Case, reduction: str) -> None:
    row_case = row_case.with_keys(reduction=reduction)
    tensors = row_case.tensors()
    kept = {n: t[:2] for n, t in tensors.items()}
    expected = row_case.value(**kept)
    for name in {"student", "teacher"} & set(tensors):
        tensors[name][2] = float("nan")
    row_case.loss.shapes(**row_case.shapes(), mask=(3,))
    for mask in (torch.tensor([True, True, False]), torch.tensor([1.0, 1.0, 0.0])):
        torch.testing.assert_close(row_case.value(**tensors, mask=mask), expected)
        plain, weighted = row_case.value(
            **tensors, mask=mask, row_weight=torch.tensor([2.0, 2.0, 5.0])
        )
        torch.testing.assert_close(plain, expected)
        torch.testing.assert_close(weighted, 2 * expected)
    assert row_case.value(**tensors, mask=torch.zeros(3)) == 0


def test_masks_of_another_shape_are_refused(row_case: Case) -> None:
    for mask in ((), (4,), (3, 9)):
        with pytest.raises(ShapeMismatch, match="mask"):
            row_case.loss.shapes(**row_case.shapes(), mask=mask)


def test_a_row_weight_of_zero_silences_an_infinite_row() -> None:
    class Infinite(RowLoss):
        use: str = "infinite"
        student: str

        def rows(self, *, student: Tensor) -> Tensor:
            return student

    loss = Infinite(student="some.tap")
    rows, weight = torch.tensor([1.0, float("inf")]), torch.tensor([1.0, 0.0])
    assert loss.forward(student=rows, row_weight=weight)[1] == 0.5


def test_autocast_around_changes_nothing(case: Case) -> None:
    tensors = case.tensors(torch.float32)
    plain = case.value(**tensors)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(case.value(**tensors), plain)


def test_compiles_to_one_graph(first_case: Case) -> None:
    module = first_case.loss.module(**first_case.shapes())
    tensors = first_case.tensors(torch.float32)
    steered = {f: getattr(first_case.loss, f) for f in first_case.loss.steer_fields()}
    del steered["weight"]
    inputs = tensors | {f: torch.tensor(v) for f, v in steered.items() if v is not None}
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs), module(**inputs))


def test_what_compares_rows_says_so(case: Case) -> None:
    """What does is moved by the other rows; what does not learns from a batch of one as well."""
    tensors = case.tensors()
    grad = differentiated(case, **tensors)[1][0]
    if case.loss.across_batch(case.student):
        powers = {n: 2 if t.is_floating_point() else 1 for n, t in tensors.items()}
        others = {n: torch.cat([t[:1], t[1:] ** powers[n]]) for n, t in tensors.items()}
        assert not torch.allclose(differentiated(case, **others)[1][0], grad)
    else:
        alone = differentiated(case, **{n: t[:1] for n, t in tensors.items()})[1]
        assert (alone.abs().max() > 1e-9) == (grad.abs().max() > 1e-9)
