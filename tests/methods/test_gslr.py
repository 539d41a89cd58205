"""GSLR: one schedule shared by two edges, on known numbers, without recompiling, over a resume."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

import kdgraph
from kdgraph.signals.affine import Affine
from kdgraph.signals.number import Number
from kdgraph.train import run

SPECS = Path(__file__).parents[2] / "specs" / "methods"
Shipped = Callable[..., kdgraph.DistillModule]  # conftest.py

OFFSET = "models.student.offset"
TEN_EPOCHS = "signals.mix.value={linear: [1, 0], epochs: [0, 10]}"
AT_TWO = ["signals.target.tau=2", "losses.soft.tau=2"]


def batch(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {
        "z_s": torch.tensor([[0.5, 0.2, -0.1]], dtype=dtype),
        "z_t": torch.tensor([[2.0, 1.0, 0.0]], dtype=dtype),
        "label": torch.tensor([0]),
    }


FORMS: list[tuple[list[str], dict[int, float]]] = [
    (
        ["losses.soft.scale=none"],
        {0: 1.0580747715237306, 5: 0.9432324707149275, 9: 0.8513586300678850},
    ),
    (
        ["losses.soft.variant=kl"],
        {0: 0.1515337391875971, 5: 0.4899619545468607, 9: 0.7607045268342717},
    ),
]

RELATIVE = {torch.float64: 1e-7, torch.float32: 1e-5}


@pytest.mark.parametrize(("changes", "known"), FORMS, ids=["soft CE", "tau**2 KL"])
def test_known_epochs(shipped: Shipped, changes: list[str], known: dict[int, float]) -> None:
    moved = {d: shipped("gslr", TEN_EPOCHS, *AT_TWO, *changes, dtype=d) for d in RELATIVE}
    for epoch, value in known.items():
        stopped = shipped("gslr", *weights_at(epoch), *AT_TWO, *changes)
        assert stopped(**batch()).loss.item() == pytest.approx(value, rel=1e-8)
        for dtype, step in moved.items():
            step.set_progress(epoch=epoch)
            assert step(**batch(dtype)).loss.item() == pytest.approx(value, rel=RELATIVE[dtype])


def weights_at(epoch: float) -> list[str]:
    """Both weights as plain numbers: what the schedule moves is float32, also in a float64 step."""
    signals = kdgraph.load_spec(SPECS / "gslr.yaml", set=[TEN_EPOCHS]).signals
    mix, rest = signals["mix"], signals["rest"]
    assert isinstance(mix, Number)
    assert isinstance(rest, Affine)
    now = mix.value.at(epoch=epoch, iteration=0)  # type: ignore[union-attr]
    return [f"losses.soft.weight={now}", f"losses.label.weight={rest.scale * now + rest.shift}"]  # type: ignore[operator]


def log_softmax(z: np.ndarray) -> np.ndarray:
    found: np.ndarray = z - np.log(np.exp(z).sum())
    return found


def test_as_shipped_against_numpy(shipped: Shipped) -> None:
    """Forty epochs at tau 4, with the factor tau**2; within an epoch too."""
    z_s, z_t = np.array([[0.3, -1.2, 2.0], [1.5, 0.4, -0.6]])
    soft = -16 * (np.exp(log_softmax(z_t / 4)) * log_softmax(z_s / 4)).sum()
    hard = -log_softmax(z_s)[2]
    step = shipped("gslr")
    given = {"z_s": torch.from_numpy(z_s)[None], "z_t": torch.from_numpy(z_t)[None]}
    for epoch in (0, 10, 12.25, 30):
        step.set_progress(epoch=epoch)
        share, out = 1 - epoch / 40, step(**given, label=torch.tensor([2]))
        assert out.loss.item() == pytest.approx((1 - share) * hard + share * soft, rel=1e-7)


def test_edges_are_known(shipped: Shipped) -> None:
    out = shipped("gslr", *AT_TWO, "losses.soft.scale=none")(**batch())
    assert out.losses["label"].item() == pytest.approx(0.8283901699061244, rel=1e-12)
    assert out.losses["soft"].item() == pytest.approx(1.0580747715237306, rel=1e-12)


def test_the_first_step_has_no_label_and_the_end_no_teacher(shipped: Shipped) -> None:
    """The schedule falls from step to step: a step later in the first epoch has both."""
    step = shipped("gslr")
    changes = {"label": torch.tensor([1]), "z_t": batch()["z_t"] * 3}
    for epoch, idle in ((0, ["label"]), (0.05, []), (40, ["z_t"])):
        step.set_progress(epoch=epoch)
        for name, other in changes.items():
            grads = []
            for given in (batch(), batch() | {name: other}):
                (grad,) = torch.autograd.grad(step(**given).loss, step.get_parameter(OFFSET))
                grads.append(grad)
            assert torch.equal(*grads) == (name in idle)


@pytest.mark.parametrize(
    ("mix", "shares"),
    [
        ("{cosine: [1, 0], epochs: [0, 10]}", {0: 1.0, 5: 0.5, 10: 0.0}),
        ("{steps: [0.5, 0.1, 0.0], epochs: [4, 8]}", {0: 0.5, 4: 0.1, 9: 0.0}),
    ],
    ids=["cosine", "steps"],
)
def test_other_schedules_against_numpy(
    shipped: Shipped, mix: str, shares: dict[int, float]
) -> None:
    z_s, z_t = np.array([0.3, -1.2, 2.0]), np.array([1.5, 0.4, -0.6])
    soft = -16 * (np.exp(log_softmax(z_t / 4)) * log_softmax(z_s / 4)).sum()
    hard = -log_softmax(z_s)[2]
    step = shipped("gslr", f"signals.mix.value={mix}")
    given = {"z_s": torch.from_numpy(z_s)[None], "z_t": torch.from_numpy(z_t)[None]}
    for epoch, share in shares.items():
        step.set_progress(epoch=epoch)
        out = step(**given, label=torch.tensor([2]))
        assert out.loss.item() == pytest.approx((1 - share) * hard + share * soft, rel=1e-7)


def test_the_schedule_recompiles_nothing(shipped: Shipped) -> None:
    step = shipped("gslr")
    torch._dynamo.reset()
    counter = CompileCounter()
    fast = torch.compile(step, fullgraph=True, backend=counter)
    for epoch in (0, 3, 9):
        step.set_progress(epoch=epoch)
        torch.testing.assert_close(fast(**batch()).loss, step(**batch()).loss)
    assert counter.frame_count == 1


def test_the_schedule_survives_a_resume(shipped: Shipped) -> None:
    step, again = shipped("gslr"), shipped("gslr")
    step.set_progress(epoch=7)
    file = io.BytesIO()
    torch.save(step.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file))
    assert again(**batch()).loss == step(**batch()).loss


def test_only_the_student_learns(shipped: Shipped) -> None:
    """A teacher that is trained as well gets nothing from the target, which is a constant."""
    step = shipped("gslr", "models.teacher.trainable=true")
    step.set_progress(epoch=7)
    step(**batch()).loss.backward()
    assert step.get_parameter(OFFSET).grad is not None
    assert step.get_parameter("models.teacher.offset").grad is None


def test_it_trains(tmp_path: Path) -> None:
    small = ["data.limit=100", "train.teacher.epochs=1", "models.teacher.source=cifar/resnet8"]
    result = run(SPECS / "gslr.yaml", out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
