"""KDDP: a penalty on activations, neurons that go in the course of training, on known numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import kdgraph
from kdgraph.actions._activity import measure
from kdgraph.actions.prune import fit_widths
from kdgraph.models.load import build_model
from kdgraph.train import run
from kdgraph.train.data._load import eval_loader
from kdgraph.train.data._open import open_data

SPEC = Path(__file__).parents[2] / "specs" / "methods" / "kddp.yaml"
DOUBLE = torch.float64

W1 = [[1.0, -1.0], [0.5, 0.5], [-1.0, -1.0], [2.0, 0.0]]
B1 = [0.0, -0.1, -0.5, 0.0]
W2 = [[1.0, 0.5, 3.0, -1.0], [0.0, 1.0, 2.0, 0.5], [-1.0, 0.2, -2.0, 0.3]]
B2 = [0.1, 0.0, -0.1]
X = [[1.0, 0.5], [0.2, 1.0]]
ZT = [[1.0, 1.5, -0.5], [0.0, 2.0, -1.0]]
LABEL = [0, 1]


class Mlp(nn.Module):
    """Two inputs, four neurons of which the third is silent, three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.relu, self.classifier = nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)
        self.double()

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.relu(self.fc1(image)))  # type: ignore[no-any-return]


def student() -> Mlp:
    net, values = Mlp(), {"fc1.weight": W1, "fc1.bias": B1}
    values |= {"classifier.weight": W2, "classifier.bias": B2}
    net.load_state_dict({k: torch.tensor(v, dtype=DOUBLE) for k, v in values.items()})
    return net


def shipped(net: nn.Module, *changes: str) -> kdgraph.DistillModule:
    """Losses and stages as they ship; the teacher's logits are given in the batch."""
    text: dict[str, Any] = yaml.safe_load(SPEC.read_text())
    sizes = {"image": 2, "z_t": 3}
    batch = {name: {"shape": ["B", size], "dtype": "float64"} for name, size in sizes.items()}
    models = text["models"]
    spec = {
        "kdgraph": 1,
        "name": "kddp",
        "batch": {**batch, "label": {"shape": ["B"], "dtype": "int64", "classes": 3}},
        "models": {
            "teacher": {"input": "z_t", "taps": models["teacher"]["taps"]},
            "student": {"input": "image", "taps": models["student"]["taps"]},
        },
        "losses": text["losses"],
        "stages": text["stages"],
    }
    step = kdgraph.compile(
        spec,
        models={"student": net, "teacher": nn.Identity()},
        set=["losses.sparse.weight=0.01", *changes],
    )
    assert step.stages is not None
    step.stages.batches = lambda: iter([batch_of(0), batch_of(1)])
    return step


def batch_of(*rows: int) -> dict[str, Tensor]:
    chosen = list(rows) or [0, 1]
    given = {"image": torch.tensor(X, dtype=DOUBLE), "z_t": torch.tensor(ZT, dtype=DOUBLE)}
    return {**{k: v[chosen] for k, v in given.items()}, "label": torch.tensor(LABEL)[chosen]}


def log_softmax(z: np.ndarray) -> np.ndarray:
    found: np.ndarray = z - np.log(np.exp(z).sum(1, keepdims=True))
    return found


def test_known_loss() -> None:
    out = shipped(student())(**batch_of())
    assert out.loss.item() == pytest.approx(0.711959669151, rel=1e-11)
    assert out.losses["sparse"].item() == pytest.approx(2.025, rel=1e-12)


def test_as_shipped_against_numpy() -> None:
    hidden = np.maximum(np.array(X) @ np.array(W1).T + B1, 0)
    z_s, z_t = hidden @ np.array(W2).T + B2, np.array(ZT)
    label = -log_softmax(z_s)[range(2), LABEL].mean()
    p_s, p_t = log_softmax(z_s / 4), log_softmax(z_t / 4)
    soft = 16 * (np.exp(p_t) * (p_t - p_s)).sum(1).mean()
    penalty = np.abs(hidden).sum(1).mean()
    known = 0.1 * label + 0.9 * soft + 0.03 * penalty
    out = shipped(student(), "losses.sparse.weight=0.03")(**batch_of())
    assert out.loss.item() == pytest.approx(known, rel=1e-8)


def test_the_penalty_is_of_active_neurons_alone() -> None:
    step = shipped(student())
    step(**batch_of()).losses["sparse"].backward()
    grad = step.get_parameter("models.student.fc1.bias").grad
    # half for each of two samples on which a neuron is active
    assert grad is not None
    assert grad.tolist() == [0.5, 1.0, 0.0, 1.0]
    for name in ("weight", "bias"):
        assert step.get_parameter(f"models.student.classifier.{name}").grad is None


@pytest.mark.parametrize("epochs", [4, 5])
def test_the_silent_neuron_goes(epochs: int) -> None:
    """From the epoch on that the spec says; loss and logits stay what they were."""
    net = student()
    step = shipped(net, STAGES)
    before = step(**batch_of())
    lines = step.after_epoch(epochs)
    after = step(**batch_of())
    width = 3 if epochs == 5 else 4
    assert bool(lines) == (width == 3)
    assert after.outputs["student.hidden"].shape == (2, width)
    assert sum(p.numel() for p in net.parameters()) == (21 if width == 3 else 27)
    for name, value in before.losses.items():
        assert after.losses[name].item() == pytest.approx(value.item(), rel=1e-14)
    torch.testing.assert_close(
        after.outputs["student.logits"], before.outputs["student.logits"], rtol=0, atol=1e-14
    )


# as shipped, but for the fewest neurons there may be, of which there are only four here
STAGES = "stages.0.during.0.min_keep=1"


def test_the_last_stage_has_no_penalty_and_the_width_that_was_found() -> None:
    net = student()
    step = shipped(net, STAGES)
    step.after_epoch(5)
    penalty = 0.01 * step(**batch_of()).losses["sparse"]
    whole = step(**batch_of()).loss
    step.set_stage("settle")
    out = step(**batch_of())
    assert set(out.losses) == {"label", "soft"}
    assert out.loss.item() == pytest.approx((whole - penalty).item(), rel=1e-12)
    assert net.fc1.out_features == 3


def test_a_fresh_network_takes_up_the_course() -> None:
    step, again = shipped(student(), STAGES), shipped(Mlp(), STAGES)
    step.after_epoch(5)
    again.load_state_dict(step.state_dict())
    assert again.student.get_submodule("fc1").weight.shape == (3, 2)
    assert again(**batch_of()).loss == step(**batch_of()).loss


SMALL = [
    "data.limit=100",
    "stages=[{name: shrink, epochs: 2, during: [{use: prune, module: student.fc1, eps: 0.2}]}]",
]
TAUGHT = [*SMALL, "train.teacher.epochs=1", "models.teacher.source=cifar/resnet8"]
ALONE = [*SMALL, "models.teacher=null", "train.teacher=null", "losses.soft=null"]


def test_it_trains_and_what_it_saves_can_be_loaded(tmp_path: Path) -> None:
    result = run(SPEC, out=tmp_path, steps=2, set=TAUGHT, device="cpu")
    (pruned,) = result.runs[0].actions
    assert (pruned["stage"], pruned["epoch"]) == ("shrink", 1)
    assert pruned["did"][0].startswith("student.fc1: 128 -> ")
    args = yaml.safe_load(SPEC.read_text())["models"]["student"]["args"]
    plain = build_model("cifar/vgg8", args)
    fit_widths(plain, tmp_path / "student.safetensors")
    assert sum(p.numel() for p in plain.parameters()) == result.runs[0].parameters < 10_066


def test_resuming_behind_a_pruning_gives_the_same_numbers(tmp_path: Path) -> None:
    whole = run(SPEC, out=tmp_path / "whole", set=ALONE, device="cpu")
    run(SPEC, out=tmp_path / "parts", steps=3, set=ALONE, device="cpu")
    parts = run(SPEC, out=tmp_path / "parts", set=ALONE, device="cpu", resume=True)
    assert parts.runs[0].steps == whole.runs[0].steps == 4
    assert parts.runs[0].actions == whole.runs[0].actions != []
    files = [tmp_path / part / "student.safetensors" for part in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_activity_is_that_of_the_training_rows_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, and none shifted."""
    seen: list[Tensor] = []

    def measured(flow: Any, batches: Any, *how: Any, **more: Any) -> Any:
        seen.extend(batch["image"] for batch in batches())
        return measure(flow, batches, *how, **more)

    monkeypatch.setattr("kdgraph.actions._activity.measure", measured)
    run(SPEC, out=tmp_path, steps=2, set=ALONE, device="cpu")
    data, splits = open_data(kdgraph.load_spec(SPEC, set=ALONE))
    rows = eval_loader(splits.train, data)
    assert torch.equal(torch.cat(seen), torch.cat([batch["image"] for batch in rows]))
    assert len(torch.cat(seen)) == 100
