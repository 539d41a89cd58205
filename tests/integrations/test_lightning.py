"""A compiled step as a LightningModule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

import kdgraph
from kdgraph.integrations.lightning import Distillation

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "vectors",
    "batch": {"x": {"shape": ["B", 4]}},
    "models": {
        "teacher": {"taps": {"logits": "output"}},
        "student": {"taps": {"logits": "output"}},
    },
    "losses": {
        "soft": {
            "use": "soft_target",
            "student": "student.logits",
            "teacher": "teacher.logits",
            "weight": {"linear": [2.0, 1.0], "epochs": [0, 2]},
        },
        "logits": {
            "use": "logit_mse",
            "student": "student.logits",
            "teacher": "teacher.logits",
            "weight": {"linear": [1.0, 0.0], "iterations": [0, 4]},
        },
    },
}


class Learner(Distillation):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watch(Callback):
    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        steer = {n: b.item() for n, b in module.distill.steer.named_buffers()}
        logged = {n: float(v) for n, v in trainer.callback_metrics.items()}
        self.rows.append(steer | logged)


def compiled() -> kdgraph.DistillModule:
    torch.manual_seed(1)
    models = {"teacher": nn.Linear(4, 3), "student": nn.Linear(4, 3)}
    return kdgraph.compile(SPEC, models=models)


def fit(folder: Path, batch: int, **settings: Any) -> tuple[Learner, list[dict[str, float]]]:
    torch.manual_seed(2)
    rows: list[dict[str, Tensor]] = [
        {"x": torch.randn(4), "name": torch.zeros(1)} for _ in range(8)
    ]
    learner, watch = Learner(compiled()), Watch()
    Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[watch], **settings,
    ).fit(learner, DataLoader(rows, batch))  # fmt: skip
    return learner, watch.rows


def test_schedules_move_and_edges_are_logged(tmp_path: Path) -> None:
    _, rows = fit(tmp_path, 4, max_epochs=2)
    assert [row["losses_soft_weight"] for row in rows] == [2.0, 1.75, 1.5, 1.25]
    assert [row["losses_logits_weight"] for row in rows] == [1.0, 0.75, 0.5, 0.25]
    for row in rows:
        total = row["losses_soft_weight"] * row["losses/soft"]
        total += row["losses_logits_weight"] * row["losses/logits"]
        assert row["loss"] == pytest.approx(total)
    assert rows[3]["losses/logits"] < rows[1]["losses/logits"]  # of the same batch


def test_accumulation_is_one_large_batch(tmp_path: Path) -> None:
    whole, _ = fit(tmp_path, 8, max_steps=1)
    parts, rows = fit(tmp_path, 2, max_steps=1, accumulate_grad_batches=4)
    assert {row["losses_soft_weight"] for row in rows} == {2.0}
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_a_checkpoint_holds_no_teacher_and_is_taken_up(tmp_path: Path) -> None:
    learner, _ = fit(tmp_path, 4, max_epochs=1)
    state = learner.state_dict()
    assert not any("teacher" in name for name in state)
    again = Learner(compiled())
    again.load_state_dict(state)
    assert torch.equal(again.distill.student.weight, learner.distill.student.weight)
    assert again.distill.steer.iteration == 1


def test_a_wrong_batch_is_named() -> None:
    learner = Learner(compiled())
    unnamed: Any = [torch.zeros(2, 4)]
    with pytest.raises(kdgraph.KDGraphError, match=r"KD702.*step\(x=...\)"):
        learner.training_step(unnamed, 0)
    with pytest.raises(kdgraph.KDGraphError, match=r"KD701.*no 'x'; given: y"):
        learner.training_step({"y": torch.zeros(2, 4)}, 0)
