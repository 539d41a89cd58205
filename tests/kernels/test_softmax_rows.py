from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdgraph.kernels import _row_ops, softmax_rows
from kdgraph.kernels.base import KERNELS
from kdgraph.kernels.softmax_rows import SoftmaxRows, joined, joins
from kdgraph.losses.channel_wise import ChannelWise
from kdgraph.losses.cross_entropy import CrossEntropy
from kdgraph.losses.hard_label import HardLabel
from kdgraph.losses.jensen_shannon import JensenShannon
from kdgraph.losses.reverse_kl import ReverseKL
from kdgraph.losses.skew_kl import SkewKL
from kdgraph.losses.soft_target import SoftTarget
from kdgraph.losses.total_variation import TotalVariation

INF = float("inf")
GAPS = (1e-3, 0.1, 1.0)
FEW = [("forward_kl", 0.0), ("reverse_kl", 0.0), ("skew_kl_reverse", 0.1), ("total_variation", 0.0)]
SIDES = {"student": "student.logits", "teacher": "teacher.logits"}
KINDS = [
    ("forward_kl", 0.0),
    ("reverse_kl", 0.0),
    ("jensen_shannon", 0.5),
    ("jensen_shannon", 0.1),
    ("skew_kl", 0.1),
    ("skew_kl_reverse", 0.1),
    ("total_variation", 0.0),
]
LOSSES = [
    SoftTarget(**SIDES),
    SoftTarget(**SIDES, reduction="element", scale=False),
    ReverseKL(**SIDES),
    JensenShannon(**SIDES, beta=0.3),
    SkewKL(**SIDES),
    SkewKL(**SIDES, variant="reverse", scale=False),
    TotalVariation(**SIDES),
    ChannelWise(**SIDES),
]
CE = CrossEntropy(student="student.logits", target="batch.label")
# Tiles that make a small row a long one: blocks of 32 classes, and pieces of two blocks.
SWEPT = {"rows": 4, "block": 32, "warps": 4, "one_tile": False}
SPLIT = {**SWEPT, "piece": 64}

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy: -inf less -inf


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact(
    kind: str, share: float, student: Tensor, teacher: Tensor, tau: float, tau_teacher: float
) -> tuple[Tensor, Tensor]:
    """Value and gradient of each row in float64, written so that float64 keeps its digits too.

    Logarithms of the two probabilities are counted from the teacher's largest class, and their
    difference from its mean under the teacher, as long as that is where both have their mass.
    """
    s, t = student.double(), teacher.double()
    at = t.argmax(-1, keepdim=True)
    s, t = s - s.gather(-1, at), t - t.gather(-1, at)
    u = (t - s) / tau if tau == tau_teacher else t / tau_teacher - s / tau
    log_p, log_q = (t / tau_teacher).log_softmax(-1), (s / tau).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    v = u - (p * u).sum(-1, keepdim=True)
    area = (p * v + torch.expm1(-v) * p).sum(-1, keepdim=True)
    d = torch.where(area < 0.5, -(v + torch.log1p(area)), log_q - log_p)
    near = d.abs() < 1
    e = torch.expm1(d.where(near, 0))
    b = {"jensen_shannon": 1 - share, "skew_kl": 1 - share}.get(kind, share)
    a, y = 1 - b, b * e
    m = a * p + b * q
    log_mp = torch.where(near, torch.log1p(y), (m / p).log())
    log_mq = torch.where(near, torch.log1p(y) - d, (m / q).log())
    ratio = torch.where(near, y / (1 + y), 1 - p / m)
    of_p, of_q = {"skew_kl": (1, 0), "skew_kl_reverse": (0, 1)}.get(kind, (share, 1 - share))
    if kind == "forward_kl":
        f = torch.where(near, p * (e - d), q - p - p * d)
        return f.sum(-1), torch.where(near, p * e, q - p) / tau
    if kind == "reverse_kl":
        f, phi = torch.where(near, p * ((1 + e) * d - e), p - q + q * d), d
    elif kind == "total_variation":
        f, phi = torch.where(near, p * e, q - p).abs() / 2, d.sign() / 2
    else:
        near_p, near_q = p * (y - torch.log1p(y)), p * ((1 + e) * (d - torch.log1p(y)) - a * e)
        far_p, far_q = m - p - p * log_mp, m - q - q * log_mq
        f = of_p * torch.where(near, near_p, far_p) + of_q * torch.where(near, near_q, far_q)
        phi = of_p * b * ratio - of_q * (log_mq + a * ratio)
    if kind == "total_variation":  # where one class has all, what is left of phi less its mean
        more, less = ((q * (sign * d > 0)).sum(-1, keepdim=True) for sign in (1, -1))
        return f.sum(-1), q * torch.where(d > 0, less, -more) / tau
    phi = phi - phi.gather(-1, q.argmax(-1, keepdim=True))  # where q is 1, nothing may round
    return f.sum(-1), q * (phi - (q * phi).sum(-1, keepdim=True)) / tau


def ours(
    kind: str,
    share: float,
    student: Tensor,
    teacher: Tensor,
    tau: float,
    tau_teacher: float | None = None,
    plan: dict[str, Any] | None = None,
) -> tuple[Tensor, Tensor]:
    from kdgraph.kernels._rows_launch import Plan, backward, forward, problem

    taus = (torch.tensor([t]) if t is not None else None for t in (tau, tau_teacher))
    given = problem(student, teacher, *taus, None, None, kind, share, -100)
    tile = None if plan is None else Plan(**plan)
    value, labelled, stats = forward(given, tile)
    return value, backward(given, stats, torch.ones_like(value), labelled, tile)


def off(found: Tensor, true: Tensor) -> float:
    """The largest relative error of a row, by its norm."""
    found = found.double()
    if found.dim() == 2:
        return float(((found - true).abs() / true.abs()).max())
    return float(((found - true).norm(dim=-1) / true.norm(dim=-1)).max())


def logits(tau: float, gap: float, classes: int = 127) -> tuple[Tensor, Tensor]:
    """Rows of a spread of 5, 10 and 20, as trained models have them; one side lies higher."""
    teacher = random(1, 3, classes) * torch.tensor([5.0, 10.0, 20.0]).view(1, 3, 1)
    return teacher + gap * (random(1, 3, classes, seed=1) + 0.5), teacher


# ------------------------------------------------------------------------------------- numerics


@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("tau", [0.25, 1.0, 4.0, 20.0, 100.0, 1000.0])
def test_value_and_gradient_keep_their_digits(tau: float, gap: float) -> None:
    student, teacher = logits(tau, gap)
    for kind, share in KINDS:
        value, grad = ours(kind, share, student, teacher, tau)
        true, rise = exact(kind, share, student, teacher, tau, tau)
        assert off(value, true) < 1e-5, kind
        assert off(grad, rise) < 1e-5, kind
        largest = rise.abs().amax(-1, keepdim=True)
        assert float(((grad - rise).abs() / largest).max()) < 1e-5, kind


@pytest.mark.parametrize("plan", [SWEPT, SPLIT], ids=["swept", "split"])
@pytest.mark.parametrize(("tau", "gap"), [(0.25, 1e-3), (0.25, 1.0), (1000.0, 1e-3)])
def test_blocks_and_pieces_keep_them_too(tau: float, gap: float, plan: dict[str, Any]) -> None:
    student, teacher = logits(tau, gap, 100)
    for kind, share in FEW:
        value, grad = ours(kind, share, student, teacher, tau, plan=plan)
        true, rise = exact(kind, share, student, teacher, tau, tau)
        assert off(value, true) < 1e-5, kind
        assert off(grad, rise) < 1e-5, kind


@pytest.mark.parametrize(
    ("tau", "tau_teacher", "plan"),
    [(1.0, 2.0, None), (20.0, 4.0, None), (0.5, 0.25, None), (1.0, 2.0, SPLIT)],
)
def test_two_temperatures(tau: float, tau_teacher: float, plan: dict[str, Any] | None) -> None:
    student, teacher = logits(tau, 0.1, 100)
    for kind, share in KINDS if plan is None else FEW[::2]:
        value, grad = ours(kind, share, student, teacher, tau, tau_teacher, plan)
        true, rise = exact(kind, share, student, teacher, tau, tau_teacher)
        assert off(value, true) < 1e-5, kind
        assert off(grad, rise) < 1e-5, kind


@pytest.mark.parametrize("classes", [1, 2, 3, 1000, 1001, 32000])
def test_widths(classes: int) -> None:
    student, teacher = (x[:, : 1 if classes > 2000 else 3] for x in logits(2.0, 0.5, classes))
    for kind, share in FEW[:1] if classes > 2000 else FEW[::2]:
        value, grad = ours(kind, share, student, teacher, 2.0)
        true, rise = exact(kind, share, student, teacher, 2.0, 2.0)
        torch.testing.assert_close(value.double(), true, rtol=1e-5, atol=0)
        torch.testing.assert_close(grad.double(), rise, rtol=1e-5, atol=1e-6 * float(rise.max()))


def test_one_teacher_far_above_where_the_student_is() -> None:
    # pieces whose centres lie far from that of the row, in every order
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        parts = [random(1, 1, 64, seed=i) + 40 * i for i in order]
        teacher = torch.cat(parts, -1)
        student = torch.cat([x - 80 * i for x, i in zip(parts, order, strict=True)], -1)
        value, _ = ours("forward_kl", 0.0, student, teacher, 1.0, plan=SPLIT)
        assert off(value, exact("forward_kl", 0.0, student, teacher, 1.0, 1.0)[0]) < 1e-5


# ------------------------------------------------------------------------------ against the losses


def by_loss(loss: Any, **inputs: Any) -> Tensor:
    """The rows of the reference loss, in float64."""
    wide = {n: v.double() if isinstance(v, Tensor) else v for n, v in inputs.items()}
    parts = {name: part() for name, part in loss.parts(**wide).items()}
    rows: Tensor = loss.rows(**(wide | parts))
    return rows


def by_kernel(loss: Any, **inputs: Any) -> Tensor:
    kernel = next(k for _, k in KERNELS.items() if loss.use in k.losses)
    assert kernel.declines(loss) is None
    assert kernel.takes(**inputs)
    rows: Tensor = kernel.run(loss, **inputs)
    assert rows.dtype == torch.float32
    return rows


def both(loss: Any, student: Tensor, teacher: Tensor, tolerance: float, **steer: Any) -> None:
    """Equal rows and gradients of both sides, for a random gradient of the rows."""
    results = []
    for run in (by_kernel, by_loss):
        sides = {
            "student": student.detach().requires_grad_(),
            "teacher": teacher.detach().requires_grad_(),
        }
        rows = run(loss, **sides, **steer)
        pull = random(rows.numel(), seed=3).view(rows.shape)
        results.append(
            (rows.detach(), *torch.autograd.grad((rows * pull).sum(), list(sides.values())))
        )
    for found, true in zip(*results, strict=True):
        assert found.shape == true.shape
        error = (found.double() - true.double()).norm() / true.double().norm()
        assert float(error) < tolerance


@pytest.mark.parametrize("shape", [(5, 11), (2, 6, 3, 5)], ids=str)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.use)
def test_run_gives_the_rows_of_the_loss(loss: Any, shape: tuple[int, ...]) -> None:
    if loss.use == "channel_wise" and len(shape) == 2:
        return
    student = 3 * random(*shape)
    both(loss, student, student + random(*shape, seed=1), 2e-6, tau=2.0)


@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[3]], ids=lambda loss: loss.use)
def test_temperatures_are_numbers_or_tensors(loss: Any) -> None:
    student, teacher = random(4, 3, 7), random(4, 3, 7, seed=1)
    both(loss, student, teacher, 2e-6, tau=torch.tensor(3.0))
    per_sample = torch.tensor([1.0, 2.0, 3.0, 4.0])
    both(loss, student, teacher, 2e-6, tau=per_sample)
    if loss.use == "soft_target":
        both(loss, student, teacher, 2e-6, tau=2.0, tau_student=per_sample)
    for strided in (torch.stack([per_sample, per_sample + 1], 1)[:, 0], torch.tensor(3.0)):
        tau = strided.expand(len(student))  # one row a sample: a view keeps its stride
        both(loss, student[:, 0], teacher[:, 0], 2e-6, tau=tau)


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "channels last": (last, last),
    "student last": (last, torch.clone),
    "teacher last": (torch.clone, last),
    "every second": (lambda x: x.repeat_interleave(2, 1)[:, ::2], torch.clone),
    "cut out": (lambda x: nn.functional.pad(x, (1, 2, 1, 0))[:, :, 1:, 1:-2], last),
    "one row for all": (torch.clone, lambda x: x[:1, :, :1, :1].expand_as(x)),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("loss", [LOSSES[2], LOSSES[7]], ids=lambda loss: loss.use)
def test_any_strides(loss: Any, name: str) -> None:
    x = 3 * random(2, 16, 4, 6)
    student, teacher = (f(y) for f, y in zip(LAYOUTS[name], (x, x + random(*x.shape)), strict=True))
    both(loss, student, teacher, 2e-6, tau=2.0)


def test_channels_last_is_neither_copied_nor_turned() -> None:
    x = last(random(2, 8, 4, 4)).requires_grad_()
    for loss in (LOSSES[0], LOSSES[7]):
        rows = by_kernel(loss, student=x, teacher=x.detach() + 1, tau=1.0)
        (grad,) = torch.autograd.grad(rows.sum(), x)
        assert grad.stride() == x.stride()
    assert softmax_rows._as_rows(LOSSES[7], x).data_ptr() == x.data_ptr()


def test_blocks_across_rows() -> None:
    # 100 pixels of which neighbours lie side by side, in sweeps and in pieces
    student = random(2, 100, 3)
    teacher = student + random(2, 100, 3, seed=1)
    value, grad = ours("jensen_shannon", 0.5, student.mT, teacher.mT, 2.0, plan=SPLIT)
    true, rise = exact("jensen_shannon", 0.5, student.mT, teacher.mT, 2.0, 2.0)
    assert off(value, true) < 1e-5
    assert off(grad, rise) < 1e-5
    assert grad.stride() == student.mT.stride()


@pytest.mark.parametrize(
    ("student", "teacher", "tolerance"),
    [
        (torch.float16, torch.float16, 1e-3),
        (torch.bfloat16, torch.bfloat16, 8e-3),  # the interpreter cuts where a GPU rounds
        (torch.float32, torch.bfloat16, 2e-6),
        (torch.float16, torch.float32, 1e-3),
    ],
)
def test_half_precision_is_read_as_it_is(
    student: torch.dtype, teacher: torch.dtype, tolerance: float
) -> None:
    for loss in (LOSSES[0], LOSSES[2], LOSSES[3], LOSSES[6]):
        s, t = 3 * random(3, 40), 3 * random(3, 40, seed=1)
        for run in (by_kernel, by_loss):
            x = s.to(student).requires_grad_()
            rows = run(loss, student=x, teacher=t.to(teacher), tau=2.0)
            rows.sum().backward()
            if run is by_kernel:
                value, grad = rows.detach(), x.grad
        assert grad is not None
        assert grad.dtype == student
        assert float((value - rows.detach()).norm() / value.norm()) < 2e-6
        assert x.grad is not None
        assert float((grad.double() - x.grad.double()).norm() / x.grad.double().norm()) < tolerance


# ----------------------------------------------------------------------- masks, labels, nan, none


@pytest.mark.parametrize("masked", ["student", "teacher", "both"])
@pytest.mark.parametrize("loss", LOSSES[:7], ids=lambda loss: loss.use)
def test_a_masked_class_is_impossible(loss: Any, masked: str) -> None:
    sides = {"student": random(2, 40), "teacher": random(2, 40, seed=1)}
    for name in sides:
        if masked in (name, "both"):
            sides[name][:, 5:20] = -INF
    rows = by_kernel(loss, **sides, tau=2.0)
    torch.testing.assert_close(rows.double(), by_loss(loss, **sides, tau=2.0), rtol=1e-5, atol=1e-7)
    if not bool(rows.isinf().any()):
        x, y = (
            sides["student"].to(t, copy=True).requires_grad_()
            for t in (torch.float32, torch.float64)
        )
        by_kernel(loss, **{**sides, "student": x}, tau=2.0).sum().backward()
        by_loss(loss, **{**sides, "student": y}, tau=2.0).sum().backward()
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("plan", [SWEPT, SPLIT], ids=["swept", "split"])
def test_masked_blocks(plan: dict[str, Any]) -> None:
    student, teacher = random(1, 2, 100), random(1, 2, 100, seed=1)
    student[..., :70] = -INF
    for kind, share in FEW[1:]:
        value, grad = ours(kind, share, student, teacher, 2.0, plan=plan)
        whole, rise = ours(kind, share, student, teacher, 2.0)
        torch.testing.assert_close(value, whole, rtol=1e-5, atol=0)
        torch.testing.assert_close(grad, rise, rtol=1e-5, atol=1e-7)
        assert bool((grad[..., :70] == 0).all())


@pytest.mark.parametrize("loss", LOSSES[:7], ids=lambda loss: loss.use)
def test_nan_in_gives_nan_out(loss: Any) -> None:
    for side in SIDES:
        sides = {"student": random(3, 40), "teacher": random(3, 40, seed=1)}
        sides[side][1, 7] = math.nan
        x = sides["student"].requires_grad_()
        rows = by_kernel(loss, **sides, tau=2.0)
        assert rows.isnan().tolist() == [False, True, False]
        (grad,) = torch.autograd.grad(rows.sum(), x)
        assert bool(grad[1].isnan().any())
        assert not bool(grad[::2].isnan().any())


def test_rows_that_no_gradient_reaches_move_nothing() -> None:
    x = random(3, 40)
    x[1] = math.nan
    x.requires_grad_()
    rows = by_kernel(LOSSES[3], student=x, teacher=random(3, 40, seed=1), tau=2.0)
    (grad,) = torch.autograd.grad(rows[::2].sum(), x)
    assert bool((grad[1] == 0).all())
    assert bool((grad[0] != 0).all())


def test_rows_left_out_are_zero_and_move_nothing() -> None:
    x, keep = random(2, 3, 40), torch.tensor([[True, False, True], [False] * 3])
    x[~keep] = math.nan
    x.requires_grad_()
    target = torch.zeros(2, 3, dtype=torch.long)
    inputs = {"student": x, "teacher": random(2, 3, 40, seed=1), "tau": 2.0}
    rows, labelled = joined(LOSSES[0], CE, target=target, keep=keep, **inputs)
    for found in (rows, labelled, SoftmaxRows().run(LOSSES[0], keep=keep, **inputs)):
        assert bool((found[~keep] == 0).all())
        assert bool((found[keep] > 0).all())
    (grad,) = torch.autograd.grad(rows.sum() + labelled.sum(), x)
    assert bool((grad[~keep] == 0).all())


def test_equal_sides_cost_nothing() -> None:
    for kind, share in KINDS:
        x = 10 * random(1, 2, 100)
        value, grad = ours(kind, share, x, x, 4.0)
        assert bool((value == 0).all())
        assert float(grad.abs().max()) < 1e-9


@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0, 4, 2, 2)], ids=str)
def test_no_rows(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape).requires_grad_()
    rows = by_kernel(LOSSES[0], student=x, teacher=torch.empty(shape), tau=2.0)
    rows.sum().backward()
    assert rows.numel() == 0
    assert x.grad is not None


@pytest.mark.parametrize("shape", [(6, 40), (2, 3, 40), (2, 40, 2, 3)], ids=str)
@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[2]], ids=lambda loss: loss.use)
def test_cross_entropy_of_the_same_logits(loss: Any, shape: tuple[int, ...]) -> None:
    student, teacher = 5 * random(*shape), random(*shape, seed=1)
    rows = student.argmax(1 if len(shape) == 4 else -1)
    target = rows.clone()
    target.view(-1)[::3] = -100
    target.view(-1)[1] = 4
    x, y = (student.clone().requires_grad_() for _ in range(2))
    value, labelled = joined(loss, CE, student=x, teacher=teacher, tau=2.0, target=target)
    flat = y if len(shape) != 3 else y.mT
    true = nn.functional.cross_entropy(flat, target, reduction="none")
    torch.testing.assert_close(value, by_kernel(loss, student=y, teacher=teacher, tau=2.0))
    torch.testing.assert_close(labelled, true)
    (value.sum() + 3 * labelled.sum()).backward()
    (by_loss(loss, student=y, teacher=teacher, tau=2.0).sum() + 3 * true.sum()).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-6)


def test_labels_beside_pieces() -> None:
    from kdgraph.kernels._rows_launch import Plan, backward, forward, problem

    student, teacher, label = (
        random(1, 3, 130),
        random(1, 3, 130, seed=1),
        torch.tensor([[5, 129, 7]]),
    )
    given = problem(student, teacher, torch.ones(1), None, label, None, "reverse_kl", 0.0, 7)
    results = []
    for plan in (None, Plan(**SWEPT), Plan(**SPLIT)):
        value, labelled, stats = forward(given, plan)
        results.append(
            (value, labelled, backward(given, stats, value * 0 + 1, labelled * 0 + 1, plan))
        )
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-7)
    assert float(results[0][1][0, 2]) == 0
    # a label that is no class
    bad = problem(student, teacher, torch.ones(1), None, label + 100, None, "reverse_kl", 0.0, 7)
    assert forward(bad)[1].isnan().tolist() == [[False, True, False]]


def test_what_is_joined() -> None:
    shapes = {"student": (4, 10), "target": (4,)}
    assert joins(LOSSES[0], CE, **shapes) is None
    assert joins(LOSSES[7], CE, **shapes) == "channel_wise is no divergence between rows of logits"
    assert joins(LOSSES[0], HardLabel(**SIDES), **shapes) == "hard_label is no cross_entropy"
    for keys, why in (
        ({"smoothing": 0.1}, "its labels are smoothed"),
        ({"class_weights": (1.0, 2.0)}, "its classes are weighted"),
        ({"balance": "signals.balance"}, "its classes are weighted"),
    ):
        other = CrossEntropy(student="student.logits", target="batch.label", **keys)
        assert joins(LOSSES[0], other, **shapes) == why
    soft = {"student": (4, 10), "target": (4, 10)}
    assert joins(LOSSES[0], CE, **soft) == "its labels are probabilities"


# ------------------------------------------------------------------------------------- operators


def arguments(kind: str, share: float, **changes: Any) -> tuple[Any, ...]:
    given = {
        "student": random(2, 3, 7).requires_grad_(),
        "teacher": random(2, 3, 7, seed=1),
        "tau": torch.tensor([2.0]),
        "tau_teacher": None,
        "label": None,
        "keep": None,
    }
    return (*(given | changes).values(), kind, share, -100)


@pytest.mark.parametrize("interpreted", [True, False])
def test_operators_pass_opcheck(interpreted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_row_ops, "interpreted", lambda: interpreted)
    label, keep = torch.tensor([[1, 2, -100]] * 2), torch.tensor([[True, True, False]] * 2)
    changes = {"label": label, "keep": keep, "tau_teacher": torch.full((6,), 3.0)}
    given = arguments("jensen_shannon", 0.3, **changes)
    torch.library.opcheck(_row_ops.softmax_rows, given)
    value, labelled, stats = _row_ops.softmax_rows(*given)
    back = (value.detach(), labelled.detach(), stats, given[0].detach(), *given[1:])
    torch.library.opcheck(_row_ops.softmax_rows_backward, back)


@pytest.mark.parametrize(("kind", "share"), KINDS)
def test_the_formulas_are_those_of_the_programs(
    kind: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    label, keep = torch.tensor([[1, 2, -100]] * 2), torch.tensor([[True] * 3, [False, True, True]])
    results = []
    for interpreted in (True, False):
        monkeypatch.setattr(_row_ops, "interpreted", lambda i=interpreted: i)
        given = arguments(kind, share, label=label, keep=keep)
        value, labelled, _ = _row_ops.softmax_rows(*given)
        (value.sum() + 2 * labelled.sum()).backward()
        results.append((value, labelled, given[0].grad))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


class Distance(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor, tau: Tensor) -> Tensor:
        rows = by_kernel(LOSSES[0], student=student, teacher=teacher, tau=tau)
        other, labelled = joined(
            LOSSES[3], CE, student=student, teacher=teacher, tau=2.0,
            target=student.detach().argmax(-1),
        )  # fmt: skip
        return rows.mean() + other.mean() + labelled.mean()


def test_one_graph_for_compilers() -> None:
    torch.compiler.reset()
    student, teacher, tau = random(4, 9), random(4, 9, seed=1), torch.tensor(2.0)
    results = []
    for run in (Distance(), torch.compile(Distance(), fullgraph=True, backend="aot_eager")):
        x = student.clone().requires_grad_()
        value = run(x, teacher, tau)
        value.backward()
        results.append((value, x.grad))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_one_node_when_exported() -> None:
    given = (random(4, 9), random(4, 9, seed=1), torch.tensor(2.0))
    program = torch.export.export(Distance(), given)
    nodes = [n for n in program.graph.nodes if "softmax_rows" in str(n.target)]
    assert len(nodes) == 2
    torch.testing.assert_close(program.module()(*given), Distance()(*given))


def test_a_graph_can_be_used_twice_and_gives_the_same() -> None:
    x = random(3, 40).requires_grad_()
    rows = by_kernel(LOSSES[3], student=x, teacher=random(3, 40, seed=1), tau=2.0)
    first, second = (torch.autograd.grad(rows.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    doubled = torch.autograd.grad((2 * rows).sum(), x)[0]
    assert torch.equal(doubled, 2 * first)
