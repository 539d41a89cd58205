"""A compiled step in the Trainer of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import kdgraph
from kdgraph.integrations.transformers import Distillation

K, L = 3, 5
SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "tokens",
    "batch": {
        "x": {"shape": ["B", "L", 4]},
        "labels": {"shape": ["B", "L"], "dtype": "int64", "classes": K},
    },
    "models": {
        "teacher": {"taps": {"logits": "output"}},
        "student": {"taps": {"mid": "output_layer", "logits": "output"}},
    },
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "labels"},
        "soft": {
            "use": "soft_target",
            "student": "student.logits",
            "teacher": "teacher.logits",
            "weight": {"linear": [2.0, 0.0], "iterations": [0, 4]},
        },
    },
}


def net(width: int) -> nn.Module:
    layers = nn.Sequential(nn.Linear(4, width), nn.Tanh())
    layers.add_module("output_layer", nn.Linear(width, K))
    return layers


def compiled() -> kdgraph.DistillModule:
    torch.manual_seed(1)
    return kdgraph.compile(SPEC, models={"teacher": net(7), "student": net(5)})


def rows(count: int = 12) -> list[dict[str, Tensor]]:
    """Rows of which the first have few labels."""
    torch.manual_seed(2)
    label = torch.randint(0, K, (count, L))
    label[: count // 2, 1:] = -100
    return [
        {"x": torch.randn(L, 4), "labels": label[i], "note": torch.zeros(1)} for i in range(count)
    ]


def trainer(step: kdgraph.DistillModule, folder: Path, **settings: Any) -> Distillation:
    plain: dict[str, Any] = {
        "per_device_train_batch_size": 12, "max_steps": 1, "learning_rate": 0.1,
        "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    args = TrainingArguments(output_dir=str(folder), **plain | settings)
    return Distillation(model=step, args=args, train_dataset=rows(), eval_dataset=rows())


def weights(step: kdgraph.DistillModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in step.student.named_parameters()}


@pytest.mark.parametrize("batch", [3, 5])
def test_accumulation_is_one_large_batch(batch: int, tmp_path: Path) -> None:
    whole, parts = compiled(), compiled()
    one = trainer(whole, tmp_path)
    one.train()
    several = trainer(
        parts, tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=4
    )
    several.train()
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, msg=name)
    for key in ("loss", "losses/label", "losses/soft"):
        values = [t.state.log_history[0][key] for t in (one, several)]
        assert values[1] == pytest.approx(values[0], rel=1e-4), key


def test_a_window_is_closed_behind_its_last_batch(tmp_path: Path) -> None:
    step = compiled()
    mine = trainer(step, tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=4)
    mine.train()
    batch = {k: torch.stack([row[k] for row in rows()]) for k in ("x", "labels")}
    torch.manual_seed(1)
    models = {"teacher": net(7), "student": step.student}
    other = kdgraph.compile(SPEC, models=models)
    torch.testing.assert_close(step(**batch).loss, other(**batch).loss)


def test_schedules_move_and_edges_are_logged(tmp_path: Path) -> None:
    step = compiled()
    mine = trainer(step, tmp_path, max_steps=3, logging_steps=2)
    weight: list[float] = []
    step.register_forward_pre_hook(
        lambda *_: weight.append(step.steer.get_buffer("losses_soft_weight").item())
    )
    mine.train()
    assert weight == [2.0, 1.5, 1.0]
    logged = mine.state.log_history[0]
    assert logged["loss"] == pytest.approx(
        logged["losses/label"] + 1.75 * logged["losses/soft"], abs=0.05
    )


def test_evaluation_sees_the_student_alone(tmp_path: Path) -> None:
    step = compiled()
    mine = trainer(step, tmp_path, per_device_eval_batch_size=5)
    seen: dict[str, Any] = {}

    def score(found: Any) -> dict[str, float]:
        seen["logits"], seen["labels"] = found.predictions, found.label_ids
        return {"right": float((found.predictions.argmax(-1) == found.label_ids).mean())}

    mine.compute_metrics = score
    metrics = mine.evaluate()
    x = torch.stack([row["x"] for row in rows()])
    np.testing.assert_allclose(seen["logits"], step.student(x).detach().numpy(), atol=1e-6)
    assert (seen["labels"] == torch.stack([row["labels"] for row in rows()]).numpy()).all()
    assert metrics["eval_right"] > 0
    assert not any(key.startswith("losses/") for key in metrics)


def test_a_checkpoint_is_taken_up_and_the_student_is_saved_plain(tmp_path: Path) -> None:
    straight = compiled()
    trainer(straight, tmp_path / "a", max_steps=4).train()
    first, then = compiled(), compiled()
    trainer(first, tmp_path / "b", max_steps=2, save_strategy="steps", save_steps=2).train()
    second = trainer(then, tmp_path / "b", max_steps=4)
    second.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    for name, value in weights(straight).items():
        torch.testing.assert_close(weights(then)[name], value, msg=name)
    second.save_model(str(tmp_path / "student"))
    plain = net(5)
    plain.load_state_dict(load_file(tmp_path / "student" / "model.safetensors"))
    torch.testing.assert_close(dict(plain.named_parameters()), weights(then))


class Tied(nn.Module):
    """Its head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(K, 4)
        self.head = nn.Linear(4, K, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.embed(torch.zeros((), dtype=torch.int64)))


def test_a_student_with_a_tied_weight_is_taken_up(tmp_path: Path) -> None:
    step = kdgraph.compile(
        SPEC | {"models": {m: {"taps": {"logits": "output"}} for m in ("teacher", "student")}},
        models={"teacher": net(7), "student": Tied()},
    )
    mine = trainer(step, tmp_path, save_strategy="steps", save_steps=1)
    mine.train()
    before = step.student.embed.weight.detach().clone()
    with torch.no_grad():
        step.student.embed.weight.zero_()
    mine._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert torch.equal(step.student.embed.weight, before)
    assert step.student.head.weight is step.student.embed.weight


def test_a_model_of_transformers_is_saved_its_own_way(tmp_path: Path) -> None:
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20, "num_labels": K}

    def bert(width: int) -> BertForSequenceClassification:
        return BertForSequenceClassification(
            BertConfig(hidden_size=width, intermediate_size=8, **small)
        )

    spec = {
        "kdgraph": 1,
        "name": "bert",
        "batch": {
            "input_ids": {"shape": ["B", 6], "dtype": "int64", "classes": 20},
            "labels": {"shape": ["B"], "dtype": "int64", "classes": K},
        },
        "models": {
            m: {"input": {"input_ids": "input_ids"}, "taps": {"logits": "output.logits"}}
            for m in ("teacher", "student")
        },
        "losses": SPEC["losses"],
    }
    step = kdgraph.compile(spec, models={"teacher": bert(8), "student": bert(4)})
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    rows = [{"input_ids": torch.arange(6) + i, "labels": i % K} for i in range(4)]
    mine = Distillation(model=step, args=args, train_dataset=rows)
    assert mine.label_names == ["labels"]  # and not the tokens, although they have classes
    mine.train()
    mine.save_model(str(tmp_path / "student"))
    again = BertForSequenceClassification.from_pretrained(tmp_path / "student")
    ids = torch.stack([row["input_ids"] for row in rows])
    step.student.eval()
    torch.testing.assert_close(again(ids).logits, step.student(ids).logits)


def test_what_is_no_step_is_refused(tmp_path: Path) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(kdgraph.KDGraphError, match=r"KD734.*not Sequential"):
        Distillation(model=net(4), args=args)
    assert args.n_gpu == 0
    args._n_gpu = 2
    with pytest.raises(kdgraph.KDGraphError, match=r"KD734.*2 GPUs"):
        Distillation(model=compiled(), args=args)


def test_activations_are_checkpointed_by_the_student(tmp_path: Path) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD734.*too late for a step"):
        trainer(compiled(), tmp_path, gradient_checkpointing=True)


def test_there_are_no_losses_beside_those_of_the_spec(tmp_path: Path) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"KD734.*`label_smoothing_factor`"):
        trainer(compiled(), tmp_path, label_smoothing_factor=0.1)
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    with pytest.raises(kdgraph.KDGraphError, match=r"KD734.*`compute_loss_func`"):
        Distillation(model=compiled(), args=args, compute_loss_func=lambda *_, **__: None)


def test_it_stands_before_another_trainer() -> None:
    class Other(Trainer):
        pass

    class Mine(Distillation, Other):
        pass

    assert [c.__name__ for c in Mine.__mro__[:4]] == ["Mine", "Distillation", "Other", "Trainer"]
