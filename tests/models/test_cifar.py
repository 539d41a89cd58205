from __future__ import annotations

import pytest
import torch

from kdgraph.errors import ModelError
from kdgraph.models import SOURCES
from kdgraph.models.load import build_model, build_skeleton

EXAMPLE = ("resnet8", {"num_classes": 4})

# Parameters with 100 classes: the counts of RepDistiller's networks.
KNOWN = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn-16-1": 180_916,
    "wrn-16-2": 703_284,
    "wrn-40-1": 569_780,
    "wrn-40-2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg13": 9_462_180,
}


def parameters(name: str, **args: int) -> int:
    return sum(p.numel() for p in build_skeleton(f"cifar/{name}", args).parameters())


def test_every_network_has_a_known_size() -> None:
    assert {
        name: parameters(name, num_classes=100) for name in SOURCES.get("cifar").names()
    } == KNOWN


def test_resnet20_of_ten_classes_has_projection_shortcuts() -> None:
    assert parameters("resnet20") == 272_474


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn-16-1"])
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (1, 8)])
def test_stages_halve_the_map(name: str, channels: int, size: int) -> None:
    model = build_model(f"cifar/{name}", {"in_channels": channels, "num_classes": 7})
    shapes: dict[str, tuple[int, ...]] = {}
    for tap in ("layer1", "layer2", "layer3", "flatten"):
        model.get_submodule(tap).register_forward_hook(
            lambda _module, _inputs, out, tap=tap: shapes.update({tap: tuple(out.shape)})
        )
    assert model(torch.randn(2, channels, size, size)).shape == (2, 7)
    assert [shapes[f"layer{i}"][2] for i in (1, 2, 3)] == [size, size // 2, size // 4]
    assert shapes["flatten"] == (2, shapes["layer3"][1])


def test_width_scales_every_stage() -> None:
    model = build_model("cifar/resnet8", {"width": 0.25})
    widths = [model.get_submodule(f"layer{i}.0.conv1").weight.shape[0] for i in (1, 2, 3)]
    assert widths == [4, 8, 16]


def test_unknown_name_has_a_near_match() -> None:
    with pytest.raises(ModelError, match=r"KD411.*\n.*'resnet32x4'"):
        build_model("cifar/resnet34x4", {})


@pytest.mark.parametrize(("name", "layers"), [("resnet8", 1), ("wrn-16-1", 6)])
def test_dropout_where_it_is_asked_for(name: str, layers: int) -> None:
    plain, model = (build_model(f"cifar/{name}", {"dropout": rate}) for rate in (0.0, 0.5))
    assert not any(isinstance(m, torch.nn.Dropout) for m in plain.modules())
    assert sum(isinstance(m, torch.nn.Dropout) for m in model.modules()) == layers
    plain.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain.eval()(image), model.eval()(image))
    assert not torch.equal(model.train()(image), model(image))


@pytest.mark.parametrize(("pools", "size"), [(3, 4), (1, 16), (0, 32)])
def test_a_vgg_is_a_chain_of_blocks(pools: int, size: int) -> None:
    args = {"widths": [2, 3, 4, 5, 6], "pools": pools, "num_classes": 7}
    model = build_model("cifar/vgg8", args)
    x = torch.randn(2, 3, 32, 32)
    features = torch.nn.Sequential(*list(model.children())[:-3])(x)
    assert features.shape == (2, 6, size, size)
    assert torch.equal(model(x), torch.nn.Sequential(*model.children())(x))


def test_a_vgg_may_have_a_hidden_layer() -> None:
    model = build_model("cifar/vgg8", {"widths": [2, 2, 3, 3, 4], "hidden": 6, "num_classes": 7})
    assert [name for name, _ in model.named_children()][-4:] == [
        "flatten", "fc1", "relu", "classifier",
    ]  # fmt: skip
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 7)
    assert model.get_submodule("fc1").weight.shape == (6, 4)


@pytest.mark.parametrize("args", [{"widths": [8, 8]}, {"pools": 4}])
def test_a_vgg_has_five_widths_and_few_poolings(args: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"KD413.*5 widths, and 0 to 3 poolings"):
        build_model("cifar/vgg8", args)
