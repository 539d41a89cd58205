"""Grafts: identity, what is trained, what comes back, and what is left of adapters in the end."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.actions._fold import fold
from kdgraph.actions._grafting import Graft as InPlace
from kdgraph.actions._world import World
from kdgraph.actions.graft import Graft
from kdgraph.actions.ungraft import Ungraft
from kdgraph.errors import ActionError
from kdgraph.models.load import build_model
from kdgraph.spec.language import Spec

WIDE, NARROW = [4, 4, 6, 8, 8], [4, 4, 6, 3, 5]


def args(widths: list[int]) -> dict[str, Any]:
    return {"widths": widths, "pools": 1, "in_channels": 1, "num_classes": 3}


def model(widths: list[int], **keys: Any) -> dict[str, Any]:
    taps = {} if keys.pop("taps", True) is False else {"taps": {"logits": "output"}}
    return {"source": "cifar/vgg8", "args": args(widths), **taps, **keys}


def spec_of(*stages: dict[str, Any], dtype: str = "float32") -> Spec:
    return kdgraph.load_spec(
        {
            "kdgraph": 1,
            "name": "grafted",
            "batch": {"image": {"shape": ["B", 1, 8, 8], "dtype": dtype}},
            "models": {
                "teacher": model(WIDE),
                "student": model(WIDE),
                "scion": model(NARROW, taps=False),
            },
            "losses": {
                "graft": {
                    "use": "normalised_l2",
                    "student": "student.logits",
                    "teacher": "teacher.logits",
                    "reduction": "sum",
                }
            },
            **({"stages": list(stages)} if stages else {}),
        }
    )


def network(widths: list[int], seed: int) -> nn.Module:
    """In float64, with statistics that are not those of a fresh network."""
    torch.manual_seed(seed)
    net = build_model("cifar/vgg8", args(widths)).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = torch.rand(2, module.num_features).double()
            nn.init.uniform_(module.weight, 0.5, 1.5)
    nn.init.normal_(net.get_submodule("classifier").weight)  # type: ignore[arg-type]
    return net.eval()


def world_of(**more: nn.Module) -> World:
    teacher = network(WIDE, 0)
    nets = {"teacher": teacher, "student": copy.deepcopy(teacher), "scion": network(NARROW, 1)}
    return World(spec_of(dtype="float64"), {**nets, **more})


def graft(world: World, *names: str, **keys: Any) -> list[str]:
    at, scion = [f"student.{n}" for n in names], [f"scion.{n}" for n in names]
    action = Graft.model_validate({"use": "graft", "at": at, "scion": scion, **keys})
    return action.apply(world, action.decide(world))


def image(rows: int = 5) -> Tensor:
    return torch.randn(rows, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()


@pytest.mark.parametrize("adapters", [{"before": "identity", "after": "identity"}, {}])
def test_a_teachers_own_block_changes_nothing(adapters: dict[str, str]) -> None:
    action = {"use": "graft", "at": "student.block3", "scion": "teacher.block3", **adapters}
    teacher = network(WIDE, 0).float()
    nets = {"teacher": teacher, "student": copy.deepcopy(teacher)}
    step = kdgraph.compile(
        spec_of({"name": "one", "before": [action]}), models=nets, without=["freeze", "precision"]
    ).eval()
    out = step(image=image().float())
    assert out.loss.item() == 0
    assert torch.equal(out.outputs["student.logits"], teacher(image().float()))
    assert isinstance(step.student.get_submodule("block3"), InPlace)
    assert step.student.get_submodule("block3.scion") is not teacher.get_submodule("block3")


def test_what_is_trained_are_the_scions_and_their_adapters() -> None:
    before = {"use": "graft", "at": "student.block[34]", "scion": "scion.block[34]"}
    step = kdgraph.compile(spec_of({"name": "two", "before": [before]}))
    trained = {name for name, p in step.named_parameters() if p.requires_grad}
    ends = (".before", ".scion", ".after")
    inside = tuple(f"models.student.block{i}{end}" for i in (3, 4) for end in ends)
    assert trained == {n for n, _ in step.named_parameters() if n.startswith(inside)}
    assert len(trained) == 2 * 4 + 3 * 2  # scions; nothing is to adapt before block3
    kept = {n: v.clone() for n, v in step.student.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in step.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        step(image=image().float()).loss.backward()
        optimizer.step()
    for name, value in step.student.state_dict().items():
        moves = f"models.student.{name}".startswith(inside)
        assert torch.equal(value, kept[name]) != moves, name


@pytest.mark.parametrize("bias", [True, False])
def test_adapters_are_merged_exactly(bias: bool) -> None:
    world = world_of()
    lines = graft(world, "block3", "block4", "classifier", bias=bias)
    assert "adapted after by Conv2d" in lines[0]
    student = world.nets["student"]
    for name, parameter in student.named_parameters():
        if name.endswith(("before.bias", "after.bias")):
            nn.init.normal_(parameter)
    plain = fold(student)
    torch.testing.assert_close(plain(image()), student(image()), rtol=1e-12, atol=1e-12)
    assert not any(isinstance(m, InPlace) for m in plain.modules())
    left = {type(m).__name__ for m in plain.get_submodule("block4").children()}
    if bias:  # in front of a padded convolution; the linear layer takes its own in
        assert left == {"Conv2d", "Sequential"}
        adapter: Any
        adapter, _ = plain.get_submodule("block4").children()
        one: Any = student.get_submodule("block3.after")
        two: Any = student.get_submodule("block4.before")
        weight = two.weight.flatten(1) @ one.weight.flatten(1)
        torch.testing.assert_close(adapter.weight.flatten(1), weight, rtol=1e-12, atol=1e-12)
        shift = two.weight.flatten(1) @ one.bias + two.bias
        torch.testing.assert_close(adapter.bias, shift, rtol=1e-12, atol=1e-12)
    else:  # nothing is left of them: the network of the scion
        other = network(NARROW, 2)
        other.load_state_dict(plain.state_dict())
        torch.testing.assert_close(other(image()), student(image()), rtol=1e-12, atol=1e-12)
    assert isinstance(plain.get_submodule("classifier"), nn.Linear)


def test_a_graft_before_a_block_of_the_model_keeps_its_adapter() -> None:
    world = world_of()
    graft(world, "block3")
    plain = fold(world.nets["student"])
    torch.testing.assert_close(plain(image()), world.nets["student"](image()))
    kinds = [type(m).__name__ for m in plain.get_submodule("block3").children()]
    assert kinds == ["Sequential", "Conv2d"]


def test_a_segment_comes_back_and_so_does_its_graft() -> None:
    world = world_of()
    student, before = world.nets["student"], world.nets["teacher"](image())
    own = student.get_submodule("block3")
    graft(world, "block3")
    grafted = student(image())
    assert not torch.equal(grafted, before)
    Ungraft(modules=("student",)).apply(world, {})
    assert torch.equal(student(image()), before)
    assert torch.equal(fold(student)(image()), before)
    assert fold(student).state_dict().keys() == world.nets["teacher"].state_dict().keys()
    assert not any(p.requires_grad for p in student.parameters())
    graft(world, "block4")
    Ungraft(modules=("student.block4",)).apply(world, {})
    graft(world, "block3", "block4")
    assert student.get_submodule("block3.original") is own
    Ungraft(modules=("student.block4",)).apply(world, {})
    assert torch.equal(student(image()), grafted)
    assert student.get_submodule("block3").training is False


def test_the_model_that_scions_come_from_stays_out_of_it() -> None:
    stages = [
        {
            "name": "one",
            "before": [
                {"use": "load", "module": "student", "of": "teacher"},
                {"use": "graft", "at": "student.block3", "scion": "scion.block3"},
            ],
            "after": [{"use": "ungraft", "modules": "student"}],
        },
        {
            "name": "two",
            "before": [{"use": "graft", "at": "student.block4", "scion": "scion.block4"}],
        },
    ]
    step = kdgraph.compile(spec_of(*stages))
    assert set(step.models) <= {"student", "teacher"}
    assert "scion" not in step.models
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.add_(torch.rand_like(parameter))
    step.set_stage("two")
    kept = io.BytesIO()
    torch.save(step.state_dict(), kept)
    again = kdgraph.compile(spec_of(*stages))
    kept.seek(0)
    again.load_state_dict(torch.load(kept))
    for one in (step, again):
        one.eval()
    x = image().float()
    assert torch.equal(
        again(image=x).outputs["student.logits"], step(image=x).outputs["student.logits"]
    )
    assert again.state_dict().keys() == step.state_dict().keys()
    assert any("block3.scion" in name for name in step.state_dict())


def test_start_values_are_those_of_the_decision() -> None:
    found = []
    for seed in (5, 5, 6):
        world = world_of()
        action = Graft(at=("student.block3",), scion=("scion.block3",))
        torch.rand(seed)
        action.apply(world, {"seed": seed})
        found.append(world.nets["student"].get_parameter("block3.after.weight"))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert found[0].std().item() == pytest.approx((2 / 8) ** 0.5, rel=0.5)  # by fan-out


class Reads(nn.Module):
    """Reads the map behind block3 twice."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net, self.block3, self.block4 = net.block0, net.block3, net.block4
        self.stem = nn.Conv2d(4, 6, 1).double()

    def forward(self, x: Tensor) -> Any:
        x = self.block3(self.stem(self.net(x)))
        y: Any = self.block4(x) + x
        return y


def test_a_value_that_others_read_stays_what_it_is() -> None:
    world = world_of(student=Reads(network(WIDE, 0)).eval())
    graft(world, "block3", "block4")
    student = world.nets["student"]
    torch.testing.assert_close(fold(student)(image()), student(image()))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"at": ["student"], "scion": ["scion"]}, "whole network"),
        ({"at": ["student.block3"], "scion": ["student.block4"]}, "of the very network"),
        ({"at": ["teacher.block3"], "scion": ["scion.block3"]}, "'teacher' is never trained"),
        ({"at": ["student.block3"], "scion": ["scion.block[34]"]}, "1 modules .* by 2"),
        ({"at": ["student.blok3"], "scion": ["scion.block3"]}, "no module matches 'student.blok3'"),
        ({"at": ["student.block3"], "scion": ["scion.classifier"]}, "does not fit"),
        (
            {"at": ["student.block3"], "scion": ["scion.block3"], "after": "identity"},
            r"gives \[13, 3, 4, 4\], where 'student.block3' gives \[13, 8, 4, 4\]",
        ),
    ],
)
def test_refuses(keys: dict[str, Any], message: str) -> None:
    world = world_of()
    before = list(world.nets["student"].modules())
    action = Graft.model_validate({"use": "graft", **keys})
    with pytest.raises(ActionError, match=rf"(?s)KD751.*{message}"):
        action.apply(world, {})
    assert list(world.nets["student"].modules()) == before


def test_refuses_a_graft_in_a_graft_and_another_in_its_place() -> None:
    world = world_of(other=network(NARROW, 4))
    graft(world, "block3")
    action = Graft(at=("student.block3.scion.0",), scion=("scion.block3.0",))
    with pytest.raises(ActionError, match="inside of the graft 'block3'"):
        action.apply(world, {})
    with pytest.raises(ActionError, match=r"has had the graft 'scion\.block3' before"):
        Graft(at=("student.block3",), scion=("other.block3",)).apply(world, {})
    Ungraft(modules=("student",)).apply(world, {})
    with pytest.raises(ActionError, match="has its own segment already"):
        Ungraft(modules=("student",)).apply(world, {})
