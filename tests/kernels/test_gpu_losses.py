"""Row, Gram and relation kernels on a GPU: against float64 there, and in compiled steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.kernels.base import KERNELS
from kdgraph.losses.base import RowLoss
from kdgraph.losses.channel_correlation import ChannelCorrelation
from kdgraph.losses.channel_wise import ChannelWise
from kdgraph.losses.csc import CSC
from kdgraph.losses.jensen_shannon import JensenShannon
from kdgraph.losses.relation import Relation
from kdgraph.losses.reverse_kl import ReverseKL
from kdgraph.losses.skew_kl import SkewKL
from kdgraph.losses.soft_target import SoftTarget
from kdgraph.losses.spatial_correlation import SpatialCorrelation
from kdgraph.losses.total_variation import TotalVariation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
DEVICE = "cuda"
SIDES: Any = {"student": "link.student", "teacher": "link.teacher"}
ROWS = [
    SoftTarget(**SIDES),
    ReverseKL(**SIDES),
    JensenShannon(**SIDES, beta=0.3),
    SkewKL(**SIDES),
    TotalVariation(**SIDES),
]
GRAMS = [
    ChannelCorrelation(**SIDES),
    ChannelCorrelation(**SIDES, variant="cosine"),
    SpatialCorrelation(**SIDES),
    CSC(**SIDES),
]
# How far a gradient may be off by its norm; float16 and bfloat16 round it when it is stored.
STORED = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
types = pytest.mark.parametrize("dtype", STORED, ids=str)


def pair(*shape: int, dtype: torch.dtype = torch.float32, gap: float = 0.5) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(0)
    teacher = 3 * torch.randn(shape, generator=random)
    student = teacher + gap * torch.randn(shape, generator=random)
    return student.to(DEVICE, dtype), teacher.to(DEVICE, dtype)


def pulled(values: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Values, and the gradient of their sum; times 1024, for the sake of float16."""
    (grad,) = torch.autograd.grad(1024 * values.sum(), student)
    return values.detach().double(), grad.double()


def by_kernel(loss: Any, student: Tensor, teacher: Tensor, **steer: Any) -> tuple[Tensor, Tensor]:
    kernel = next(k for _, k in KERNELS.items() if loss.use in k.losses)
    leaf = student.detach().requires_grad_()
    inputs = {"student": leaf, "teacher": teacher, **steer}
    assert kernel.declines(loss, student=student.shape, teacher=teacher.shape) is None
    assert kernel.takes(**inputs)
    values, grad = pulled(kernel.run(loss, **inputs), leaf)
    assert grad.shape == student.shape
    return values, grad


def exact(loss: Any, student: Tensor, teacher: Tensor, **steer: Any) -> tuple[Tensor, Tensor]:
    """By the loss in float64, from the same numbers."""
    leaf = student.detach().double().requires_grad_()
    inputs: dict[str, Any] = {"student": leaf, "teacher": teacher.double(), **steer}
    if isinstance(loss, RowLoss):
        parts = {name: part() for name, part in loss.parts(**inputs).items()}
        return pulled(loss.rows(**(inputs | parts)), leaf)
    return pulled(loss.forward(**inputs), leaf)


def check(
    loss: Any, student: Tensor, teacher: Tensor, value: float, grad: float, **steer: Any
) -> None:
    found, wanted = (run(loss, student, teacher, **steer) for run in (by_kernel, exact))
    for off, bound, true in zip(
        (a - b for a, b in zip(found, wanted, strict=True)), (value, grad), wanted, strict=True
    ):
        assert float(off.norm()) <= bound * float(true.norm())


# ------------------------------------------------------------------------------ against float64


@types
@pytest.mark.parametrize("shape", [(64, 10), (16, 1000), (16, 1001), (4, 32000)], ids=str)
@pytest.mark.parametrize("loss", ROWS, ids=lambda loss: loss.use)
def test_rows(loss: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(loss, *pair(*shape, dtype=dtype), 1e-5, STORED[dtype], tau=4.0)


@pytest.mark.parametrize("gap", [1e-3, 1.0])
@pytest.mark.parametrize("tau", [1.0, 20.0, 1000.0])
def test_rows_of_a_close_student(tau: float, gap: float) -> None:
    student, teacher = pair(16, 1000, gap=gap)
    (_, found), (_, true) = (run(ROWS[0], student, teacher, tau=tau) for run in (by_kernel, exact))
    assert float((found - true).norm()) <= 1e-5 * float(true.norm())


@types
@pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("loss", [ROWS[0], ChannelWise(**SIDES)], ids=lambda loss: loss.use)
def test_maps(loss: Any, last: bool, dtype: torch.dtype) -> None:
    sides = pair(2, 64, 28, 28, dtype=dtype)
    if last:
        sides = tuple(x.contiguous(memory_format=torch.channels_last) for x in sides)
    check(loss, *sides, 1e-5, STORED[dtype], tau=2.0)


@types
@pytest.mark.parametrize("shape", [(4, 128, 28, 28), (4, 256, 7, 7), (2, 67, 5, 3)], ids=str)
@pytest.mark.parametrize("loss", GRAMS, ids=lambda loss: f"{loss.use}-{loss.variant}"
                         if loss.use == "channel_correlation" else loss.use)  # fmt: skip
def test_grams(loss: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """float32 by three products of tf32, float16 by one, bfloat16 as it is."""
    value, grad = {
        torch.float32: (1e-4, 1e-4),
        torch.float16: (1e-3, 2e-3),
        torch.bfloat16: (1e-2, 3e-2),
    }[dtype]
    check(loss, *pair(*shape, dtype=dtype), value, grad)


@types
@pytest.mark.parametrize("shape", [(9, 40), (64, 128)], ids=str)
def test_relation(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    loss = Relation(**SIDES, distance=1.0, angle=2.0)
    check(loss, *pair(*shape, dtype=dtype), 1e-5, max(STORED[dtype], 2e-5))


# ------------------------------------------------------------------------------- in compiled steps


class Net(nn.Module):
    """A map of 32 channels, and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Conv2d(3, 32, 3, padding=1)
        self.head = nn.Linear(32, 20)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.map(x).mean((2, 3)))
        return logits


LOGITS = {"student": "student.logits", "teacher": "teacher.logits"}
MAPS = {"student": "student.map", "teacher": "teacher.map"}
SPARSE = {"student": "student.logits", "values": "values", "ids": "ids"}
EDGES = {
    "soft_target": {**LOGITS, "tau": 4.0},
    "jensen_shannon": {**LOGITS, "tau": 2.0},
    "sparse_soft_target": {**SPARSE, "tau": 2.0},
    "relation": LOGITS,
    "channel_wise": {**MAPS, "tau": 2.0},
    "channel_correlation": MAPS,
    "csc": MAPS,
    "spatial_correlation": MAPS,
}


def spec(use: str) -> dict[str, Any]:
    sparse = {"values": {"shape": ["B", 5]}, "ids": {"shape": ["B", 5], "dtype": "int64"}}
    taps = {"logits": "output", "map": "map"}
    names = ("student",) if use == "sparse_soft_target" else ("teacher", "student")
    return {
        "kdgraph": 1,
        "name": "kernels",
        "batch": {"x": {"shape": ["B", 3, 8, 8]}} | (sparse if use == "sparse_soft_target" else {}),
        "models": {name: {"taps": taps, "input": "x"} for name in names},
        "losses": {"edge": {"use": use, **EDGES[use]}},
    }


@pytest.mark.parametrize("use", EDGES)
def test_a_compiled_step_takes_the_kernel(use: str) -> None:
    torch.manual_seed(0)
    nets = {"teacher": Net().to(DEVICE), "student": Net().to(DEVICE)}
    values, ids = torch.randn(8, 20, device=DEVICE).log_softmax(1).topk(5)
    batch = {"x": torch.randn(8, 3, 8, 8, device=DEVICE), "values": values, "ids": ids}
    given = spec(use)
    batch = {name: batch[name] for name in given["batch"]}
    results = []
    for without in ((), ("select_kernels",)):
        step = kdgraph.compile(
            given, models={name: nets[name] for name in given["models"]}, without=without
        )
        taken = [did for r in step.report.records if r.name == "select_kernels" for did in r.did]
        assert bool(taken) == (not without), taken
        loss = step(**batch).loss
        weights = [p for p in nets["student"].parameters() if p.requires_grad]
        grads = torch.autograd.grad(loss, weights, allow_unused=True)
        # together: some losses do not change with a bias, whose gradient is rounding then
        whole = torch.cat([g.flatten() for g in grads if g is not None])
        results.append([loss.detach(), whole])
    for found, wanted in zip(*results, strict=True):
        # of convolutions that are multiplied in tf32 both ways alike
        assert float((found - wanted).norm()) <= 1e-3 * float(wanted.norm())
