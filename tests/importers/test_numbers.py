"""The step of an imported spec gives the loss that torchdistill gives, on the same tensors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.runtime.module import DistillModule
from tests.importers.files import Read, config, pair, place, term, weighted

pytest.importorskip("torchdistill")
from torchdistill.losses import high_level, mid_level  # noqa: F401 - they register
from torchdistill.losses.registry import get_high_level_loss
from torchdistill.models.adaptation import ConvReg
from torchdistill.models.wrapper import Connector4DAB, Regressor4VID

ROWS = 8  # as the file says
WHOLE = {
    f"{role}_module_{what}": value
    for role in ("student", "teacher")
    for what, value in (("path", "."), ("io", "output"))
}
LABEL = {"input": place("."), "target": {"uses_label": True}}
FEATURES = {"input": place("layer1"), "target": place("layer1", teacher=True)}
PAIRS = {"one": pair("layer1", "layer1", 2.0), "two": pair("layer2", "layer2", 0.5)}
OUTPUTS = {"student_output_path": "layer2", "teacher_output_path": "layer2"}
SRD = {
    f"{role}_{what}_module_{key}": value
    for role in ("student", "teacher")
    for what, path in (("feature", "layer2"), ("linear", "."))
    for key, value in (("path", path), ("io", "output"))
}
INPUTS = {key: "input" if key.endswith("io") else "fc" for key in WHOLE}

EQUAL = {
    "kd": term("KDLoss", 2.0, **WHOLE, temperature=4.0, alpha=0.9),
    "kd_beta": term("KDLoss", **WHOLE, temperature=2.0, alpha=0.9, beta=3),
    "kd_smoothed": term("KDLoss", **WHOLE, temperature=2.0, alpha=0.5, label_smoothing=0.1),
    "kd_alone": term("KDLoss", 0.3, **WHOLE, temperature=4.0, alpha=0),
    "kd_sum": term("KDLoss", **WHOLE, temperature=4.0, alpha=0.5, reduction="sum"),
    "kd_mean": term("KDLoss", **WHOLE, temperature=4.0, alpha=0.5, reduction="mean"),
    "standardised": term("LogitStdKDLoss", **WHOLE, temperature=2.0, alpha=0.5, beta=9),
    "standardised_alone": term("LogitStdKDLoss", **WHOLE, temperature=2.0, alpha=0),
    "labels": term("CrossEntropyLoss", 0.5, LABEL, reduction="sum", ignore_index=2),
    "at_code": term("ATLoss", 1000.0, at_pairs=PAIRS, mode="code"),
    "at_paper": term("ATLoss", at_pairs=PAIRS, mode="paper"),
    "pkt": term("PKTLoss", 30000.0, **INPUTS),
    "rkd": term("RKDLoss", **OUTPUTS, dist_factor=25.0, angle_factor=50.0, reduction="mean"),
    "dist": term("DISTLoss", 2.0, **WHOLE, beta=2.0, gamma=0.5, tau=4.0),
    "srd": term("SRDLoss", **SRD, exponent=4.0, temperature=2.0),
    "skd": term("SKDInstanceLoss", **WHOLE, temperature=3.0),
    "hint": term("MSELoss", 0.5, FEATURES, reduction="mean"),
    "hint_sum": term("MSELoss", 0.5, FEATURES, reduction="sum"),
    "scores": term("MSELoss", 1.0, {"input": place("."), "target": place(".", teacher=True)}),
    "absolute": term("L1Loss", 1.0, {"input": place("."), "target": place(".", teacher=True)}),
    "ickd": term("ChSimLoss", 500, feature_pairs=PAIRS),
    "norm": term("RegularizationLoss", 0.1, module_path="layer1", p=1),
    "factors": term("FTLoss", p=2, paraphraser_path="layer1", translator_path="layer1"),
    "translated": term(
        "KTALoss", p=2, q=2, knowledge_translator_path="layer1", feature_adapter_path="layer1"
    ),
    "factors_sum": term(
        "FTLoss", p=1, reduction="sum", paraphraser_path="layer1", translator_path="layer1"
    ),
}

DIFFERENT = {
    "spkd": term("SPKDLoss", **OUTPUTS, reduction="batchmean"),
    "cckd": term(
        "CCKDLoss", student_linear_path="fc", teacher_linear_path="fc", reduction="batchmean",
        kernel_config={"type": "gaussian", "gamma": 0.4, "max_p": 2},
    ),
}  # fmt: skip


class Tiny(nn.Module):
    """Two convolutions and a classifier; nothing in it depends on the mode."""

    def __init__(self, first: int = 4, second: int = 6) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(3, first, 3, padding=1)
        self.layer2 = nn.Conv2d(first, second, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(second, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(x).tanh())
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


Io = dict[str, dict[str, Any]]


def compiled(text: str, nets: Mapping[str, nn.Module]) -> DistillModule:
    spec = text.replace("[B, 3, H, W]", "[B, 3, 6, 6]")
    return kdgraph.compile(spec, models=dict(nets))


def caught(net: nn.Module, image: Tensor) -> Io:
    """What torchdistill's hooks catch of a network: inputs and outputs by path."""
    found: Io = {}
    with ForwardHooks(net, found):
        found["."] = {"output": net(image)}
    return found


class ForwardHooks(ExitStack):
    """Forward hooks on every part of a network, as long as it is open."""

    def __init__(self, net: nn.Module, found: Io) -> None:
        super().__init__()
        for name, part in net.named_modules():
            hook = partial(self._keep, found, name)
            self.callback(part.register_forward_hook(hook).remove)

    @staticmethod
    def _keep(found: Io, name: str, part: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        found[name] = {"input": args[0], "output": out}


def theirs(criterion: dict[str, Any], student: Io, teacher: Io, label: Tensor) -> Tensor:
    """The loss by torchdistill's own class, from the same words."""
    loss = get_high_level_loss(criterion)
    return loss({"student": student, "teacher": teacher}, {}, label)  # type: ignore[no-any-return]


@pytest.fixture
def nets() -> dict[str, Tiny]:
    return {"teacher": Tiny(), "student": Tiny()}


@pytest.fixture
def batch() -> dict[str, Tensor]:
    return {"image": torch.randn(ROWS, 3, 6, 6), "label": torch.randint(0, 5, (ROWS,))}


@pytest.mark.parametrize("name", EQUAL)
def test_equal(read: Read, nets: dict[str, Tiny], batch: dict[str, Tensor], name: str) -> None:
    criterion = weighted(**{name: EQUAL[name]})
    imported = read(config(criterion))
    step = compiled(imported.text, {n: nets[n] for n in nets if f"  {n}:" in imported.text})
    ours = step(**batch).loss
    expected = theirs(
        criterion, *(caught(nets[r], batch["image"]) for r in ("student", "teacher")),
        batch["label"],
    )  # fmt: skip
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any("number of" in left.what for left in imported.left)


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_not_equal_is_told(
    read: Read, nets: dict[str, Tiny], batch: dict[str, Tensor], name: str
) -> None:
    criterion = weighted(**{name: DIFFERENT[name]})
    imported = read(config(criterion))
    ours = compiled(imported.text, nets)(**batch).loss
    expected = theirs(
        criterion, *(caught(nets[r], batch["image"]) for r in ("student", "teacher")),
        batch["label"],
    )  # fmt: skip
    assert ours.item() != pytest.approx(expected.item(), rel=1e-3)
    assert any("number of" in left.what for left in imported.left)
    assert "# line" in imported.text.partition("losses:")[2]


class First(nn.Module):
    """Takes the first of a pair."""

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return x[0]


class Twice(nn.Module):
    """Gives its input and half of it."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x / 2


def test_the_first_of_two_tensors(
    read: Read, nets: dict[str, Tiny], batch: dict[str, Tensor]
) -> None:
    """``HierarchicalContextLoss`` takes a student's place that gives a pair."""
    tiny = nets["student"]
    student = nn.Sequential(tiny.layer1, Twice(), First(), nn.Flatten(), nn.Linear(4 * 36, 5))
    sizes = {f"{r}_module_io": "output" for r in nets}
    loss = term(
        "HierarchicalContextLoss", 3.0, **sizes, student_module_path="1",
        teacher_module_path="layer1", reduction="mean", output_sizes=[4, 2],
    )  # fmt: skip
    criterion = weighted(review=loss)
    imported = read(config(criterion))
    step = compiled(imported.text, {"teacher": nets["teacher"], "student": student})
    found = [caught(n, batch["image"]) for n in (student, nets["teacher"])]
    expected = theirs(criterion, found[0], found[1], batch["label"])
    assert step(**batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_hint_with_a_regressor(read: Read, batch: dict[str, Tensor]) -> None:
    """``ConvReg`` at the end of a cut student, as FitNets' sample has it."""
    nets = {"teacher": Tiny(first=7), "student": Tiny(first=3)}
    wrapper = {"input": place("+reg"), "target": place("layer1", teacher=True)}
    criterion = weighted(hint=term("MSELoss", 0.5, wrapper, reduction="sum"))
    kwargs = {
        "num_input_channels": 3, "num_output_channels": 7, "kernel_size": 1, "stride": 1,
        "padding": 0,
    }  # fmt: skip
    student = {
        "adaptations": {"reg": {"key": "ConvReg", "kwargs": kwargs}},
        "sequential": ["layer1", "+reg"],
    }
    text = config(criterion, student).replace(
        "    sequential: []\n    requires_grad: True", "    requires_grad: True"
    )
    imported = read(text)
    step = compiled(imported.text, nets)
    peer = ConvReg(**kwargs)
    ours = dict(step.adapters.named_parameters())
    for given, (name, mine) in zip(peer.parameters(), ours.items(), strict=False):
        assert mine.shape == given.shape, name
    with torch.no_grad():  # a batch norm takes away the bias that the adapter does without
        for name, given in (("0.weight", peer.conv.weight), ("1.weight", peer.bn.weight)):
            next(p for n, p in ours.items() if n.endswith(name)).copy_(given)
        next(p for n, p in ours.items() if n.endswith("1.bias")).copy_(peer.bn.bias)
    found = {r: caught(nets[r], batch["image"]) for r in nets}
    found["student"]["+reg"] = {"output": peer(found["student"]["layer1"]["output"])}
    expected = theirs(criterion, found["student"], found["teacher"], batch["label"])
    assert step(**batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_connectors_and_regressors(read: Read, batch: dict[str, Tensor]) -> None:
    """The modules of wrappers: ``Connector4DAB`` for boundaries, ``Regressor4VID`` for VID."""
    nets = {"teacher": Tiny(first=7), "student": Tiny(first=3)}
    conv = {"in_channels": 3, "out_channels": 7, "kernel_size": 1, "bias": False}
    size = {"in_channels": 3, "middle_channels": 7, "out_channels": 7, "eps": 1e-5}
    cases = [
        (
            {"key": "Connector4DAB", "kwargs": {"connectors": {"c": {
                "io": "output", "path": "student_model.layer1", "conv2d_kwargs": conv,
            }}}},
            weighted(dab=term(
                "AltActTransferLoss", 0.1, margin=1.5, reduction="mean",
                feature_pairs={"only": pair("connector_dict.c", "layer1")},
            )),
            "connector_dict.c", Connector4DAB.build_connector(conv),
        ),
        (
            {"key": "VariationalDistributor4VID", "kwargs": {"regressors": {"r": {
                "io": "output", "path": "student_model.layer1",
                "kwargs": {**size, "init_pred_var": 5.0},
            }}}},
            weighted(vid=term(
                "VIDLoss", 3.0, feature_pairs={"only": pair("regressor_dict.r", "layer1")},
            )),
            "regressor_dict.r", Regressor4VID(**size, init_pred_var=5.0),
        ),
    ]  # fmt: skip
    for wrapper, criterion, path, peer in cases:
        imported = read(config(criterion, {"auxiliary_model_wrapper": wrapper}))
        step = compiled(imported.text, nets)
        ours = list(step.adapters.parameters())
        given = [p for p in peer.parameters() if p.dim() == 4]
        assert [p.shape for p in ours] == [p.shape for p in given]
        with torch.no_grad():
            for mine, value in zip(ours, given, strict=True):
                mine.copy_(value)
        found = {r: caught(nets[r], batch["image"]) for r in nets}
        found["student"][path] = {"output": peer(found["student"]["layer1"]["output"])}
        expected = theirs(criterion, found["student"], found["teacher"], batch["label"])
        assert step(**batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)
