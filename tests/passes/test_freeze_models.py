"""freeze: what it opens, what it leaves whole, what it computes once."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional


def norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width)


@pytest.mark.parametrize(
    ("name", "options", "size", "mid"),
    [
        ("lcnet_035", {}, 32, "blocks.1"),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, 32, None),
        ("swin_tiny_patch4_window7_224", {"img_size": 56, "depths": (2,)}, 56, None),
        ("convnext_atto", {"depths": (1, 1, 1, 1)}, 32, "stages.1"),
    ],
)
def test_other_families_keep_their_numbers(
    frozen: Any, name: str, options: dict[str, Any], size: int, mid: str | None
) -> None:
    torch.manual_seed(0)
    frozen.both(frozen.lived(timm.create_model(name, num_classes=5, **options)), size=size, mid=mid)


class OnExport(nn.Module):
    """Opened by export only: fx cannot follow the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, bias=False), norm(6)
        self.up, self.after = nn.ConvTranspose2d(6, 6, 2), norm(6)
        self.table = nn.Parameter(torch.randn(7, 6))
        self.register_buffer("index", torch.arange(6))
        self.drop, self.head = nn.Dropout(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > 3:
            x = functional.relu(self.norm(self.conv(x)))
        x = self.after(self.up(x)).mean((2, 3)) + self.table[self.index].mean(0).softmax(-1)
        return self.head(self.drop(x))


def test_an_exported_model_is_folded_too(frozen: Any) -> None:
    step = frozen.both(frozen.lived(OnExport()))
    assert step.report.captures["teacher"].rung == "export"
    assert frozen.kinds(step) == ["Conv2d", "ConvTranspose2d"]
    said = frozen.record(step).did
    assert "teacher: 2 batch norms folded into the layer in front" in said
    assert "teacher: 1 constant computed once instead of at every step" in said
    assert not any("dropout" in str(n.target) for n in frozen.teacher_nodes(step))


def test_a_standardised_weight_is_a_weight(frozen: Any) -> None:
    standardised = timm.layers.StdConv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    step = frozen.both(frozen.ready(frozen.stack(*standardised)))
    assert frozen.kinds(step)[:2] == ["FusedConv2d", "FusedConv2d"]
    assert "batch_norm" not in str(step.report.graph)


class Windows(nn.Module):
    """Attention with a bias for each pair of positions, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(31))
        self.register_buffer("index", torch.arange(16)[:, None] - torch.arange(16) + 15)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table[self.index.view(-1)].view(16, 16).softmax(-1)


def test_what_depends_on_no_batch_is_computed_once(frozen: Any) -> None:
    net = frozen.lived(nn.Sequential(Windows(), nn.Flatten(), nn.Linear(768, 5)))
    step = frozen.both(net)
    assert "softmax(" not in str(step.report.graph)
    assert (
        frozen.record(step).did[-1] == "teacher: 1 constant computed once instead of at every step"
    )


def test_a_constant_far_larger_than_its_source_is_not_kept(frozen: Any) -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row = nn.Parameter(torch.randn(1600))
            self.register_buffer("first", torch.arange(16))

        def forward(self, x: Tensor) -> Tensor:
            outer = torch.outer(self.row, self.row)
            return x + outer[self.first + x.shape[0], :16]

    step = frozen.both(frozen.lived(nn.Sequential(Wide(), nn.Flatten(), nn.Linear(768, 5))))
    assert "far larger" in frozen.record(step).declined[0]


def test_a_part_that_cannot_be_traced_stays_whole_and_the_rest_is_opened(frozen: Any) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.shape[0] > 1 else x

    net = frozen.ready(
        frozen.stack(nn.Conv2d(6, 6, 1), norm(6), Branch(), nn.Conv2d(6, 6, 1), norm(6))
    )
    step = frozen.both(net)
    assert frozen.kinds(step)[:4] == ["FusedConv2d", "FusedConv2d", "Branch", "FusedConv2d"]
    (said,) = frozen.record(step).declined
    assert said.startswith("teacher: 1.2: it cannot be opened: TraceError")


def test_what_has_hooks_stays_as_it_is(frozen: Any) -> None:
    net = frozen.ready(frozen.stack(nn.Sequential(nn.Conv2d(6, 6, 1), norm(6))))
    seen: list[int] = []
    net[1].register_forward_hook(lambda *_: seen.append(1))
    step = frozen.both(net)
    assert seen
    assert "hooks" in frozen.record(step).declined[0]


def test_a_model_that_needs_its_layout_keeps_it(frozen: Any) -> None:
    class Rows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(x.shape[0], -1)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Conv2d(4, 4, 3), norm(4), Rows())
    step = frozen.both(frozen.lived(net.append(nn.Linear(4 * 144, 5))))
    assert frozen.kinds(step)[:2] == ["Conv2d", "Conv2d"]
    assert "does not run with channels last" in frozen.record(step).declined[0]
    assert "teacher: 2 batch norms folded into the layer in front" in frozen.record(step).did


def test_ports_are_left_alone(frozen: Any) -> None:
    class Odd(OnExport):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.from_numpy(x.detach().numpy()).mean() * 0

    step = frozen.compiled(frozen.lived(Odd()), without=[])
    assert step.report.captures["teacher"].rung == "ports"
    assert frozen.record(step).did == ()
    assert frozen.record(step).declined == (
        "teacher: it was captured through ports, so it runs as it is",
    )
