from __future__ import annotations

import pytest
import torch

from kdgraph.importers._torchdistill.known import CIFAR, Network, hub_name, kind_of


def test_every_builder_of_torchvision_is_known() -> None:
    models = pytest.importorskip("torchvision.models")
    kinds = {"image": models, "map": models.segmentation, "boxes": models.detection}
    for kind, module in kinds.items():
        names = models.list_models(module=module)
        assert [n for n in names if kind_of(n) != kind] == []
    assert kind_of("resnet19") is None
    assert kind_of("quantized_resnet18") is None


@pytest.mark.parametrize("name", ["resnet20", "resnet32"])
def test_networks_for_small_images_are_torchdistills(name: str) -> None:
    """The same names of weights and, with the same weights, the same logits."""
    theirs = pytest.importorskip("torchdistill.models.classification.resnet")
    from kdgraph.models.load import build_model

    assert CIFAR.fullmatch(name)
    one, other = getattr(theirs, name)(), build_model(f"cifar/{name}", {})
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3, 32, 32).double()
    assert torch.allclose(one.double().eval()(x), other.double().eval()(x))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_blocks_of_residual_networks(name: str) -> None:
    """Where ``layer3.-1`` is, and how often its ReLU is called, is as torchvision builds it."""
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        net = getattr(models, name)()
    blocks = Network(name, "image", f"torchvision/{name}").blocks
    assert blocks is not None
    sizes, calls = blocks
    assert sizes == tuple(len(getattr(net, f"layer{i}")) for i in (1, 2, 3, 4))
    seen: list[str] = []
    net.layer4[-1].relu.register_forward_hook(lambda *_: seen.append("relu"))
    net(torch.zeros(1, 3, 64, 64, device="meta"))
    assert len(seen) == calls


def test_names_on_the_hub() -> None:
    assert hub_name("bert-base-uncased") == "google-bert/bert-base-uncased"
    assert hub_name("me/bert") == "me/bert"
    assert hub_name("mine") is None
