"""DIL: both sides of the exchange on known numbers, what turns change, who stays as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

import kdgraph
from kdgraph.train import run

SPEC = Path(__file__).parents[2] / "specs" / "methods" / "dil.yaml"
MODELS = ("student", "assistant1", "assistant2", "assistant3")
RELATIVE = {torch.float64: 1e-8, torch.float32: 1e-5}


class Given(nn.Module):
    """Logits [B, L, K] handed on, plus an offset for each class that can be trained."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(3, dtype=dtype))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.offset


def shipped(
    *, assistants: int = 3, stages: bool = False, dtype: torch.dtype = torch.float64
) -> kdgraph.DistillModule:
    """Signals, edges and, if asked for, stages as they ship, over given logits of 3 classes.

    Without stages all edges are there together, and all models are trained.
    """
    text: dict[str, Any] = yaml.safe_load(SPEC.read_text())
    names = MODELS[: assistants + 1]
    last = [f"{edge}{n}" for n in range(assistants + 1, 4) for edge in ("label", "back")]
    losses = {name: loss for name, loss in text["losses"].items() if name not in last}
    text["signals"]["ensemble"]["of"] = [f"{name}.logits" for name in names[1:]]
    logits = {"shape": ["B", "L", 3], "dtype": str(dtype).removeprefix("torch.")}
    spec: dict[str, Any] = {
        "kdgraph": 1,
        "name": "dil",
        "batch": {
            **{f"z_{name}": logits for name in names},
            "label": {"shape": ["B", "L"], "dtype": "int64", "classes": 3},
        },
        "models": {
            name: {"input": f"z_{name}", "trainable": True, "taps": {"logits": "output"}}
            for name in names
        },
        "signals": text["signals"],
        "losses": losses,
    }
    if stages:
        assert assistants == 3
        spec["stages"] = text["stages"]
    return kdgraph.compile(spec, models={name: Given(dtype) for name in names})


def golden_batch(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """One sequence of two steps."""
    rows = {
        "student": [[2, 0.5, -1], [0.1, 0.2, 0.3]],
        "assistant1": [[1, 1.5, -0.5], [0, 2, -1]],
        "assistant2": [[3, 0, 0], [1, 1, 0]],
    }
    logits = {f"z_{name}": torch.tensor([z], dtype=dtype) for name, z in rows.items()}
    return {**logits, "label": torch.tensor([[0, 1]])}


def longer(batch: dict[str, Tensor], fill: float) -> dict[str, Tensor]:
    """The same sequences with a step more, which is padding."""
    more = {
        k: torch.cat([v, torch.full_like(v[:, :1], fill)], 1)
        for k, v in batch.items()
        if k != "label"
    }
    return {**more, "label": F.pad(batch["label"], (0, 1), value=-100)}


def of_student(losses: dict[str, Tensor]) -> Tensor:
    return 0.5 * losses["label"] + 0.5 * losses["soft"]


def of_assistant(losses: dict[str, Tensor], n: int) -> Tensor:
    return 0.5 * losses[f"label{n}"] + 0.5 * losses[f"back{n}"]


@pytest.mark.parametrize("dtype", RELATIVE)
@pytest.mark.parametrize("padded", [None, 0.0, 1e3])
def test_golden(dtype: torch.dtype, padded: float | None) -> None:
    """A step of padding changes nothing, whatever is said there."""
    step = shipped(assistants=2, dtype=dtype)
    batch = golden_batch(dtype)
    out = step(**(batch if padded is None else longer(batch, padded)))
    near = RELATIVE[dtype]
    assert of_student(out.losses).item() == pytest.approx(0.429458533995, rel=near)
    assert of_assistant(out.losses, 1).item() == pytest.approx(0.623445143369, rel=near)
    assert of_assistant(out.losses, 2).item() == pytest.approx(0.324491891380, rel=near)
    both = 0.429458533995 + 0.623445143369 + 0.324491891380
    assert out.loss.item() == pytest.approx(both, rel=near)


def batch_of(seed: int = 0, steps: int = 5) -> dict[str, Tensor]:
    """Two sequences of random logits, the last step of the second one padding."""
    g = torch.Generator().manual_seed(seed)
    found = {
        f"z_{name}": torch.randn(2, steps, 3, generator=g, dtype=torch.float64) for name in MODELS
    }
    label = torch.randint(3, (2, steps), generator=g)
    label[1, -1] = -100
    return {**found, "label": label}


def log_softmax(z: np.ndarray) -> np.ndarray:
    found: np.ndarray = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return found


def test_three_assistants_against_numpy() -> None:
    batch = batch_of()
    out = shipped()(**batch)
    z = {name: batch[f"z_{name}"].numpy() for name in MODELS}
    label = batch["label"].numpy()
    there = label != -100
    mean = np.mean([np.exp(log_softmax(z[name] / 2)) for name in MODELS[1:]], 0)

    def hard(z: np.ndarray) -> float:
        return float(-log_softmax(z)[there, label[there]].mean())

    def soft(q: np.ndarray, z: np.ndarray) -> float:
        kl = 4 * (q * (np.log(q) - log_softmax(z / 2))).sum(-1)
        return float(kl[there].mean())

    pupil = np.exp(log_softmax(z["student"] / 2))
    want = {"label": hard(z["student"]), "soft": soft(mean, z["student"])}
    for n in (1, 2, 3):
        want[f"label{n}"] = hard(z[f"assistant{n}"])
        want[f"back{n}"] = soft(pupil, z[f"assistant{n}"])
    assert {k: v.item() for k, v in out.losses.items()} == pytest.approx(want, rel=1e-8)


def offsets(step: kdgraph.DistillModule) -> list[nn.Parameter]:
    return [step.get_parameter(f"models.{name}.offset") for name in MODELS]


def test_no_gradient_across() -> None:
    """What teaches is a constant, also where everyone learns from one and the same forward."""
    step = shipped()
    losses = step(**batch_of()).losses
    for edge, loss in losses.items():
        grads = torch.autograd.grad(loss, offsets(step), retain_graph=True, allow_unused=True)
        own = "student" if edge in ("label", "soft") else f"assistant{edge[-1]}"
        reached = dict(zip(MODELS, grads, strict=True))
        assert reached.pop(own).abs().max() > 1e-3
        assert set(reached.values()) == {None}


def test_padding_moves_no_gradient() -> None:
    grads = []
    for batch in (batch_of(), longer(batch_of(), 50.0)):
        step = shipped()
        step(**batch).loss.backward()
        grads.append([p.grad for p in offsets(step)])
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-15)


def learned(step: kdgraph.DistillModule) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in zip(MODELS, offsets(step), strict=True)}


def go(step: kdgraph.DistillModule, batch: dict[str, Tensor], rate: float = 0.5) -> None:
    """One step of plain gradient descent."""
    step.zero_grad()
    step(**batch).loss.backward()
    with torch.no_grad():
        for p in step.parameters():
            if p.grad is not None:
                p.sub_(p.grad, alpha=rate)


def by_hand(batch: dict[str, Tensor], *, turns: bool, rounds: int, rate: float = 0.5) -> Any:
    """Rounds of both kinds in plain torch, from the formulas."""
    offset = {name: torch.zeros(3, dtype=torch.float64, requires_grad=True) for name in MODELS}
    label, there = batch["label"], (batch["label"] != -100).double()

    def loss(name: str) -> Tensor:
        z = {n: batch[f"z_{n}"] + offset[n] for n in MODELS}
        said = {n: (z[n].detach() / 2).softmax(-1) for n in MODELS}
        mean = torch.stack([said[n] for n in MODELS[1:]]).mean(0)
        q = mean if name == "student" else said["student"]
        hard = F.cross_entropy(z[name].transpose(1, 2), label)
        kl = (q * (q.log() - (z[name] / 2).log_softmax(-1))).sum(-1)
        return 0.5 * hard + 0.5 * 4 * (kl * there).sum() / there.sum()

    for _ in range(rounds):
        for part in (MODELS[:1], MODELS[1:]) if turns else (MODELS,):
            learners = [offset[n] for n in part]
            grads = torch.autograd.grad(torch.stack([loss(n) for n in part]).sum(), learners)
            with torch.no_grad():
                for p, g in zip(learners, grads, strict=True):
                    p.sub_(g, alpha=rate)
    return {n: p.detach() for n, p in offset.items()}


def test_in_turns_and_at_once_differ() -> None:
    batch = batch_of()
    joint, turns = shipped(), shipped(stages=True)
    for _ in range(3):
        go(joint, batch)
        for phase in ("student", "assistants"):
            turns.set_stage(f"together.{phase}")
            go(turns, batch)
    at_once, in_turns = (by_hand(batch, turns=t, rounds=3) for t in (False, True))
    torch.testing.assert_close(learned(joint), at_once, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(learned(turns), in_turns, rtol=1e-10, atol=1e-14)
    assert all((at_once[n] - in_turns[n]).abs().max() > 1e-3 for n in MODELS)


def test_who_waits_stays_as_it_is() -> None:
    step = shipped(stages=True)
    for stage, learners in (
        ("apart", MODELS),
        ("together.student", MODELS[:1]),
        ("together.assistants", MODELS[1:]),
    ):
        step.set_stage(stage)
        before = learned(step)
        go(step, batch_of())
        moved = [n for n, p in learned(step).items() if not torch.equal(p, before[n])]
        assert moved == list(learners)


def test_who_teaches_does_so_without_dropout() -> None:
    step = shipped(stages=True).train()
    for phase, learners in (("student", MODELS[:1]), ("assistants", MODELS[1:])):
        step.set_stage(f"together.{phase}")
        assert [n for n in MODELS if step.models[n].training] == list(learners)
        assert [n for n, p in zip(MODELS, offsets(step), strict=True) if p.requires_grad] == list(
            learners
        )


def test_the_first_stage_knows_labels_alone() -> None:
    step, batch = shipped(stages=True), batch_of()
    out = step(**batch)
    assert list(out.losses) == ["label", "label1", "label2", "label3"]
    want = sum(F.cross_entropy(batch[f"z_{n}"].transpose(1, 2), batch["label"]) for n in MODELS)
    torch.testing.assert_close(out.loss, want)


SMALL = [
    "data.files=4",
    "data.limit=32",
    "data.held_out=16",
    "data.batch_size=16",
    "data.length=12",
    "models.assistant1.args.width=8",
    "models.assistant2.args.width=8",
    "models.assistant3.args.width=8",
]


def test_it_trains(tmp_path: Path) -> None:
    """Through all stages, with turns of a batch each: two steps by themselves, two together."""
    spec: dict[str, Any] = yaml.safe_load(SPEC.read_text())
    apart, together = spec["stages"]
    apart["epochs"] = together["epochs"] = 1
    del together["rounds"]
    for phase in together["phases"]:
        del phase["epochs"]
        phase["steps"] = 1
    result = run(spec, out=tmp_path, set=SMALL, device="cpu")
    assert result.runs[0].steps == 4
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
