from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kdgraph.losses.csc import CSC
from kdgraph.spec.shapes import ShapeMismatch

VARIANTS: list[dict[str, Any]] = [
    {},
    {"spatial": 0.0},
    {"channel": 0.0},
    {"variant": "joint"},
    {"variant": "joint", "patches": 2},
    {"pool_to": (1, 2)},
]

forms = pytest.mark.parametrize("form", ["plain", "delta_sigma"])


def loss_of(form: str = "plain", **keys: Any) -> CSC:
    return CSC(student="link.student", teacher="link.teacher", **keys).in_form(form)


def cosines(x: np.ndarray) -> Any:
    """Between the rows of a matrix, apart from the code under test."""
    unit = x / np.sqrt((x**2).sum(1, keepdims=True))
    return unit @ unit.T


@forms
def test_known_numbers(value_of: Callable[..., Any], form: str) -> None:
    tensors = {
        "student": torch.tensor([[[0.5, 1, 1], [1, -1, 0]]], dtype=torch.float64).mT,
        "teacher": torch.tensor([[[1, 0, 2], [0, 1, 1]]], dtype=torch.float64).mT,
    }
    for keys, number in (
        ({"channel": 0.0}, 0.081676548437),
        ({"spatial": 0.0}, 0.376848976278),
        ({}, 0.458525524715),
        ({"spatial": 2.0, "channel": 0.5}, 2 * 0.0816765484370 + 0.5 * 0.376848976278),
    ):
        assert value_of(loss_of(form, **keys), **tensors).item() == pytest.approx(number, abs=1e-11)
        narrow = value_of(loss_of(form, **keys), **{n: t.float() for n, t in tensors.items()})
        assert narrow.item() == pytest.approx(number, rel=1e-5)


@forms
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 12, 2, 4)])
def test_matrix_by_matrix(value_of: Callable[..., Any], form: str, shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(shape).double(), torch.randn(shape).double()
    samples = []
    for s, t in zip(student.flatten(2).numpy(), teacher.flatten(2).numpy(), strict=True):
        spatial = ((cosines(s.T) - cosines(t.T)) ** 2).mean()
        samples.append(spatial + ((cosines(s) - cosines(t)) ** 2).mean())
    value = value_of(loss_of(form), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.mean(samples), rel=1e-11)


def pieces(x: torch.Tensor) -> np.ndarray:
    """The 2 x 2 patches of every channel of a map [C, 4, 6], a row each."""
    corners = [(c, i, j) for c in range(len(x)) for i in (0, 2) for j in (0, 3)]
    return np.array([x[c, i : i + 2, j : j + 3].flatten().numpy() for c, i, j in corners])


@forms
def test_joint(value_of: Callable[..., Any], form: str) -> None:
    student, teacher = torch.randn(2, 3, 2, 4, 6).double()
    pairs = zip(student, teacher, strict=True)
    samples = [((cosines(pieces(s)) - cosines(pieces(t))) ** 2).mean() for s, t in pairs]
    value = value_of(loss_of(form, variant="joint", patches=2), student=student, teacher=teacher)
    assert value.item() == pytest.approx(np.mean(samples), rel=1e-11)


@forms
def test_joint_of_one_piece_is_the_channel_part(value_of: Callable[..., Any], form: str) -> None:
    student, teacher = torch.randn(2, 3, 4, 2, 3).double()
    joint = value_of(loss_of(form, variant="joint"), student=student, teacher=teacher)
    channel = value_of(loss_of(form, spatial=0.0), student=student, teacher=teacher)
    assert joint.item() == pytest.approx(channel.item(), rel=1e-12)


@forms
def test_pooled_maps_are_compared_as_such(value_of: Callable[..., Any], form: str) -> None:
    student, teacher = torch.randn(2, 3, 4, 4, 6).double()
    small = {
        side: x.reshape(3, 4, 2, 2, 3, 2).mean((3, 5))
        for side, x in (("student", student), ("teacher", teacher))
    }
    found = value_of(loss_of(form, pool_to=(2, 3)), student=student, teacher=teacher)
    assert found.item() == pytest.approx(value_of(loss_of(form), **small).item(), rel=1e-12)


def test_pooling_bounds_the_work() -> None:
    shapes = {"student": (2, 64, 128, 128), "teacher": (2, 64, 128, 128)}
    whole, pooled = loss_of().forms(**shapes), loss_of(pool_to=(8, 8)).forms(**shapes)
    assert pooled["plain"].flops < whole["plain"].flops / 1000


def test_a_map_as_one_vector_has_nothing_but_its_angle() -> None:
    """Why no variant flattens channels and pixels into one vector.

    The matrix of such a vector with itself has rank one, so that the squared difference of two
    of them is 2 (1 - cos**2): one number, and no relation of channels or pixels is left.
    """

    def both_ways(student: np.ndarray, teacher: np.ndarray) -> tuple[float, float]:
        s, t = (x.flatten() / np.linalg.norm(x) for x in (student, teacher))
        gap = np.outer(t, t) - np.outer(s, s)
        return float((gap**2).sum()), float(2 * (1 - (t @ s) ** 2))

    known = both_ways(np.array([[0.5, 1, 1], [1, -1, 0]]), np.array([[1, 0, 2], [0, 1, 1]]))
    assert known == pytest.approx((1.848739495798,) * 2, rel=1e-11)
    random = np.random.default_rng(0)
    for _ in range(20):
        long, short = both_ways(*random.normal(size=(2, 3, 8)))
        assert long == pytest.approx(short, rel=1e-11)


def test_maps_that_cannot_be_cut_or_pooled_are_refused() -> None:
    loss = loss_of(variant="joint", patches=2)
    for shape in ((2, 8, 4, 5), (2, 4, 8)):
        with pytest.raises(ShapeMismatch, match="patches"):
            loss.shapes(student=shape, teacher=shape)
    loss.shapes(student=(2, 8, 4, 6), teacher=(2, 8, 4, 6))
    pooled = loss_of(variant="joint", patches=2, pool_to=(3, 4))
    with pytest.raises(ShapeMismatch, match=r"\[2, 8, 3, 4\].*2 x 2 patches"):
        pooled.shapes(student=(2, 8, 6, 6), teacher=(2, 8, 6, 6))
    with pytest.raises(ShapeMismatch, match="smaller than 3 x 4"):
        pooled.shapes(student=(2, 8, 6, 3), teacher=(2, 8, 6, 3))
    with pytest.raises(ShapeMismatch, match="averaged"):
        pooled.shapes(student=(2, 36, 8), teacher=(2, 36, 8))


@pytest.mark.parametrize("keys", [{"patches": 2}, {"variant": "joint", "spatial": 0.5}])
def test_keys_of_the_other_variant_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="no effect"):
        loss_of(**keys)


@pytest.mark.parametrize("gap", [1e-1, 1e-2, 1e-3, 1e-4])
def test_a_close_student_keeps_its_digits(value_of: Callable[..., Any], gap: float) -> None:
    teacher = torch.randn(2, 8, 6, 6)
    student = teacher + gap * torch.randn(2, 8, 6, 6)
    results = []
    for form, dtype in (("plain", torch.float64), ("delta_sigma", torch.float32)):
        leaf = student.to(dtype).requires_grad_()
        value = value_of(loss_of(form), student=leaf, teacher=teacher.to(dtype))
        (gradient,) = torch.autograd.grad(value, leaf)
        results.append((value.item(), gradient.double()))
    (exact, slope), (found, gradient) = results
    assert found == pytest.approx(exact, rel=1e-4)  # the channel part is the direct one
    assert (gradient - slope).abs().max() < 1e-3 * slope.abs().max()


def test_masks_keep_working(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 4, 3, 3)
    mask = torch.tensor([0, 1, 1])
    rest = value_of(loss_of(), student=student[1:], teacher=teacher[1:])
    value = value_of(loss_of("delta_sigma"), student=student, teacher=teacher, mask=mask)
    torch.testing.assert_close(value, rest)
