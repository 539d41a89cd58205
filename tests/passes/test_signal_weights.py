"""Signals as weights and temperatures: one number for any edge, one per sample or row for some."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import kdgraph
from kdgraph.graph.cost import cost
from kdgraph.passes.base import PASSES

SIDES = {"student": "student.logits", "teacher": "teacher.logits"}
SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "weights",
    "batch": {
        "x": {"shape": ["B", 6]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 5},
        "trust": {"shape": ["B"]},
    },
    "models": {
        "teacher": {"taps": {"logits": "output"}},
        "student": {"taps": {"logits": "output"}},
    },
    "signals": {
        "share": {"use": "number", "value": {"linear": [1.0, 0.0], "epochs": [0, 4]}},
        "rest": {"use": "affine", "of": "share", "scale": -1, "shift": 1},
        "trusted": {"use": "product", "of": ["share", "trust"]},
        "warm": {"use": "affine", "of": "share", "scale": 3, "shift": 1},
    },
    "losses": {
        "task": {
            "use": "cross_entropy",
            "student": "student.logits",
            "target": "label",
            "weight": "rest",
        },
        "soft": {"use": "soft_target", **SIDES, "tau": "warm", "weight": "share"},
        "relation": {"use": "similarity", **SIDES, "weight": "rest"},
        "raw": {"use": "logit_mse", **SIDES, "weight": "trusted"},
    },
}


def batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(7, 6, generator=random),
        "label": torch.arange(7) % 5,
        "trust": torch.rand(7, generator=random),
    }


def compiled(**keys: Any) -> kdgraph.DistillModule:
    torch.manual_seed(0)
    models = {"teacher": nn.Linear(6, 5), "student": nn.Linear(6, 5)}
    return kdgraph.compile(SPEC, models=models, **keys)


def results(step: kdgraph.DistillModule) -> tuple[kdgraph.StepOutput, list[Tensor]]:
    step.zero_grad()
    out = step(**batch())
    out.loss.backward()
    return out, [p.grad.clone() for p in step.student.parameters() if p.grad is not None]


@pytest.mark.parametrize("epoch", [0, 1, 3, 4])
def test_one_schedule_is_lambda_and_one_minus_lambda(epoch: int) -> None:
    step = compiled()
    step.set_progress(epoch=epoch)
    out, _ = results(step)
    z_s, z_t = out.outputs["student.logits"], out.outputs["teacher.logits"]
    share, tau = 1 - epoch / 4, 1 + 3 * (1 - epoch / 4)
    soft = tau**2 * F.kl_div(
        (z_s / tau).log_softmax(1), (z_t / tau).log_softmax(1), log_target=True,
        reduction="batchmean",
    )  # fmt: skip
    torch.testing.assert_close(out.losses["soft"], soft)
    raw = share * (batch()["trust"] * (z_s - z_t).square().mean(1)).mean()
    hard = (1 - share) * (out.losses["task"] + out.losses["relation"])
    torch.testing.assert_close(out.loss, hard + share * soft + raw)


def test_every_pass_may_be_left_out() -> None:
    step = compiled()
    step.set_progress(epoch=1)
    out, grads = results(step)
    plain = compiled(without=PASSES.names())
    plain.set_progress(epoch=1)
    other, others = results(plain)
    torch.testing.assert_close(out.losses, other.losses)
    torch.testing.assert_close((out.loss, grads), (other.loss, others))


def test_progress_moves_a_compiled_step_without_recompiling() -> None:
    step = compiled()
    torch._dynamo.reset()
    counter = CompileCounter()
    fast = torch.compile(step, fullgraph=True, backend=counter)
    for epoch in (0, 1, 3):
        step.set_progress(epoch=epoch)
        torch.testing.assert_close(fast(**batch()).loss, step(**batch()).loss)
    assert counter.frame_count == 1


def test_a_shared_schedule_survives_resume() -> None:
    step, again = compiled(), compiled()
    step.set_progress(epoch=3)
    file = io.BytesIO()
    torch.save(step.state_dict(), file)
    again.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    assert results(again)[0].loss == results(step)[0].loss


def test_what_a_step_costs_counts_signals() -> None:
    found = cost(kdgraph.plan(SPEC, models=_meta()).graph).by_owner()
    assert found["signals.trusted"].bytes_forward > 0


def _meta() -> dict[str, nn.Module]:
    return {"teacher": nn.Linear(6, 5), "student": nn.Linear(6, 5)}


class Tokens(nn.Module):
    """Logits [B, L, K] for x [B, L]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        value: Tensor = self.table(x)
        return value


def tokens(weight: list[Any], **losses: Any) -> dict[str, Any]:
    return {
        "kdgraph": 1,
        "name": "tokens",
        "batch": {
            "x": {"shape": ["B", 3], "dtype": "int64"},
            "y": {"shape": ["B", 3], "dtype": "int64", "classes": 5},
            "w": {"shape": weight},
        },
        "models": {"student": {"taps": {"logits": "output"}}},
        "losses": {
            "task": {
                "use": "cross_entropy",
                "student": "student.logits",
                "target": "y",
                "weight": "w",
            },
            **losses,
        },
    }


def test_a_weight_per_token() -> None:
    torch.manual_seed(0)
    step = kdgraph.compile(tokens(["B", 3]), models={"student": Tokens()})
    given = {"x": torch.randint(9, (2, 3)), "y": torch.randint(5, (2, 3)), "w": torch.rand(2, 3)}
    out = step(**given)
    rows = F.cross_entropy(step.student(given["x"]).mT, given["y"], reduction="none")
    torch.testing.assert_close(out.loss, (rows * given["w"]).mean())
    torch.testing.assert_close(out.losses["task"], rows.mean())


def errors(spec: dict[str, Any], **models: nn.Module) -> list[str]:
    return [str(d) for d in kdgraph.check(spec, models=models) if d.severity == "error"]


@pytest.mark.parametrize("shape", [["B", 2], ["B", 3, 5], [3]])
def test_weights_of_another_shape_are_refused(shape: list[Any]) -> None:
    (error,) = errors(tokens(shape), student=Tokens())
    assert "error[KD303]: edge 'task': weight 'w'" in error
    assert "nor one per row of cross_entropy" in error


def test_a_whole_batch_loss_takes_one_number_only() -> None:
    spec = copy.deepcopy(SPEC)
    spec["losses"]["relation"]["weight"] = "trusted"
    (error,) = errors(spec, **_meta())
    assert "error[KD303]: edge 'relation'" in error
    assert "a signal that is one number" in error


def test_a_temperature_is_one_number_or_one_per_sample() -> None:
    spec = copy.deepcopy(SPEC)
    spec["losses"]["soft"]["tau"] = "many"
    spec["signals"]["many"] = {"use": "affine", "of": "teacher.logits"}
    spec["signals"]["odd"] = {"use": "affine", "of": "trust", "scale": "many"}
    spec["losses"]["raw"]["weight"] = "odd"
    found = errors(spec, **_meta())
    assert any("signal 'odd': 'many'" in e and "neither one number nor one per" in e for e in found)
    spec["losses"]["raw"]["weight"] = "trusted"
    del spec["signals"]["odd"]
    (error,) = errors(spec, **_meta())
    assert "error[KD301]: edge 'soft': 'many'" in error
    assert "for 'tau'" in error
