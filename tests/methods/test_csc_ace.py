"""CSC and ACE as a whole: the shipped spec, its numbers, where its gradients go, its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import kdgraph
import kdgraph.train

SPEC = Path(__file__).parents[2] / "specs" / "methods" / "csc_ace.yaml"


class Given(nn.Module):
    """Says what it was told to say: features [B, C, h, w] and logits [B, K, H, W]."""

    def __init__(self, features: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.features, self.logits = nn.Parameter(features), nn.Parameter(logits)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        nothing = 0 * image.sum()
        return {"features": self.features + nothing, "logits": self.logits + nothing}


def compiled(
    sides: dict[str, Given], label: Tensor, drop: tuple[str, ...] = (), **keys: Any
) -> kdgraph.DistillModule:
    """The shipped edges and signals over other networks, without an adapter."""
    text = yaml.safe_load(SPEC.read_text())
    taps = {"features": "output.features", "logits": "output.logits"}
    text["models"] = {name: {"taps": taps} for name in sides}
    text["links"]["features"]["adapter"] = "identity"
    text["batch"]["image"]["shape"] = [len(label), 1]
    classes = sides["student"].logits.shape[1]
    text["batch"]["label"] |= {"shape": list(label.shape), "classes": classes}
    for name in drop:
        del text["losses"][name]
    text["signals"]["target"] |= keys
    return kdgraph.compile(text, models=sides)


def out_of(step: kdgraph.DistillModule, label: Tensor) -> Any:
    dtype = next(step.student.parameters()).dtype
    return step(image=torch.ones(len(label), 1, dtype=dtype), label=label)


def known(dtype: torch.dtype, *, ignored: bool) -> tuple[dict[str, Given], Tensor]:
    """The tensors of the known numbers: a pixel with a wrong teacher, one with a right one."""

    def side(features: list[list[float]], pixels: list[list[float]]) -> Given:
        rows = [*pixels, [9.0, -9.0, 3.0]] if ignored else pixels
        maps = torch.tensor(features, dtype=dtype), torch.tensor(rows, dtype=dtype).T
        return Given(*(m.reshape(1, len(m), 1, -1) for m in maps))

    student = side([[0.5, 1, 1], [1, -1, 0]], [[2, 0.5, -1], [0.1, 0.2, 0.3]])
    teacher = side([[1, 0, 2], [0, 1, 1]], [[1, 1.5, -0.5], [0, 2, -1]])
    label = torch.tensor([[[0, 1, 255] if ignored else [0, 1]]])
    return {"teacher": teacher, "student": student}, label


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("variant", "ace"), [("hard", 0.675236329106), ("soft", 0.865182438828)])
def test_known_numbers(
    variant: str, ace: float, dtype: torch.dtype, digits: float, ignored: bool
) -> None:
    sides, label = known(dtype, ignored=ignored)
    out = out_of(compiled(sides, label, variant=variant), label)
    assert out.losses["ace"].item() == pytest.approx(ace, rel=digits)
    assert out.losses["csc"].item() == pytest.approx(0.458525524715, rel=digits)
    assert out.loss.item() == pytest.approx(ace + weight_of_csc() * 0.458525524715, rel=digits)
    assert out.losses["label"].item() == pytest.approx(0.671627072443, rel=digits)


def weight_of_csc() -> float:
    return float(yaml.safe_load(SPEC.read_text())["losses"]["csc"]["weight"])


def cosines(x: Any) -> Any:
    unit = x / np.sqrt((x**2).sum(1, keepdims=True))
    return unit @ unit.T


def by_hand(sides: dict[str, Given], label: Tensor, variant: str) -> tuple[float, float]:
    """ACE and CSC pixel by pixel and matrix by matrix, in numpy."""
    given = {n: (m.features.detach().numpy(), m.logits.detach().numpy()) for n, m in sides.items()}
    costs = []
    for b, i, j in np.ndindex(tuple(label.shape)):
        y = int(label[b, i, j])
        if y == 255:
            continue
        t, s = (np.exp(given[n][1][b, :, i, j]) for n in ("teacher", "student"))
        q, p = t / t.sum(), s / s.sum()
        trust = float(q.argmax() == y) if variant == "hard" else q[y]
        target = trust * q + (1 - trust) * np.eye(len(q))[y]
        costs.append(-(target * np.log(p)).sum())
    gaps = []
    for t, s in zip(given["teacher"][0], given["student"][0], strict=True):
        t, s = t.reshape(len(t), -1), s.reshape(len(s), -1)
        gaps.append(((cosines(t) - cosines(s)) ** 2).mean())
        gaps[-1] += ((cosines(t.T) - cosines(s.T)) ** 2).mean()
    return float(np.mean(costs)), float(np.mean(gaps))


@pytest.mark.parametrize("variant", ["hard", "soft"])
def test_pixel_by_pixel(variant: str) -> None:
    torch.manual_seed(2)
    sides = {
        n: Given(torch.randn(2, 3, 2, 4).double(), 2 * torch.randn(2, 5, 4, 6).double())
        for n in ("teacher", "student")
    }
    label = torch.randint(0, 5, (2, 4, 6)).where(torch.rand(2, 4, 6) < 0.8, 255)
    ace, csc = by_hand(sides, label, variant)
    out = out_of(compiled(sides, label, variant=variant), label)
    assert out.losses["ace"].item() == pytest.approx(ace, rel=1e-8)
    assert out.losses["csc"].item() == pytest.approx(csc, rel=1e-8)


def test_gradients_go_to_the_student_alone() -> None:
    sides, label = known(torch.float64, ignored=True)
    out_of(compiled(sides, label), label).loss.backward()
    teacher, student = sides["teacher"], sides["student"]
    assert teacher.features.grad is None
    assert teacher.logits.grad is None
    assert student.features.grad is not None
    assert student.logits.grad is not None
    # where the label is ignored exactly nothing arrives
    assert student.logits.grad[..., :2].all()
    assert not student.logits.grad[..., 2].any()
    # the weight 0 of the label edge is exactly none
    again, _ = known(torch.float64, ignored=True)
    out_of(compiled(again, label, drop=("label",)), label).loss.backward()
    torch.testing.assert_close(again["student"].logits.grad, student.logits.grad)
    # the logits learn from `ace` alone, the features from `csc` alone
    for edge, of in (("csc", "logits"), ("ace", "features")):
        third, _ = known(torch.float64, ignored=True)
        out_of(compiled(third, label, drop=("label",)), label).losses[edge].backward()
        gradient = getattr(third["student"], of).grad
        assert gradient is None or not gradient.any()


def test_an_ignored_pixel_moves_nothing() -> None:
    sides, label = known(torch.float64, ignored=True)
    step = compiled(sides, label)
    before = out_of(step, label)
    with torch.no_grad():
        for side in sides.values():
            side.logits[..., 2] *= -7
    after = out_of(step, label)
    assert after.loss == before.loss
    assert {n: v.item() for n, v in after.losses.items()} == {
        n: v.item() for n, v in before.losses.items()
    }


def test_the_spec_trains_on_files_by_its_data_alone(tmp_path: Path) -> None:
    from PIL import Image

    for part, count in (("train", 8), ("val", 4)):
        for at in range(count):
            label = Image.new("L", (80, 64), 0)
            label.paste(1 + at % 10, (10, 10, 40, 50))
            label.paste(255, (39, 10, 41, 50))
            image = Image.merge(
                "RGB", [label.point(lambda v, k=k: v * k % 256) for k in (3, 9, 27)]
            )
            for kind, picture in (("images", image), ("labels", label)):
                (tmp_path / kind / part).mkdir(parents=True, exist_ok=True)
                picture.save(tmp_path / kind / part / f"{at}.png")
    own = tmp_path / "own.yaml"
    own.write_text(f"""
extends: {SPEC}
data:
  use: segmentation_folder
  path: .
  image: images/{{part}}/{{name}}.png
  size: [64, 64]
  batch_size: 4
  workers: 0
""")
    result = kdgraph.train.run(own, out=tmp_path / "run", steps=3, device="cpu")
    (found,) = result.runs
    assert found.steps == 3
    assert [t.name for t in result.teachers] == ["teacher"]
    assert set(found.metrics) == {"mean_iou", "pixel_accuracy"}
    assert all(0 <= v <= 1 for v in found.metrics.values())
