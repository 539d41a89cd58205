"""GSLR: one schedule shared by two edges, on known numbers, without recompiling, over a resume."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import kdgraph
from kdgraph.train import run

SPECS = Path(__file__).parents[2] / "specs" / "methods"
OFFSET = "models.student.offset"
MIX = {"linear": [1.0, 0.0], "epochs": [0, 10]}


class Given(nn.Module):
    """Hands logits on, plus an offset for each class that can be trained."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(3, dtype=dtype))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.offset


def compiled(
    mix: Any = MIX, *, dtype: torch.dtype = torch.float64, tau: float = 2, **keys: Any
) -> kdgraph.DistillModule:
    logits = {"shape": ["B", 3], "dtype": str(dtype).removeprefix("torch.")}
    spec = {
        "kdgraph": 1,
        "name": "gslr",
        "batch": {
            "z_s": logits,
            "z_t": logits,
            "label": {"shape": ["B"], "dtype": "int64", "classes": 3},
        },
        "models": {
            "student": {"input": "z_s", "taps": {"logits": "output"}},
            "teacher": {"input": "z_t", "taps": {"logits": "output"}},
        },
        "signals": {
            "mix": {"use": "number", "value": mix},
            "rest": {"use": "affine", "of": "mix", "scale": -1, "shift": 1},
            "target": {"use": "probabilities", "of": "teacher.logits", "tau": tau},
        },
        "losses": {
            "label": {
                "use": "cross_entropy",
                "student": "student.logits",
                "target": "label",
                "weight": "rest",
            },
            "soft": {
                "use": "soft_cross_entropy",
                "student": "student.logits",
                "target": "target",
                "tau": tau,
                "weight": "mix",
                **keys,
            },
        },
    }
    return kdgraph.compile(spec, models={"student": Given(dtype), "teacher": Given(dtype)})


def batch(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {
        "z_s": torch.tensor([[0.5, 0.2, -0.1]], dtype=dtype),
        "z_t": torch.tensor([[2.0, 1.0, 0.0]], dtype=dtype),
        "label": torch.tensor([0]),
    }


FORMS: list[tuple[dict[str, Any], dict[int, float]]] = [
    ({}, {0: 1.0580747715237306, 5: 0.9432324707149275, 9: 0.8513586300678850}),
    (
        {"variant": "kl", "scale": "tau2"},
        {0: 0.1515337391875971, 5: 0.4899619545468607, 9: 0.7607045268342717},
    ),
]


@pytest.mark.parametrize(("keys", "known"), FORMS, ids=["soft CE", "tau**2 KL"])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_known_epochs(
    keys: dict[str, Any], known: dict[int, float], dtype: torch.dtype, rel: float
) -> None:
    step = compiled(dtype=dtype, **keys)
    for epoch, value in known.items():
        step.set_progress(epoch=epoch)
        out = step(**batch(dtype))
        hard, soft = (out.losses[name].item() for name in ("label", "soft"))
        assert epoch / 10 * hard + (1 - epoch / 10) * soft == pytest.approx(value, rel=rel)
        # 0.1 as a schedule has it, in float32, is 0.1 to eight digits
        assert out.loss.item() == pytest.approx(value, rel=rel if epoch < 9 else max(rel, 3e-8))


def test_edges_are_known() -> None:
    out = compiled()(**batch())
    assert out.losses["label"].item() == pytest.approx(0.8283901699061244, rel=1e-12)
    assert out.losses["soft"].item() == pytest.approx(1.0580747715237306, rel=1e-12)


def test_the_first_epoch_has_no_label_and_the_end_no_teacher() -> None:
    step = compiled()
    for epoch, moved in ((0, "label"), (10, "z_t")):
        step.set_progress(epoch=epoch)
        grads = []
        for change in (False, True):
            given = batch()
            if change:
                given[moved] = given[moved] + 1
            (grad,) = torch.autograd.grad(step(**given).loss, step.get_parameter(OFFSET))
            grads.append(grad)
        if moved == "z_t":  # adding 1 to all logits would change nothing anyway
            given = batch() | {"z_t": batch()["z_t"] * 3}
            grads[1] = torch.autograd.grad(step(**given).loss, step.get_parameter(OFFSET))[0]
        assert torch.equal(*grads)


@pytest.mark.parametrize(
    ("mix", "shares"),
    [
        ({"cosine": [1.0, 0.0], "epochs": [0, 10]}, {0: 1.0, 5: 0.5, 10: 0.0}),
        ({"steps": [0.5, 0.1, 0.0], "epochs": [4, 8]}, {0: 0.5, 4: 0.1, 9: 0.0}),
    ],
    ids=["cosine", "steps"],
)
def test_other_schedules_against_numpy(mix: Any, shares: dict[int, float]) -> None:
    z_s, z_t = np.array([0.3, -1.2, 2.0]), np.array([1.5, 0.4, -0.6])

    def log_softmax(z: np.ndarray) -> np.ndarray:
        found: np.ndarray = z - np.log(np.exp(z).sum())
        return found

    soft = -16 * (np.exp(log_softmax(z_t / 4)) * log_softmax(z_s / 4)).sum()
    hard = -log_softmax(z_s)[2]
    step = compiled(mix, tau=4, scale="tau2")
    given = {"z_s": torch.from_numpy(z_s)[None], "z_t": torch.from_numpy(z_t)[None]}
    for epoch, share in shares.items():
        step.set_progress(epoch=epoch)
        out = step(**given, label=torch.tensor([2]))
        assert out.loss.item() == pytest.approx((1 - share) * hard + share * soft, rel=1e-7)


def test_the_schedule_recompiles_nothing() -> None:
    step = compiled()
    torch._dynamo.reset()
    counter = CompileCounter()
    fast = torch.compile(step, fullgraph=True, backend=counter)
    for epoch in (0, 3, 9):
        step.set_progress(epoch=epoch)
        torch.testing.assert_close(fast(**batch()).loss, step(**batch()).loss)
    assert counter.frame_count == 1


def test_the_schedule_survives_a_resume() -> None:
    step, again = compiled(), compiled()
    step.set_progress(epoch=7)
    file = io.BytesIO()
    torch.save(step.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file))
    assert again(**batch()).loss == step(**batch()).loss


def test_nothing_reaches_the_teacher() -> None:
    step = compiled()
    z_t = batch()["z_t"].requires_grad_()
    step(**{**batch(), "z_t": z_t}).loss.backward()
    assert z_t.grad is None or not z_t.grad.any()
    assert [name for name, _ in step.named_parameters()] == [OFFSET]


def test_it_trains(tmp_path: Path) -> None:
    small = ["data.limit=100", "train.teacher.epochs=1", "models.teacher.source=cifar/resnet8"]
    result = run(SPECS / "gslr.yaml", out=tmp_path, steps=2, set=small, device="cpu")
    assert result.runs[0].steps == 2
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
