"""``dropout: true``: what is random in training stays on, and statistics never move."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdgraph
from kdgraph.capture import together
from kdgraph.capture.ladder import capture
from kdgraph.passes.base import PASSES

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "random",
    "batch": {"image": {"shape": ["B", 3, 8, 8]}},
    "models": {
        "teacher": {"dropout": True, "taps": {"mid": "conv2", "logits": "output"}},
        "student": {"taps": {"mid": "0", "logits": "output"}},
    },
    "losses": {
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"},
        "mid": {"use": "hint", "student": "student.mid", "teacher": "teacher.mid"},
    },
}


class Teacher(nn.Module):
    """Dropout as a module, as a function, and stochastic depth, behind batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.drop = nn.Dropout2d(0.5)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(F.relu(self.bn(self.conv(x))))
        z = self.bn2(self.conv2(y))
        keep = 0.8 if self.training else 1.0
        y = y + z * z.new_empty(z.shape[0], 1, 1, 1).bernoulli_(keep) / keep
        return self.fc(F.dropout(y.mean((2, 3)), 0.3, training=self.training))


def student() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )


def lived(net: nn.Module) -> nn.Module:
    """With statistics that a step in train mode would change."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-0.5, 0.5)
    return net


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return lived(Teacher())


def image() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def by_hand(net: nn.Module, x: Tensor) -> Tensor:
    """The model in train mode with its batch norms in eval mode."""
    net = copy.deepcopy(net).train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    with torch.no_grad():
        found: Tensor = net(x)
    return found


def seeded(step: kdgraph.DistillModule, seed: int = 7) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return step(image=image()).outputs


@pytest.mark.parametrize("rung", ["fx", "export", "ports"])
def test_random_on_every_rung(
    teacher: nn.Module, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only(module: nn.Module, inputs: Any, taps: Any, **options: Any) -> Any:
        return capture(module, inputs, taps, **options | {"rungs": [rung]})

    monkeypatch.setattr(together, "capture", only)
    expected = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        expected.append(by_hand(teacher, image()))
    before = copy.deepcopy(dict(teacher.named_buffers()))
    step = kdgraph.compile(SPEC, models={"teacher": teacher, "student": student()})
    assert step.report.captures["teacher"].rung == rung
    for mode in (step.train, step.eval, lambda: step.to(torch.float32)):
        mode()
        for seed, value in zip((7, 8), expected, strict=True):
            torch.testing.assert_close(seeded(step, seed)["teacher.logits"], value)
        # no seed between two steps: they draw differently
        assert not torch.equal(
            step(image=image()).outputs["teacher.logits"],
            step(image=image()).outputs["teacher.logits"],
        )
    seeded(step)
    step(image=image()).loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    for name, value in teacher.named_buffers():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("without", PASSES.names())
def test_no_pass_changes_what_is_drawn(teacher: nn.Module, without: str) -> None:
    asked = [name for name, p in PASSES.items() if not p.default]
    steps = [
        kdgraph.compile(
            SPEC, models={"teacher": teacher, "student": student()}, also=asked, without=left_out
        )
        for left_out in ([], [without])
    ]
    torch.testing.assert_close(*(seeded(step) for step in steps), rtol=1e-4, atol=1e-5)


def test_constants_drawn_in_the_model_stay_random() -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1)) + torch.rand(5)

    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["taps"] = {"fc": "fc", "logits": "output"}
    del spec["losses"]["mid"]
    step = kdgraph.compile(spec, models={"teacher": Noise(), "student": student()})
    first, second = (step(image=image()).outputs["teacher.logits"] for _ in range(2))
    assert not torch.equal(first, second)


def test_two_roles_draw_apart(teacher: nn.Module) -> None:
    """One network three times: twice random, once as it is in eval mode."""
    spec = copy.deepcopy(SPEC)
    for name, extra in (("again", {"dropout": True}), ("plain", {})):
        spec["models"][name] = {"taps": {"logits": "output"}, **extra}
        edge = {"use": "soft_target", "student": "student.logits", "teacher": f"{name}.logits"}
        spec["losses"][name] = edge
    roles = dict.fromkeys(("teacher", "again", "plain"), teacher)
    step = kdgraph.compile(spec, models={**roles, "student": student()})
    out = step(image=image()).outputs
    assert not torch.equal(out["teacher.logits"], out["again.logits"])
    torch.testing.assert_close(out["plain.logits"], teacher.eval()(image()))
    again = step(image=image()).outputs
    assert not torch.equal(out["again.logits"], again["again.logits"])
    assert torch.equal(out["plain.logits"], again["plain.logits"])


def test_statistics_under_any_name_stand_still() -> None:
    class Centre(nn.Module):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.mean.lerp_(x.detach().mean((0, 2, 3)).view(3, 1, 1), 0.1)
            return x - self.mean

    net = nn.Sequential(Centre(), nn.Dropout(0.5), *student())
    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["taps"]["mid"] = "2"
    step = kdgraph.compile(spec, models={"teacher": net, "student": student()})
    outs = [step(image=image()).outputs["teacher.logits"] for _ in range(2)]
    assert not torch.equal(*outs)
    assert torch.equal(net[0].mean, torch.zeros(3, 1, 1))  # type: ignore[arg-type]


def test_statistics_that_cannot_stand_still_are_refused() -> None:
    class Counts(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return x

    net = nn.Sequential(Counts(), *student())
    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["taps"]["mid"] = "1"
    with pytest.raises(kdgraph.KDGraphError, match=r"'0\.seen' changes at every step"):
        kdgraph.compile(spec, models={"teacher": net, "student": student()})


def test_nets_of_torchvision_and_timm() -> None:
    """Stochastic depth of both libraries, and a batch norm with an activation in it."""
    spec = copy.deepcopy(SPEC)
    spec["batch"]["image"]["shape"] = ["B", 3, 32, 32]
    spec["models"]["teacher"] = {
        "source": "timm/test_efficientnet",
        "args": {"num_classes": 5, "drop_rate": 0.2, "drop_path_rate": 0.2},
        "dropout": True,
        "taps": {"logits": "output"},
    }
    del spec["losses"]["mid"]
    torch.manual_seed(0)
    step = kdgraph.compile(spec, models={"student": student()})
    net = step.report.captures["teacher"].root
    x = torch.randn(2, 3, 32, 32)
    torch.manual_seed(1)
    expected = by_hand(net, x)
    torch.manual_seed(1)
    torch.testing.assert_close(step(image=x).outputs["teacher.logits"], expected)
    torch.manual_seed(1)
    assert not torch.equal(net.eval()(x), expected)


@pytest.mark.parametrize("skeleton", [True, False])
def test_a_model_without_dropout_is_refused(skeleton: bool) -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["source"] = "cifar/resnet8"
    spec["models"]["teacher"]["args"] = {"num_classes": 5}
    spec["models"]["teacher"]["taps"]["mid"] = "layer1"
    find = kdgraph.plan if skeleton else kdgraph.compile
    with pytest.raises(kdgraph.KDGraphError, match="nothing in it is random"):
        find(spec, models={"student": student()})
    spec["models"]["teacher"]["args"]["dropout"] = 0.1
    spec["losses"].pop("mid")
    find(spec, models={"student": student()})
