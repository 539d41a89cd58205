from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kdgraph
from kdgraph.losses.sparse_soft_target import SparseSoftTarget
from kdgraph.losses.top_k import TopK
from kdgraph.spec.shapes import ShapeMismatch

LOGITS = True
VARIANTS: list[dict[str, Any]] = [
    {}, {"tail": "zero"}, {"tail": "renormalise"}, {"tau": 4.0, "scale": False}
]  # fmt: skip

STUDENT = torch.tensor([[2, 0.5, -1, 0.3], [0.1, 0.2, 0.3, -2]], dtype=torch.float64)
TEACHER = torch.tensor([[1, 1.5, -0.5, 0], [0, 2, -1, 1]], dtype=torch.float64)


def further(student: Tensor) -> dict[str, Tensor]:
    """The first two classes of a teacher, or the only one."""
    random = torch.Generator().manual_seed(3)
    teacher = torch.randn(student.shape, generator=random, dtype=torch.float64)
    k = min(2, student.shape[-1])
    ids = torch.arange(k).expand(*student.shape[:-1], k)
    return {"values": teacher.log_softmax(-1)[..., :k].to(student.dtype), "ids": ids}


def loss_of(**keys: Any) -> SparseSoftTarget:
    return SparseSoftTarget(student="student.logits", values="values", ids="ids", **keys)


def listed(k: int = 2) -> dict[str, Tensor]:
    values, ids = TEACHER.log_softmax(-1).topk(k)
    return {"values": values, "ids": ids}


def by_hand(tail: str, tau: float) -> Any:
    """Over the two likeliest classes, apart from the code under test."""
    z, t = STUDENT.numpy(), TEACHER.numpy()
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (t, z))
    top = np.argsort(-p)[:, :2]
    if tail == "zero":
        q = q ** (1 / tau)
        q = np.take_along_axis(q / q.sum(1, keepdims=True), top, 1)
        p = np.take_along_axis(p, top, 1) ** (1 / tau)
        p /= p.sum(1, keepdims=True)
    else:
        p, q = (np.take_along_axis(x, top, 1) for x in (p, q))
        if tail == "bucket":
            p, q = (np.concatenate([x, 1 - x.sum(1, keepdims=True)], 1) for x in (p, q))
        p, q = (x ** (1 / tau) / (x ** (1 / tau)).sum(1, keepdims=True) for x in (p, q))
    return tau**2 * (p * np.log(p / q)).sum(1).mean()


@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize("tail", ["bucket", "zero", "renormalise"])
def test_against_numpy(value_of: Callable[..., Any], tail: str, tau: float) -> None:
    value = value_of(loss_of(tail=tail, tau=tau), student=STUDENT, **listed())
    assert value.item() == pytest.approx(by_hand(tail, tau), rel=1e-10)


@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_of_a_whole_teacher_it_is_top_k(value_of: Callable[..., Any], tail: str) -> None:
    dense = TopK(student="student.logits", teacher="teacher.logits", k=2, tail=tail)
    expected = value_of(dense, student=STUDENT, teacher=TEACHER)
    torch.testing.assert_close(value_of(loss_of(tail=tail), student=STUDENT, **listed()), expected)


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize("tail", ["bucket", "renormalise"])
def test_zero_and_least_where_the_student_equals_the_teacher(
    value_of: Callable[..., Any], tail: str, tau: float
) -> None:
    student = TEACHER.clone().requires_grad_()
    value = value_of(loss_of(tail=tail, tau=tau), student=student, **listed())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-15)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-15


@pytest.mark.parametrize("tail", ["bucket", "zero", "renormalise"])
def test_shorter_lists_are_filled_up_with_minus_infinity(
    value_of: Callable[..., Any], tail: str
) -> None:
    short, long = listed(1), listed(3)
    long["values"][:, 1:] = -float("inf")
    long["ids"][:, 1:] = long["ids"][:, :1]  # an id that is listed, even
    grads = []
    for given in (short, long):
        student = STUDENT.clone().requires_grad_()
        value_of(loss_of(tail=tail, tau=2.0), student=student, **given).backward()
        grads.append(student.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("tail", ["bucket", "zero", "renormalise"])
def test_rows_that_list_nothing_cost_nothing(value_of: Callable[..., Any], tail: str) -> None:
    given = listed()
    given["values"][0] = -float("inf")
    student = STUDENT.clone().requires_grad_()
    value = value_of(loss_of(tail=tail), student=student, **given)
    value.backward()
    one = value_of(loss_of(tail=tail), student=STUDENT[1:], **{n: v[1:] for n, v in given.items()})
    torch.testing.assert_close(value, one / 2)
    assert student.grad is not None
    assert student.grad[0].abs().max() < 1e-15


def test_where_every_class_is_listed_there_is_no_rest(value_of: Callable[..., Any]) -> None:
    given = {n: v.float() if n == "values" else v for n, v in listed(4).items()}
    given["values"] -= 1e-6  # as rounding leaves it
    value = value_of(loss_of(), student=STUDENT.float(), **given)
    whole = value_of(loss_of(tail="zero"), student=STUDENT.float(), **given)
    assert value.isfinite()
    torch.testing.assert_close(value, whole)


def test_ids_of_32_bits(value_of: Callable[..., Any]) -> None:
    given = listed()
    expected = value_of(loss_of(), student=STUDENT, **given)
    given["ids"] = given["ids"].int()
    assert torch.equal(value_of(loss_of(), student=STUDENT, **given), expected)


@pytest.mark.parametrize(
    ("values", "ids", "match"),
    [((3, 2), (3, 1), "equally many"), ((3, 9), (3, 9), "equally many"),
     ((2, 2), (3, 2), r"values must be \[3, k\]"), ((3, 2), (3, 2, 2), "ids must be")],
)  # fmt: skip
def test_shapes(values: tuple[int, ...], ids: tuple[int, ...], match: str) -> None:
    with pytest.raises(ShapeMismatch, match=match):
        loss_of().shapes(student=(3, 4), values=values, ids=ids)


def test_read_from_a_batch() -> None:
    spec: dict[str, Any] = {
        "kdgraph": 1,
        "name": "sparse",
        "batch": {
            "x": {"shape": ["B", 5]},
            "values": {"shape": ["B", 2]},
            "ids": {"shape": ["B", 2], "dtype": "int64"},
        },
        "models": {"student": {"input": "x", "taps": {"logits": "output"}}},
        "losses": {
            "soft": {
                "use": "sparse_soft_target",
                "student": "student.logits",
                "values": "values",
                "ids": "ids",
            }
        },
    }
    model = torch.nn.Linear(5, 4)
    step = kdgraph.compile(spec, models={"student": model})
    batch = {"x": torch.randn(2, 5), **listed()}
    batch["values"] = batch["values"].float()
    expected = loss_of().rows(student=model(batch["x"]), tau=1.0, **listed()).mean()
    torch.testing.assert_close(step(**batch).loss.double(), expected.double())
    spec["batch"]["ids"]["dtype"] = "float32"
    with pytest.raises(kdgraph.KDGraphError, match="'ids' takes integers"):
        kdgraph.compile(spec, models={"student": model})
