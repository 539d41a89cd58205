"""KDExplainer: its loss on known numbers, both stages, the binary form of its heads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import kdgraph
from kdgraph.train import run

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "specs" / "methods" / "kdexplainer.yaml"
Shipped = Callable[..., kdgraph.DistillModule]  # conftest.py

SMALL = ["models.student.args.width=0.125", "models.teacher.source=cifar/resnet8"]
Z_S = [[2, 0.5, -1], [0.1, 0.2, 0.3]]
Z_T = [[1, 1.5, -0.5], [0, 2, -1]]
CE, KL4 = 0.671627072443, 0.620981946577  # mean cross-entropy; KL at 4 times 4 squared


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
def test_known_loss(shipped: Shipped, dtype: torch.dtype, rel: float) -> None:
    step = shipped("kdexplainer", dtype=dtype)
    z_s, z_t = (torch.tensor(z, dtype=dtype) for z in (Z_S, Z_T))
    out = step(z_s=z_s, z_t=z_t, label=torch.tensor([0, 1]))
    assert out.losses["label"].item() == pytest.approx(CE, rel=rel)
    assert out.losses["soft"].item() == pytest.approx(KL4, rel=rel)
    assert out.loss.item() == pytest.approx(0.1 * CE + 0.9 * KL4, rel=rel)


class Units(nn.Module):
    """Hands on what it is given, plus an offset that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


def test_known_binary_form() -> None:
    """As the page of the method shows it."""
    page = (ROOT / "docs" / "methods" / "kdexplainer.md").read_text()
    shown = re.search("```yaml\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    wide = {"dtype": "float64"}
    spec = {
        "kdgraph": 1,
        "name": "binary",
        "batch": {
            "units": {"shape": ["B", 3, 2], **wide},
            "z_t": {"shape": ["B", 3], **wide},
            "label": {"shape": ["B"], "dtype": "int64", "classes": 3},
        },
        "models": {
            "teacher": {"input": "z_t", "taps": {"logits": "output"}},
            "student": {"input": "units", "taps": {"heads": "output"}},
        },
        **yaml.safe_load(shown[1]),
    }
    step = kdgraph.compile(spec, models={"teacher": Units(), "student": Units()})
    heads = torch.tensor([[[1.2, -0.3], [0.4, 0.9], [-0.5, 0.1]]], dtype=torch.float64)
    z_t = torch.tensor(Z_T[:1], dtype=torch.float64)
    out = step(units=heads, z_t=z_t, label=torch.tensor([0]))
    assert out.losses["soft"].item() == pytest.approx(0.822772333989, rel=1e-8)
    assert out.losses["label"].item() == pytest.approx(1.112978212649, rel=1e-8)
    assert out.loss.item() == pytest.approx(0.851792921855, rel=1e-8)


@pytest.fixture(scope="module", name="step")
def _step() -> kdgraph.DistillModule:
    return compiled(0)


def compiled(seed: int) -> kdgraph.DistillModule:
    torch.manual_seed(seed)
    return kdgraph.compile(SPEC, set=SMALL)


def batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {"image": torch.randn(6, 1, 8, 8, generator=random), "label": torch.arange(6)}


def test_both_stages(step: kdgraph.DistillModule) -> None:
    """First soft routes that sharpen; then the tree that was found, with weights from scratch."""
    student: Any = step.student
    assert [student.epoch.item(), student.hard.item()] == [1, False]
    loss = step(**batch()).loss
    loss.backward()
    assert all(route.log_rows.logits.grad.abs().sum() > 0 for route in student.routes)
    epochs = []
    for done in range(1, 11):
        step.after_epoch(done)
        epochs.append(student.epoch.item())
    assert epochs == [*range(31, 272, 30), 271]
    assert step(**batch()).loss != loss
    routes = [route.log_rows.logits.detach().clone() for route in student.routes]
    before = {n: p.detach().clone() for n, p in student.named_parameters()}

    step.set_stage("hard")
    assert [student.epoch.item(), student.hard.item()] == [271, True]
    anew = [n for n, p in student.named_parameters() if not torch.equal(p, before[n])]
    assert {n for n in anew if "conv" in n or "heads" in n} == {
        n for n in before if "conv" in n or "heads" in n
    }
    assert all(
        m.running_mean.abs().sum() == 0 for m in student.modules() if hasattr(m, "running_mean")
    )
    trained = [p for p in step.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05, weight_decay=5e-4)
    for _ in range(2):
        optimizer.zero_grad()
        step(**batch()).loss.backward()
        optimizer.step()
    for route, old in zip(student.routes, routes, strict=True):
        assert torch.equal(route.log_rows.logits, old)
        rows = route.log_rows(student.epoch, student.hard).exp()
        assert torch.equal(rows, nn.functional.one_hot(old.argmax(1), old.shape[1]).float())


def test_a_hard_tree_is_that_of_its_chosen_blocks() -> None:
    """A block that nobody reads has no say, and no gradient."""
    step = compiled(1)
    step.set_stage("hard")
    student: Any = step.student.eval()
    step.train()
    step(**batch()).loss.backward()
    read: set[int] = set(student.routes[-1].log_rows.logits.argmax(1).tolist())
    level = student.levels[-1]
    grads = level.conv2.weight.grad.reshape(level.blocks, -1).abs().sum(1)
    assert {i for i, g in enumerate(grads.tolist()) if g > 0} == read
    assert len(read) < 8


def test_a_checkpoint_of_either_stage_goes_on(step: kdgraph.DistillModule) -> None:
    fresh = compiled(2)
    fresh.load_state_dict(step.state_dict())
    assert fresh.stages is not None
    assert step.stages is not None
    assert fresh.stages.leg == step.stages.leg
    assert fresh.student.get_buffer("epoch") == step.student.get_buffer("epoch")
    fresh.eval()
    step.eval()
    assert torch.equal(fresh(**batch()).losses["label"], step(**batch()).losses["label"])
    step.train()


def test_what_is_saved_is_scored_alike(step: kdgraph.DistillModule, tmp_path: Path) -> None:
    """Epoch and mode are in the weights, so that nothing else has to be known."""
    from kdgraph.models.load import build_model

    step.save_student(tmp_path / "student.safetensors")
    args = {"in_channels": 1, "num_classes": 10, "width": 0.125, "pool": 1}
    plain: Any = build_model("tree/kdexplainer", args, weights=tmp_path / "student.safetensors")
    assert plain.epoch == step.student.get_buffer("epoch")
    assert plain.hard == step.student.get_buffer("hard")
    image = batch()["image"]
    assert torch.equal(plain.eval()(image), step.student.eval()(image))
    step.train()


def test_it_trains_through_both_stages(tmp_path: Path) -> None:
    small = [
        "data.limit=60", "train.teacher.epochs=1", "stages.0.epochs=1", "stages.1.epochs=1",
    ]  # fmt: skip
    result = run(SPEC, out=tmp_path, set=[*SMALL, *small], device="cpu")
    assert result.runs[0].steps == 2
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
