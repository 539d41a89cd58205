"""Image models: a teacher's features or logits for a student."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

import kdgraph
from versus import peer
from versus.sizes import Sizes
from versus.timing import Pair, Side

Spec = dict[str, Any]

STEM = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2"]
BLOCK = "blocks.5"


def hint(sizes: Sizes) -> Pair:
    """Features after layer2, through a 1x1 convolution."""
    return _features(sizes, _resnets(sizes), "layer2", adapter="conv1x1")


def hint_and_labels(sizes: Sizes) -> Pair:
    """The same with the labels, for which the student runs to its end."""
    return _features(sizes, _resnets(sizes), "layer2", adapter="conv1x1", labels=True)


def vit(sizes: Sizes) -> Pair:
    """Tokens after the sixth block, through a linear layer."""
    return _features(sizes, _transformers(sizes), BLOCK, adapter="linear")


def vit_and_labels(sizes: Sizes) -> Pair:
    """The same with the labels."""
    return _features(sizes, _transformers(sizes), BLOCK, adapter="linear", labels=True)


def hint_cut_by_hand(sizes: Sizes) -> Pair:
    """As ``hint``, with torchdistill's models listed layer by layer up to the tap."""
    teacher, student = _resnets(sizes)
    ours, regressor = _our_features(sizes, (teacher, student), "layer2", "conv1x1", labels=False)
    student = copy.deepcopy(student)
    box = peer.box(
        copy.deepcopy(teacher),
        student,
        {"hint": peer.wrapped("MSELoss", "+regressor", "layer2")},
        teacher_config={"sequential": STEM, **peer.hooks("layer2")},
        student_config={
            "sequential": [*STEM, "+regressor"],
            "adaptations": {"regressor": {"key": "given", "kwargs": {"module": regressor}}},
            **peer.hooks("+regressor"),
        },
    )
    x = _images(sizes, sizes.images, sizes.side)
    return Pair(
        Side(lambda: ours(image=x).loss, _trained(ours.student, ours.adapters["mid"])),
        Side(lambda: box.forward_process(x), _trained(student, regressor)),
    )


def logits(sizes: Sizes) -> Pair:
    """A soft target alone: every layer of both models is needed."""
    teacher, student = _resnets(sizes)
    soft = {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"}
    spec = _spec(sizes.side, {"teacher": {"logits": "output"}}, {"logits": "output"})
    return _soft_target(sizes, {**spec, "losses": {"soft": soft}}, {"teacher": teacher}, student)


def three_teachers(sizes: Sizes) -> Pair:
    """A soft target from the mean of three teachers' logits."""
    teacher, student = _resnets(sizes)
    nets = [teacher, *(_resnets(sizes)[0] for _ in range(2))]
    teachers = {f"teacher{i}": net for i, net in enumerate(nets)}
    spec = _spec(sizes.side, {n: {"logits": "output"} for n in teachers}, {"logits": "output"})
    members = [f"{name}.logits" for name in teachers]
    spec["signals"] = {"mean": {"use": "ensemble", "of": members, "average": "logits"}}
    soft = {"use": "soft_target", "student": "student.logits", "teacher": "mean"}
    return _soft_target(sizes, {**spec, "losses": {"soft": soft}}, teachers, student)


class MeanOf(nn.Module):
    """The teacher that a user of torchdistill writes for several."""

    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of the members' logits."""
        return torch.stack([member(x) for member in self.members]).mean(0)


def _soft_target(
    sizes: Sizes, spec: Spec, teachers: Mapping[str, nn.Module], student: nn.Module
) -> Pair:
    """Whose edge ``soft`` has tau 4, with the factor tau squared."""
    spec["losses"]["soft"]["tau"] = 4.0
    ours = kdgraph.compile(spec, models=copy.deepcopy({**teachers, "student": student}))
    members = [copy.deepcopy(net) for net in teachers.values()]
    teacher = members[0] if len(members) == 1 else MeanOf(*members)
    # without labels KDLoss leaves the factor out
    term = peer.term("KDLoss", 16.0, temperature=4.0, alpha=0)
    box = peer.box(teacher, student, {"soft": term})
    x = _images(sizes, sizes.images, sizes.side)
    return Pair(
        Side(lambda: ours(image=x).loss, _trained(ours.student)),
        Side(lambda: box.forward_process(x), _trained(student)),
    )


def _features(
    sizes: Sizes,
    models: tuple[nn.Module, nn.Module],
    path: str,
    *,
    adapter: str,
    labels: bool = False,
) -> Pair:
    """One hint at ``path``, with hooks in the whole models on torchdistill's side."""
    ours, regressor = _our_features(sizes, models, path, adapter, labels=labels)
    teacher, student = copy.deepcopy(models)
    terms = {"hint": peer.wrapped("MSELoss", "regressor", path)}
    if labels:
        terms["labels"] = peer.wrapped("CrossEntropyLoss", ".", None)
    box = peer.box(
        teacher,
        student,
        terms,
        teacher_config=peer.hooks(path),
        student_config=peer.with_regressor(path, regressor),
    )
    patched = adapter == "linear"
    count, side = (sizes.patches, sizes.patched_side) if patched else (sizes.images, sizes.side)
    x = _images(sizes, count, side)
    y = torch.randint(sizes.classes, (count,)).to(sizes.device) if labels else None
    batch = {"image": x} if y is None else {"image": x, "label": y}
    return Pair(
        Side(lambda: ours(**batch).loss, _trained(ours.student, ours.adapters["mid"])),
        Side(lambda: box.forward_process(x, y), _trained(student, regressor)),
    )


def _our_features(
    sizes: Sizes,
    models: tuple[nn.Module, nn.Module],
    path: str,
    adapter: str,
    *,
    labels: bool,
) -> tuple[kdgraph.DistillModule, nn.Module]:
    """The step of kdgraph, and a regressor for torchdistill that starts from the same weights."""
    side = sizes.patched_side if adapter == "linear" else sizes.side
    taps = {"mid": path, "logits": "output"} if labels else {"mid": path}
    spec = _spec(side, {"teacher": {"mid": path}}, taps)
    spec["links"] = {
        "mid": {"student": "student.mid", "teacher": "teacher.mid", "adapter": adapter}
    }
    spec["losses"] = {"hint": {"use": "hint", "link": "mid"}}
    if labels:
        spec["batch"]["label"] = {"shape": ["B"], "dtype": "int64", "classes": sizes.classes}
        edge = {"use": "cross_entropy", "student": "student.logits", "target": "label"}
        spec["losses"]["labels"] = edge
    teacher, student = copy.deepcopy(models)
    step = kdgraph.compile(spec, models={"teacher": teacher, "student": student}).to(sizes.device)
    return step, copy.deepcopy(step.adapters["mid"])


def _spec(side: int, teachers: Mapping[str, dict[str, str]], student: dict[str, str]) -> Spec:
    models = {**teachers, "student": student}
    return {
        "kdgraph": 1,
        "name": "vs-torchdistill",
        "batch": {"image": {"shape": ["B", 3, side, side]}},
        "models": {name: {"taps": taps, "input": "image"} for name, taps in models.items()},
    }


def _resnets(sizes: Sizes) -> tuple[nn.Module, nn.Module]:
    teacher = torchvision.models.get_model(sizes.teacher, num_classes=sizes.classes)
    student = torchvision.models.resnet18(num_classes=sizes.classes)
    return settle(teacher).to(sizes.device), student.to(sizes.device)


def _transformers(sizes: Sizes) -> tuple[nn.Module, nn.Module]:
    common = {"img_size": sizes.patched_side, "num_classes": sizes.classes, **sizes.vit}
    teacher = timm.create_model("vit_small_patch16_224", **common)
    student = timm.create_model("deit_tiny_patch16_224", **common)
    return teacher.to(sizes.device), student.to(sizes.device)


def settle(net: nn.Module) -> nn.Module:
    """Gives batch-norms the statistics and scales of a trained network, roughly."""
    draw = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.1, 0.1),
                (module.running_var, 0.8, 1.2),
                (module.weight.data, 0.9, 1.1),
                (module.bias.data, -0.1, 0.1),
            ):
                assert tensor is not None
                tensor.copy_(torch.empty(tensor.shape).uniform_(low, high, generator=draw))
    return net


def _images(sizes: Sizes, count: int, side: int) -> Tensor:
    return torch.randn(count, 3, side, side).to(sizes.device)


def _trained(student: nn.Module, adapter: nn.Module | None = None) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {f"student.{n}": p for n, p in student.named_parameters()}
    if adapter is not None:
        found |= {f"adapter.{n}": p for n, p in adapter.named_parameters()}
    return found
