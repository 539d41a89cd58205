"""State that a model's own code writes, modes, and sizes that stay free: equal to the model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph


def compiled(net: nn.Module, taps: dict[str, str], **batch: Any) -> kdgraph.DistillModule:
    """A student taught by a copy of itself that differs by noise."""
    teacher = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.1)
    return kdgraph.compile(
        {
            "kdgraph": 1,
            "name": "state",
            "batch": batch or {"x": {"shape": ["B", 4]}},
            "models": {"teacher": {"taps": taps}, "student": {"taps": taps}},
            "losses": {
                "mse": {"use": "hint", "student": "student.out", "teacher": "teacher.out"},
            },
        },
        models={"teacher": teacher, "student": net},
    )


class Centre(nn.Module):
    """A running centre, re-assigned in forward, as in self-distillation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.register_buffer("centre", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        self.centre = 0.9 * self.centre + 0.1 * h.detach().mean(0)
        return h - self.centre


class Counter(nn.Module):
    """A Python number that forward moves."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.n = 1

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return self.body(x) / self.n


class Scaled(nn.Module):
    """A constant that depends on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * torch.tensor(3.0 if self.training else 1.0)


class Untraceable(nn.Module):
    """Leaves fx by control flow on a size; has a batch norm and divides by a length."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 2:
            x = self.body(x)
        return self.bn(x.sum(1) / x.shape[1])


@pytest.mark.parametrize("kind", [Centre, Counter])
def test_what_forward_writes_is_not_lost(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net = kind()
    plain = copy.deepcopy(net)
    step = compiled(net, {"out": "output", "body": "body.0"})
    for _ in range(3):
        x = torch.randn(5, 4)
        torch.testing.assert_close(step(x=x).outputs["student.out"], plain(x))
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(net.get_buffer(name), buffer)


def test_a_constant_of_the_mode_follows_it() -> None:
    torch.manual_seed(0)
    net = Scaled()
    step = compiled(net, {"out": "output", "body": "body.0"})
    x = torch.randn(5, 4)
    for mode in (True, False, True):
        step.train(mode)
        torch.testing.assert_close(step(x=x).outputs["student.out"], net(x))


@pytest.mark.parametrize("length", [16, 8, 24])
def test_every_free_size_stays_free(length: int) -> None:
    torch.manual_seed(0)
    net = Untraceable()
    step = compiled(net, {"out": "output"}, x={"shape": ["B", "L", 4]})
    assert step.report.captures["student"].rung in ("export", "ports")
    plain = copy.deepcopy(net)
    x = torch.randn(5, length, 4)
    torch.testing.assert_close(step(x=x).outputs["student.out"], plain(x))


def test_the_mode_that_counts_is_the_students() -> None:
    torch.manual_seed(0)
    net = Untraceable()
    step = compiled(net, {"out": "output"}, x={"shape": ["B", "L", 4]})
    x = torch.randn(5, 16, 4)
    step(x=x)
    step.student.eval()
    torch.testing.assert_close(step(x=x).outputs["student.out"], net(x))
    step.student.train()
    net.bn.eval()
    before = net.bn.running_mean.clone()
    if step.report.captures["student"].mode_dependent:
        with pytest.raises(kdgraph.KDGraphError, match="'bn' of 'student' is in another mode"):
            step(x=x)
    assert torch.equal(net.bn.running_mean, before)


def test_transformers_of_any_length() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    def llama(width: int) -> nn.Module:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=40, hidden_size=width, intermediate_size=2 * width,
                num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            )
        )  # fmt: skip

    torch.manual_seed(0)
    teacher, student = llama(16), llama(8)
    model = {"input": {"input_ids": "ids"}, "taps": {"logits": "output.logits"}}
    step = kdgraph.compile(
        {
            "kdgraph": 1,
            "name": "lengths",
            "batch": {"ids": {"shape": ["B", "L"], "dtype": "int64"}},
            "models": {"teacher": model, "student": model},
            "losses": {
                "soft": {
                    "use": "soft_target", "student": "student.logits",
                    "teacher": "teacher.logits",
                },
            },
        },
        models={"teacher": teacher, "student": student},
    )  # fmt: skip
    for length in (7, 16, 21):
        ids = torch.randint(0, 40, (3, length))
        out = step(ids=ids)
        torch.testing.assert_close(
            out.outputs["student.logits"], student(input_ids=ids).logits, rtol=1e-5, atol=1e-6
        )
