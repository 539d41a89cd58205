"""Frozen models whose batch norms use the statistics of each batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.capture import together
from kdgraph.capture.ladder import capture
from kdgraph.passes.base import PASSES
from kdgraph.train.derive import teacher_by_itself

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "batch-statistics",
    "batch": {"image": {"shape": ["B", 3, 8, 8]}},
    "models": {
        "teacher": {"batch_statistics": True, "taps": {"mid": "3", "logits": "output"}},
        "student": {"taps": {"mid": "3", "logits": "output"}},
    },
    "losses": {
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"},
        "mid": {"use": "hint", "student": "student.mid", "teacher": "teacher.mid"},
    },
}


def net(seed: int, drop: float = 0.0) -> nn.Module:
    """Norms of maps and of vectors, with running statistics that are not those of the batch."""
    torch.manual_seed(seed)
    found = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(),
        nn.Dropout(drop), nn.Linear(8, 5),
    )  # fmt: skip
    for module in found:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            module.running_mean.uniform_(-0.5, 0.5)
    return found


def image(rows: int = 6) -> Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def in_training(module: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = copy.deepcopy(module).train()(image())
    return found


def test_several_calls_have_one_mean_and_variance() -> None:
    """Of both batches put together, not of each."""
    text = copy.deepcopy(SPEC)
    text["batch"]["other"] = text["batch"]["image"]
    text["models"]["again"] = {"same_as": "teacher", "input": "other", "taps": {"out": "output"}}
    for model in ("teacher", "student"):
        text["models"][model]["input"] = "image"
    edge = {"use": "soft_target", "student": "student.logits", "teacher": "again.out"}
    text["losses"]["again"] = edge
    teacher, other = net(0), 3 * image() + 1
    step = kdgraph.compile(text, models={"teacher": teacher, "student": net(1)})
    found = step(image=image(), other=other).outputs
    with torch.no_grad():
        both = copy.deepcopy(teacher).train()(torch.cat([image(), other]))
    torch.testing.assert_close(found["teacher.logits"], both[:6])
    torch.testing.assert_close(found["again.out"], both[6:])
    assert not torch.allclose(found["teacher.logits"], in_training(teacher), atol=1e-3)


@pytest.mark.parametrize("rung", ["fx", "export", "ports"])
def test_as_in_training_on_every_rung(rung: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def only(module: nn.Module, inputs: Any, taps: Any, **options: Any) -> Any:
        return capture(module, inputs, taps, **options | {"rungs": [rung]})

    monkeypatch.setattr(together, "capture", only)
    teacher = net(0)
    before = copy.deepcopy(teacher.state_dict())
    step = kdgraph.compile(SPEC, models={"teacher": teacher, "student": net(1)})
    assert step.report.captures["teacher"].rung == rung
    for mode in (step.train, step.eval):
        mode()
        out = step(image=image())
        torch.testing.assert_close(out.outputs["teacher.logits"], in_training(teacher))
    out.loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert before.keys() == teacher.state_dict().keys()
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
    wide = step.to(torch.float64)(image=image().double()).outputs["teacher.logits"]
    torch.testing.assert_close(wide, in_training(net(0)).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("without", PASSES.names())
def test_no_pass_changes_it(without: str) -> None:
    """Two of one kind, which some passes run as one; and one with its running statistics."""
    spec = copy.deepcopy(SPEC)
    teacher = net(0)
    for name, extra in (("second", {"batch_statistics": True}), ("plain", {})):
        spec["models"][name] = {"taps": {"logits": "output"}, **extra}
        edge = {"use": "soft_target", "student": "student.logits", "teacher": f"{name}.logits"}
        spec["losses"][name] = edge
    models = {"teacher": teacher, "second": net(2), "plain": teacher, "student": net(1)}
    asked = [name for name, p in PASSES.items() if not p.default]
    step = kdgraph.compile(spec, models=models, also=asked, without=[without])
    out = step(image=image()).outputs
    with torch.no_grad():
        plain = teacher.eval()(image())
    expected = {"teacher": in_training(teacher), "second": in_training(net(2)), "plain": plain}
    for name, value in expected.items():
        torch.testing.assert_close(out[f"{name}.logits"], value, rtol=1e-4, atol=1e-5)


def test_dropout_beside_it() -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["dropout"] = True
    teacher = net(0, drop=0.5)
    step = kdgraph.compile(spec, models={"teacher": teacher, "student": net(1)})
    torch.manual_seed(3)
    expected = in_training(teacher)
    torch.manual_seed(3)
    torch.testing.assert_close(step(image=image()).outputs["teacher.logits"], expected)
    one, two = (step(image=image()).outputs["teacher.logits"] for _ in range(2))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("skeleton", [True, False])
def test_a_model_without_batch_norm_is_refused(skeleton: bool) -> None:
    norms = nn.modules.batchnorm._BatchNorm
    plain = nn.Sequential(*(nn.Identity() if isinstance(m, norms) else m for m in net(0)))  # type: ignore[attr-defined]
    find = kdgraph.plan if skeleton else kdgraph.compile
    with pytest.raises(kdgraph.KDGraphError, match=r"KD409.*but no batch norm"):
        find(SPEC, models={"teacher": plain, "student": net(1)})


def test_a_trained_model_is_refused() -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["student"]["batch_statistics"] = True
    with pytest.raises(kdgraph.KDGraphError, match=r"KD211.*cannot have `batch_statistics: true`"):
        kdgraph.load_spec(spec)


def test_the_teacher_is_trained_as_any_model() -> None:
    spec = copy.deepcopy(SPEC)
    spec["batch"]["label"] = {"shape": ["B"], "dtype": "int64", "classes": 5}
    spec["data"] = {"use": "digits"}
    spec["train"] = {"epochs": 1, "optimizer": {"use": "SGD", "lr": 0.1}, "teacher": {"epochs": 1}}
    own = teacher_by_itself(kdgraph.load_spec(spec), "teacher")
    assert not own.models["teacher"].batch_statistics
