"""VAM: its loss with the entropies of the rows, and that the student comes out plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.actions._attention import VirtualAttention
from kdgraph.models.load import build_model
from kdgraph.train import run

SPEC = Path(__file__).parents[2] / "specs" / "methods" / "vam.yaml"
ROWS = ("1a", "1b", "2a", "2b", "3a", "3b")


class Given(nn.Module):
    """The layout of the student, whose convolutions of 1 x 1 are read one by one; logits are given.

    All layers have the golden weights and attention; what they give is not used.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros((), dtype=torch.float64))
        for stage in (1, 2, 3):
            block = nn.Sequential()
            for name in ("conv1", "conv2"):
                conv = nn.Conv2d(size, size, 1, bias=False, dtype=torch.float64)
                numbers = torch.arange(size**2, dtype=torch.float64)
                conv.weight.data = ((numbers - 7.5) / 10).reshape(size, size, 1, 1)
                block.add_module(name, conv)
            setattr(self, f"layer{stage}", nn.Sequential(block))

    def forward(self, image: Tensor) -> Tensor:
        x = image[:, :, None, None]
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return image[:, :3] + self.offset + 0 * x.sum()


def compiled(*changes: str) -> kdgraph.DistillModule:
    """The shipped losses and action, in float64, over rows of 2 x 2 blocks."""
    text: dict[str, Any] = {
        "kdgraph": 1,
        "extends": str(SPEC),
        "name": "vam-known",
        "batch": {
            "image": {"shape": ["B", 4], "dtype": "float64"},
            "label": {"shape": ["B"], "dtype": "int64", "classes": 3},
        },
    }
    models = {"student": Given(4), "teacher": Given(4)}
    return kdgraph.compile(text, models=models, set=["stages.0.before.0.size=2", *changes])


def test_known_entropies_in_the_loss() -> None:
    step = compiled()
    student: Any = step.student
    for m in student.modules():
        if isinstance(m, VirtualAttention):
            m.log_rows.logits.data = torch.tensor([[0.2, 0.9], [1, -1]], dtype=torch.float64)
    x = torch.tensor([[1, 2, -1, 0.5], [0.1, 0.2, 0.3, 0]], dtype=torch.float64)
    out = step(image=x, label=torch.tensor([0, 1]))
    for name in ROWS:
        assert out.losses[f"entropy{name}"].item() == pytest.approx(0.587454733703, rel=1e-8)
    rest = 0.1 * out.losses["label"] + 0.9 * out.losses["soft"]
    assert out.losses["soft"].item() == pytest.approx(0, abs=1e-12)  # equal logits
    gamma = kdgraph.load_spec(SPEC).signals["gamma"].value  # type: ignore[attr-defined]
    # what a signal makes of a number is float32
    assert (out.loss - rest).item() == pytest.approx(gamma * 6 * 0.587454733703, rel=1e-7)
    y = student.layer1[0].conv1(x[:1, :, None, None]).flatten().tolist()
    known = [-0.144813264673, -0.067870708655, 0.342355860766, 1.517175166819]
    assert y == pytest.approx([2 * v for v in known], abs=1e-11)  # with the gain


@pytest.fixture(scope="module", name="step")
def _step() -> kdgraph.DistillModule:
    torch.manual_seed(0)
    return kdgraph.compile(SPEC, set=["models.teacher.source=cifar/resnet8"])


def test_the_student_starts_as_it_would_without_attention(step: kdgraph.DistillModule) -> None:
    torch.manual_seed(0)
    plain = build_model("cifar/resnet8", {"in_channels": 1, "num_classes": 10, "width": 0.5})
    own: Any = step.student
    attended = [n for n, m in own.named_modules() if isinstance(m, VirtualAttention)]
    assert attended == [f"layer{s}.0.conv{c}" for s in (1, 2, 3) for c in (1, 2)]
    for m in own.modules():
        if isinstance(m, VirtualAttention):
            m.log_rows.logits.data.zero_()
    state = {n.replace("conv1.conv.", "conv1.").replace("conv2.conv.", "conv2."): v
             for n, v in own.state_dict().items() if "log_rows" not in n}  # fmt: skip
    plain.load_state_dict(state)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(plain.eval()(x), own.eval()(x), rtol=1e-4, atol=1e-5)
    step.train()


def test_entropies_against_numpy_and_they_fall_alone(step: kdgraph.DistillModule) -> None:
    own: Any = step.student
    random = torch.Generator().manual_seed(3)
    for m in own.modules():
        if isinstance(m, VirtualAttention):
            m.log_rows.logits.data.normal_(generator=random)
    batch = {"image": torch.randn(4, 1, 8, 8, generator=random), "label": torch.arange(4)}
    out = step(**batch)
    for name in ROWS:
        conv = own.get_submodule(f"layer{name[0]}.0.conv{1 if name[1] == 'a' else 2}")
        a = np.exp(conv.log_rows.logits.detach().numpy() / 0.5)
        a = a / a.sum(1, keepdims=True)
        want = -(a * np.log(a)).sum()
        assert out.losses[f"entropy{name}"].item() == pytest.approx(want, rel=1e-5)
    logits = [m.log_rows.logits for m in own.modules() if isinstance(m, VirtualAttention)]
    whole = sum(out.losses[f"entropy{name}"] for name in ROWS)
    grads = torch.autograd.grad(whole, logits)  # type: ignore[arg-type]
    with torch.no_grad():
        for a, grad in zip(logits, grads, strict=True):
            a -= 0.01 * grad
    after = step(**batch)
    assert all(after.losses[f"entropy{n}"] < out.losses[f"entropy{n}"] for n in ROWS)


def test_a_checkpoint_goes_on_with_its_attention(step: kdgraph.DistillModule) -> None:
    torch.manual_seed(1)
    fresh = kdgraph.compile(SPEC, set=["models.teacher.source=cifar/resnet8"])
    fresh.load_state_dict(step.state_dict())
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(fresh.student.eval()(x), step.student.eval()(x))
    step.train()


def test_the_saved_student_is_plain_and_equal(step: kdgraph.DistillModule, tmp_path: Path) -> None:
    step.save_student(tmp_path / "student.safetensors")
    args = {"in_channels": 1, "num_classes": 10, "width": 0.5}
    plain = build_model("cifar/resnet8", args, weights=tmp_path / "student.safetensors")
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(plain.eval()(x), step.student.eval()(x), rtol=1e-4, atol=1e-5)
    step.train()


def test_it_trains(tmp_path: Path) -> None:
    small = ["data.limit=100", "train.teacher.epochs=1", "models.teacher.source=cifar/resnet8"]
    result = run(SPEC, out=tmp_path, steps=2, set=small, device="cpu", compare=True)
    assert [r.steps for r in (*result.runs, *result.alone)] == [2, 2]
