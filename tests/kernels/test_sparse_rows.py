from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kdgraph
from kdgraph.kernels.sparse_rows import MOST, sparse_rows, tau_by_row, teacher_of
from kdgraph.losses._sparse import student_side, teacher_side
from kdgraph.losses.sparse_soft_target import SparseSoftTarget
from kdgraph.runtime.module import DistillModule

TAILS = ("bucket", "zero")
OPS = torch.ops.kdgraph


def case(
    rows: int, classes: int, k: int, *, spread: float = 5.0, gap: float = 5.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A student, and values and ids of a teacher that differs from it by ``gap``, all float32."""
    random = torch.Generator().manual_seed(seed)
    teacher = torch.randn(rows, classes, generator=random) * spread
    student = teacher + gap * torch.randn(rows, classes, generator=random)
    values, ids = teacher.log_softmax(-1).topk(k)
    return student, values, ids


def exact(student: Tensor, values: Tensor, ids: Tensor, tau: Any, tail: str) -> tuple[Tensor, ...]:
    """Values and gradient of the reference in float64, from the same numbers."""
    wide = student.detach().double().requires_grad_()
    loss = SparseSoftTarget(student="a.b", values="v", ids="i", tail=tail, scale=False)
    rows = loss.rows(student=wide, values=values.double(), ids=ids, tau=tau)
    rows.sum().backward()
    assert wide.grad is not None
    return rows.detach(), wide.grad


def found(student: Tensor, values: Tensor, ids: Tensor, tau: Any, tail: str) -> tuple[Tensor, ...]:
    leaf = student.detach().requires_grad_()
    rows = sparse_rows(leaf, values, ids, tau, tail)
    assert rows.dtype == torch.float32
    rows.sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == student.dtype
    return rows.detach().double(), leaf.grad.double()


def close(
    got: tuple[Tensor, ...], want: tuple[Tensor, ...], loss: float = 1e-5, grad: float = 1e-5
) -> None:
    """Each value relative to itself, the gradient relative to its norm and largest entry."""
    assert ((got[0] - want[0]).abs() <= loss * want[0].abs()).all(), (got[0], want[0])
    wrong = got[1] - want[1]
    assert wrong.norm() <= grad * want[1].norm()
    assert wrong.abs().amax() <= grad * want[1].abs().amax()


@pytest.mark.parametrize("tau", [0.25, 1.0, 4.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("tail", TAILS)
def test_against_float64(tail: str, tau: float) -> None:
    given = (*case(4, 1000, 64), tau, tail)
    close(found(*given), exact(*given))


def near(student: Tensor, values: Tensor, ids: Tensor, tau: float, tail: str) -> Tensor:
    """The values in float64, as small as 1e-12 and none the less with its digits."""
    log_p = teacher_side(values.double(), tau, tail, student.shape[-1])
    log_q = student_side(student.double(), values, ids, tau, tail)
    d = log_q - log_p
    return torch.where(log_p.isinf(), log_q.exp(), log_p.exp() * (d.expm1() - d)).sum(-1)


@pytest.mark.parametrize(("classes", "k"), [(127, 5), (5000, 64)])
@pytest.mark.parametrize("tail", TAILS)
def test_a_student_that_nearly_equals_its_teacher(tail: str, classes: int, k: int) -> None:
    for tau in (0.25, 1.0, 4.0, 20.0, 100.0, 1000.0):
        # with 20 at low temperatures one class has all, also in float64
        given = (*case(3, classes, k, gap=1e-3, spread=20.0 if tau > 4 else 3.0), tau, tail)
        close(found(*given), (near(*given), exact(*given)[1]))


@pytest.mark.parametrize("classes", [1, 2, 3, 127, 1001, 4097, 32000])
def test_widths(classes: int) -> None:
    for tail in TAILS:
        given = (*case(2, classes, min(classes, 5)), 2.0, tail)
        close(found(*given), exact(*given))


@pytest.mark.parametrize("k", [1, 63, 256])
def test_numbers_of_listed_classes(k: int) -> None:
    for tail in TAILS:
        given = (*case(2, 256, k), 2.0, tail)
        close(found(*given), exact(*given))


@pytest.mark.parametrize(("dtype", "grad"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision(dtype: torch.dtype, grad: float) -> None:
    student, values, ids = case(3, 1000, 20)
    given = (student.to(dtype), values, ids, 2.0, "bucket")
    close(found(*given), exact(*given), 1e-5, grad)


def views() -> dict[str, Callable[[Tensor], Tensor]]:
    """The same [6, 1000] or [2, 3, 1000] numbers, laid out otherwise."""
    return {
        "columns": lambda x: x.t().contiguous().t(),
        "wide rows": lambda x: torch.cat([x, x], -1)[:, :1000],
        "odd start": lambda x: torch.cat([x[:, :1], x], -1)[:, 1:],
        "tokens": lambda x: x.reshape(2, 3, 1000),
        "shifted tokens": lambda x: torch.cat([x.reshape(2, 3, 1000), x[:2, None]], 1)[:, :-1],
    }


@pytest.mark.parametrize("name", views())
def test_strides(name: str) -> None:
    student, values, ids = case(6, 1000, 5)
    expected = exact(student, values, ids, 2.0, "bucket")
    view = views()[name](student)
    at = [x.reshape(*view.shape[:-1], 5) for x in (values, ids)]
    got = found(view, *at, 2.0, "bucket")
    assert got[0].shape == view.shape[:-1]
    close((got[0].flatten(), got[1].reshape(6, 1000)), expected)


def test_a_temperature_per_sample() -> None:
    student, values, ids = case(6, 50, 5)
    student, values, ids = (x.reshape(2, 3, -1) for x in (student, values, ids))
    tau = torch.tensor([0.5, 3.0])
    for tail in TAILS:
        close(found(student, values, ids, tau, tail), exact(student, values, ids, tau, tail))


def test_temperatures_and_lists_of_any_strides() -> None:
    student, values, ids = case(6, 50, 5)
    of_each = torch.rand(6, 2, generator=torch.Generator().manual_seed(1)) + 1
    for tau in (of_each[:, 0], torch.tensor(2.0).expand(6)):
        turned = [x.T.contiguous().T for x in (values, ids)]
        expected = exact(student, values, ids, tau, "bucket")
        close(found(student, *turned, tau, "bucket"), expected)


@pytest.mark.parametrize("tail", TAILS)
def test_impossible_classes(tail: str) -> None:
    student, values, ids = case(3, 50, 5)
    student[0].scatter_(0, ids[0, :1], -float("inf"))  # one that the teacher lists
    student[1] = student[1].where(student[1] == student[1, ids[1, 0]], -float("inf"))
    student[2, :] = student[2].scatter(0, ids[2], 0.0).where(torch.arange(50) % 7 == 0, -30)
    got, want = (f(student, values, ids, 2.0, tail) for f in (found, exact))
    assert got[0][:2].tolist() == want[0][:2].tolist() == [float("inf")] * 2
    close(*(tuple(x[2:] for x in xs) for xs in (got, want)))  # type: ignore[arg-type]
    torch.testing.assert_close(got[1], want[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tail", TAILS)
def test_lists_that_are_filled_up(tail: str) -> None:
    student, values, ids = case(3, 50, 6)
    values[0, 2:], ids[0, 2:] = -float("inf"), ids[0, 0]
    values[1] = -float("inf")
    given = (student, values, ids, 2.0, tail)
    got, want = found(*given), exact(*given)
    assert got[0][1].abs() < 1e-12
    assert got[1][1].abs().amax() < 1e-7
    close(*(tuple(x[[0, 2]] for x in xs) for xs in (got, want)))  # type: ignore[arg-type]


@pytest.mark.parametrize("tail", TAILS)
def test_nan_in_nan_out(tail: str) -> None:
    student, values, ids = case(5, 50, 5)
    student[0, ids[0, 2]] = float("nan")
    student[1, student[1].scatter(0, ids[1], -99).argmax()] = float("nan")
    values[2, 1] = float("nan")
    ids[3, 1] = 50  # no class has that number
    rows, grad = found(student, values, ids, 2.0, tail)
    assert rows.isnan().tolist() == [True] * 4 + [False]
    assert grad.isnan().any(1).tolist() == [True] * 4 + [False]


def test_rows_that_are_left_out_are_not_read() -> None:
    student, values, ids = case(3, 50, 5)
    student[1] = float("nan")
    leaf = student.requires_grad_()
    rows = sparse_rows(leaf, values, ids, 2.0, "bucket")
    rows.where(torch.tensor([True, False, True]), 0).sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert (leaf.grad[1] == 0).all()


def test_no_rows() -> None:
    for shape in ((0, 50), (2, 0, 50)):
        student = torch.zeros(shape, requires_grad=True)
        given = torch.zeros(*shape[:-1], 5)
        rows = sparse_rows(student, given, given.long(), 2.0, "zero")
        rows.sum().backward()
        assert rows.shape == shape[:-1]
        assert student.grad is not None


def arguments() -> tuple[Any, ...]:
    student, values, ids = case(4, 20, 3)
    log_p, at = teacher_of(values, ids, 2.0, "bucket", 20)
    return student.reshape(2, 2, 20), log_p, at, tau_by_row(2.0, student), True


@pytest.mark.parametrize("interpreted", [True, False])
def test_the_operators_are_sound(interpreted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not interpreted:  # the plain computation, which the CPU has else
        monkeypatch.setenv("TRITON_INTERPRET", "0")
    student, *others, bucket = arguments()
    torch.library.opcheck(OPS.sparse_rows.default, (student.requires_grad_(), *others, bucket))
    _, rest = OPS.sparse_rows(student, *others, bucket)
    given = (student.detach(), *others, rest, torch.rand(4), bucket)
    torch.library.opcheck(OPS.sparse_rows_gradient.default, given)


@pytest.mark.parametrize("tail", TAILS)
def test_the_plain_computation_is_the_same(tail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student, values, ids = case(3, 50, 6)
    values[0, 2:] = -float("inf")
    given = (student, values, ids, torch.tensor([0.5, 1.0, 4.0]), tail)
    interpreted = found(*given)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    torch.testing.assert_close(found(*given), interpreted, rtol=1e-4, atol=1e-6)


class Step(torch.nn.Module):
    """Something that reads the kernel's value."""

    def forward(self, student: Tensor, values: Tensor, ids: Tensor) -> Tensor:
        return sparse_rows(student * 2, values, ids, 2.0, "bucket").mean()


def test_compiles_to_one_graph() -> None:
    given = case(4, 20, 3)
    grads = []
    for run in (Step(), torch.compile(Step(), fullgraph=True, backend="aot_eager")):
        leaf = given[0].clone().requires_grad_()
        run(leaf, *given[1:]).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


def test_exports_as_one_node() -> None:
    given = case(4, 20, 3)
    program = torch.export.export(Step(), given)
    nodes = [n for n in program.graph.nodes if n.target is OPS.sparse_rows.default]
    assert len(nodes) == 1
    torch.testing.assert_close(program.module()(*given), Step()(*given))


def spec(**keys: Any) -> dict[str, Any]:
    soft = {"use": "sparse_soft_target", "student": "student.logits", "tau": 2.0}
    return {
        "kdgraph": 1,
        "name": "sparse",
        "batch": {
            "x": {"shape": ["B", 5]},
            "values": {"shape": ["B", 3]},
            "ids": {"shape": ["B", 3], "dtype": "int64"},
        },
        "models": {"student": {"input": "x", "taps": {"logits": "output"}}},
        "losses": {"soft": {**soft, "values": "values", "ids": "ids", **keys}},
    }


@pytest.mark.parametrize("tail", TAILS)
def test_a_spec_gets_the_kernel(tail: str) -> None:
    model = torch.nn.Linear(5, 20)
    _, values, ids = case(4, 20, 3)
    batch = {"x": torch.randn(4, 5), "values": values, "ids": ids}
    results = []
    for without in ((), ("select_kernels",)):
        step: DistillModule = kdgraph.compile(
            spec(tail=tail), models={"student": model}, without=without
        )
        model.zero_grad()
        loss = step(**batch).loss
        loss.backward()
        results.append((loss.detach(), model.weight.grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_what_it_declines() -> None:
    from kdgraph.kernels.base import KERNELS

    kernel, keys = KERNELS.get("sparse_rows"), {"student": "a.b", "values": "v", "ids": "i"}
    shapes = {"student": (8, 999), "values": (8, 300), "ids": (8, 300)}
    assert str(MOST) in str(kernel.declines(SparseSoftTarget(**keys), **shapes))
    shapes |= {"values": (8, 3), "ids": (8, 3)}
    assert kernel.declines(SparseSoftTarget(**keys), **shapes) is None
    assert kernel.declines(SparseSoftTarget(**keys, tail="renormalise"), **shapes) is not None
