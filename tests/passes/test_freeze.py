"""freeze: a batch norm, an addition and an activation go into the convolution in front of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet

from kdgraph.graph.conv import FusedConv2d


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], 5), id="basic"),
        pytest.param(lambda: resnet.ResNet(resnet.Bottleneck, [1, 2, 1, 1], 5), id="bottleneck"),
        pytest.param(
            lambda: timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), 5),
            id="timm",
        ),
    ],
)
def test_a_resnet_is_convolutions_and_little_else(
    frozen: Any, build: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(0)
    step = frozen.both(frozen.lived(build()), size=32, mid="layer2")
    others = {k for k in frozen.kinds(step) if not k.endswith(("Pool2d", "Flatten"))}
    assert others == {"FusedConv2d", "Linear"}
    assert "relu" not in str(frozen.record(step).after)
    assert "teacher: channels last from its input on" in frozen.record(step).did
    assert not any("batch norm" in said for said in frozen.record(step).declined)


def norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width)


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        pytest.param((nn.Conv2d(6, 8, 3), norm(8)), 0, id="conv"),
        pytest.param((nn.Conv2d(6, 8, 3, bias=False, groups=2), norm(8)), 0, id="groups"),
        pytest.param((nn.Conv2d(6, 8, 3, padding="same", dilation=2), norm(8)), 0, id="same"),
        pytest.param(
            (nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect"), norm(8)), 0, id="reflect"
        ),
        pytest.param((nn.ConvTranspose2d(6, 8, 3, stride=2), norm(8)), 0, id="transposed"),
        pytest.param(
            (nn.ConvTranspose2d(6, 8, 3, groups=2, bias=False), norm(8)), 0, id="transposed groups"
        ),
        pytest.param((nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8, affine=False)), 0, id="not affine"),
        pytest.param((nn.Conv2d(6, 8, 1), nn.SyncBatchNorm(8)), 0, id="sync"),
        pytest.param((nn.Conv2d(6, 8, 1), torchvision.ops.FrozenBatchNorm2d(8)), 0, id="frozen"),
        pytest.param((nn.Conv2d(6, 8, 1), nn.Dropout(0.5), norm(8)), 0, id="dropout between"),
        pytest.param((nn.ReLU(), norm(6), nn.Conv2d(6, 8, 1)), 1, id="norm first"),
        pytest.param((nn.Conv2d(6, 8, 1), nn.ReLU(), norm(8)), 1, id="activation between"),
        pytest.param(
            (nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8, track_running_stats=False)),
            1,
            id="no statistics",
        ),
    ],
)
def test_a_batch_norm_goes_into_the_layer_in_front(frozen: Any, layers: Any, left: int) -> None:
    step = frozen.both(frozen.ready(frozen.stack(*copy.deepcopy(layers))))
    norms = [k for k in frozen.kinds(step) if "BatchNorm" in k]
    assert len(norms) == left
    assert sum("batch norm" in said for said in frozen.record(step).declined) == left


def test_a_batch_norm_in_train_mode_stays(frozen: Any) -> None:
    class Stubborn(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Stubborn:
            return super().train(True)

    net = frozen.ready(frozen.stack(nn.Conv2d(6, 8, 1), Stubborn(8)))
    step = frozen.compiled(net)
    assert "FusedConv2d" in frozen.kinds(step)
    assert any("Stubborn" in k or "Norm" in k for k in frozen.kinds(step))


def test_linear_and_batch_norm(frozen: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.BatchNorm1d(8), nn.ReLU())
    net.append(nn.Linear(8, 5))
    step = frozen.both(frozen.lived(net))
    assert frozen.kinds(step) == ["Flatten", "Linear", "ReLU", "Linear"]


def test_a_batch_norm_over_tokens_is_not_one_over_features(frozen: Any) -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(16, 48), nn.BatchNorm1d(48)
            self.head = nn.Linear(48, 5)

        def forward(self, x: Tensor) -> Tensor:  # 48 rows of the image, and 48 features
            return self.head(self.norm(self.linear(x.flatten(1, 2))).mean(1))

    step = frozen.both(frozen.lived(Tokens()))
    assert "BatchNorm1d" in frozen.kinds(step)
    assert "does not work on the channels" in frozen.record(step).declined[0]


def test_a_tap_on_the_convolution_keeps_its_batch_norm(frozen: Any) -> None:
    step = frozen.both(
        frozen.ready(frozen.stack(nn.Conv2d(6, 8, 3, padding=1), norm(8), nn.ReLU())), mid="1.0"
    )
    assert "BatchNorm2d" in frozen.kinds(step)
    assert frozen.record(step).declined == (
        "teacher: 1.1: what this batch norm reads is read elsewhere too",
    )


def test_a_tap_on_the_batch_norm_keeps_the_activation_apart(frozen: Any) -> None:
    step = frozen.both(
        frozen.ready(frozen.stack(nn.Conv2d(6, 8, 3, padding=1), norm(8), nn.ReLU())), mid="1.1"
    )
    fused = [m for m in frozen.modules(step) if isinstance(m, FusedConv2d)]
    assert [m.activation for m in fused] == ["none", "none"]


class Residual(nn.Module):
    """``act(norm(conv(x)) + x)``, and the same convolution once more behind it."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor], act: nn.Module) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), norm(6), norm(6)
        self.add, self.act = add, act

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.add(self.first(self.conv(x)), x))
        return self.act(self.add(x, self.second(self.conv(x))))


def in_place(a: Tensor, b: Tensor) -> Tensor:
    a = a + 0
    a += b
    return a


@pytest.mark.parametrize("act", [nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.Tanh()])
@pytest.mark.parametrize("add", [torch.add, in_place, lambda a, b: a + b])
def test_additions_and_a_convolution_called_twice(frozen: Any, add: Any, act: nn.Module) -> None:
    frozen.both(frozen.ready(frozen.stack(Residual(add, act))))


def test_each_call_of_a_convolution_is_folded_for_itself(frozen: Any) -> None:
    step = frozen.both(frozen.ready(frozen.stack(Residual(torch.add, nn.ReLU()))))
    assert frozen.kinds(step).count("FusedConv2d") == 3
    assert "teacher: 2 additions joined to the convolution in front" in frozen.record(step).did


def test_what_is_added_in_another_shape_is_added_apart(frozen: Any) -> None:
    class Broad(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), norm(6)

        def forward(self, x: Tensor) -> Tensor:
            return functional.relu(self.norm(self.conv(x)) + x.mean((2, 3), keepdim=True))

    step = frozen.both(frozen.ready(frozen.stack(Broad())))
    assert not any("addition" in said for said in frozen.record(step).did)
