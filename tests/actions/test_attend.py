"""Attention between blocks of channels: known numbers, folding, what stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

import kdgraph
from kdgraph.actions._attention import VirtualAttention
from kdgraph.actions._fold import fold
from kdgraph.actions._world import World
from kdgraph.actions.attend import Attend
from kdgraph.actions.freeze import Freeze
from kdgraph.actions.quantize import Quantize
from kdgraph.actions.unfreeze import Unfreeze
from kdgraph.errors import ActionError
from kdgraph.losses.entropy import Entropy
from kdgraph.models.load import build_model

SPEC = kdgraph.load_spec(
    {
        "kdgraph": 1,
        "name": "attended",
        "batch": {
            "image": {"shape": ["B", 3, 8, 8]},
            "label": {"shape": ["B"], "dtype": "int64", "classes": 4},
        },
        "models": {"student": {"taps": {"logits": "output"}}},
        "losses": {
            "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"}
        },
    }
)
Y = [-0.144813264673, -0.067870708655, 0.342355860766, 1.517175166819]


def attended(net: nn.Module, **keys: Any) -> tuple[list[str], World]:
    world = World(SPEC, {"student": net})
    action = Attend(modules=("student",), **keys)
    return action.apply(world, action.decide(world)), world


def golden(**keys: Any) -> Any:
    conv = nn.Conv2d(4, 4, 1, bias=False).double()
    with torch.no_grad():
        conv.weight.copy_(((torch.arange(16).double() - 7.5) / 10).reshape(4, 4, 1, 1))
    net: Any = nn.Sequential(conv)
    attended(net, tau=0.5, **keys)
    with torch.no_grad():
        net[0].log_rows.logits.copy_(torch.tensor([[0.2, 0.9], [1, -1]], dtype=torch.float64))
    return net


@pytest.mark.parametrize(("gain", "factor"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("blocks", [{"size": 2}, {"blocks": 2}], ids=["size", "blocks"])
def test_known_numbers(gain: bool, factor: int, blocks: dict[str, int]) -> None:
    net = golden(gain=gain, **blocks)
    x = torch.tensor([1, 2, -1, 0.5], dtype=torch.float64).reshape(1, 4, 1, 1)
    assert net(x).flatten().tolist() == pytest.approx([factor * y for y in Y], abs=1e-12)
    assert fold(net)(x).flatten().tolist() == pytest.approx([factor * y for y in Y], abs=1e-12)
    rows = net[0].log_rows()
    entropies = Entropy(student="student.rows").rows(student=rows, tau=1.0)
    assert entropies.sum().item() == pytest.approx(0.587454733703, abs=1e-12)


def by_blocks(x: Tensor, weight: Tensor, rows: Tensor, shared: bool, **options: Any) -> Tensor:
    """Block by block, as the formula is written."""
    found: list[Tensor] = []
    parts = x.chunk(rows.shape[1], 1)
    for row, kernels in zip(rows, weight.chunk(len(rows), 0), strict=True):
        pairs = list(zip(row, parts, strict=True))
        if shared:
            mixed = torch.stack([a * part for a, part in pairs]).sum(0)
            found.append(conv2d(mixed, kernels, **options))
        else:
            own = kernels.chunk(len(parts), 1)
            each = [a * conv2d(part, k, **options) for (a, part), k in zip(pairs, own, strict=True)]
            found.append(torch.stack(each).sum(0))
    return torch.cat(found, 1)


@pytest.mark.parametrize("variant", ["weighed", "mixed"])
def test_each_variant_against_its_blocks_and_folded(variant: str) -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Conv2d(6, 4, 3, stride=2, padding=1)).double()
    attended(net, size=2, tau=0.7, variant=variant)
    vam = net[0]
    with torch.no_grad():
        vam.log_rows.logits.normal_()
    x = torch.randn(3, 6, 7, 5, dtype=torch.float64)
    rows = 3 * (vam.log_rows.logits / 0.7).softmax(1)
    want = by_blocks(x, vam.conv.weight, rows, variant == "mixed", stride=2, padding=1)
    torch.testing.assert_close(net(x), want + vam.conv.bias[:, None, None], rtol=0, atol=1e-12)
    plain: Any = fold(net)
    assert type(plain[0]) is nn.Conv2d
    assert plain[0].weight.shape == (4, 6, 3, 3)
    torch.testing.assert_close(plain(x), net(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_even_attention_with_gain_changes_nothing(kind: Any) -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(kind(8, 4, 3, padding=1, padding_mode="circular")).double()
    x = torch.randn(2, 8, *(4,) * (net[0].weight.dim() - 2), dtype=torch.float64)
    before = net(x)
    attended(net, blocks=4)
    torch.testing.assert_close(net(x), before, rtol=0, atol=1e-14)


def test_mixed_starts_at_the_mean_and_has_fewer_weights() -> None:
    net: Any = nn.Sequential(nn.Conv2d(8, 4, 3, bias=False))
    old = net[0].weight
    _, world = attended(net, blocks=4, variant="mixed")
    assert net[0].conv.weight.shape == (4, 2, 3, 3)
    torch.testing.assert_close(net[0].conv.weight, old.reshape(4, 4, 2, 3, 3).mean(1))
    ((moved),) = world.moved
    assert moved.old is old
    assert moved.new is net[0].conv.weight


def test_a_network_keeps_its_weights_and_loads_back_into_the_plain_one() -> None:
    torch.manual_seed(0)
    net = build_model("cifar/resnet8", {"num_classes": 4}).double()
    plain, old = copy.deepcopy(net), {id(p) for p in net.parameters()}
    lines, _ = attended(net, size=8)
    assert old <= {id(p) for p in net.parameters()}
    assert sum(isinstance(m, VirtualAttention) for m in net.modules()) == 8
    assert "student.conv1 stays as it is: 3 channels in are no whole number of blocks" in lines
    assert "student.layer2.0.conv1: 4 x 2 virtual blocks" in lines
    for m in net.modules():
        if isinstance(m, VirtualAttention):
            nn.init.normal_(m.log_rows.logits)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    net.eval()
    plain.eval().load_state_dict(fold(net).state_dict())
    torch.testing.assert_close(plain(x), net(x), rtol=1e-12, atol=1e-12)
    net.train()
    net(x).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_rows_are_tapped_and_trained() -> None:
    torch.manual_seed(0)
    net: Any = build_model("cifar/resnet8", {"num_classes": 4, "width": 0.5})
    attended(net, blocks=2)
    nn.init.normal_(net.layer1[0].conv1.log_rows.logits)
    step = kdgraph.compile(
        SPEC.model_dump(exclude={"stages", "data", "train"}, exclude_none=True),
        models={"student": net},
        set=[
            "models.student.taps.rows=layer1.0.conv1.log_rows",
            "losses.rows={use: entropy, student: student.rows, reduction: sum, weight: 10}",
        ],
    )
    out = step(image=torch.randn(2, 3, 8, 8), label=torch.tensor([0, 3]))
    a = net.layer1[0].conv1.log_rows.logits.detach().softmax(1).numpy()
    assert out.losses["rows"].item() == pytest.approx(-(a * np.log(a)).sum(), rel=1e-5)
    assert torch.allclose(out.outputs["student.rows"].exp(), torch.from_numpy(a))
    ((grad),) = torch.autograd.grad(out.losses["rows"], [net.layer1[0].conv1.log_rows.logits])
    assert grad.abs().sum() > 0


def test_shared_modules_stay_shared() -> None:
    conv = nn.Conv2d(4, 4, 1)
    net = nn.Sequential(conv, conv)
    attended(net, size=2)
    assert net[0] is net[1]
    assert isinstance(net[0], VirtualAttention)


@pytest.mark.parametrize(
    ("conv", "why"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), "4 groups"),
        (nn.Conv2d(4, 5, 3), "5 channels out are no whole number of blocks"),
        (nn.Conv2d(2, 4, 3), "its input is a single block"),
    ],
)
def test_what_stays_as_it_is(conv: nn.Module, why: str) -> None:
    net = nn.Sequential(conv)
    with pytest.raises(ActionError, match=why):
        attended(net, size=2)
    assert net[0] is conv


def test_twice_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3))
    attended(net, size=2)
    with pytest.raises(ActionError, match="attended to already"):
        attended(net, size=2)


def test_a_network_that_is_a_convolution_is_refused() -> None:
    with pytest.raises(ActionError, match="the network itself"):
        attended(nn.Conv2d(4, 4, 3), size=2)


@pytest.mark.parametrize("keys", [{}, {"size": 2, "blocks": 2}])
def test_size_or_blocks(keys: Any) -> None:
    with pytest.raises(ValueError, match="either 'size' or 'blocks'"):
        Attend(modules=("student",), **keys)


@pytest.mark.parametrize("variant", ["weighed", "mixed"])
def test_rows_of_a_frozen_convolution_are_frozen_with_it(variant: str) -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    world = World(SPEC, {"student": net})
    Freeze(modules=("student.0",)).apply(world, {})
    _, world = attended(net, size=2, variant=variant)
    trained = {n for n, p in net.named_parameters() if p.requires_grad}
    assert trained == {"1.conv.weight", "1.conv.bias", "1.log_rows.logits"}
    Unfreeze(modules=("student",)).apply(world, {})
    assert all(p.requires_grad for p in net.parameters())


def quantised(net: nn.Module, **keys: Any) -> None:
    world = World(SPEC, {"student": net})
    action = Quantize(modules=("student",), **keys)
    action.apply(world, action.decide(world))


def test_what_is_attended_to_is_not_quantised() -> None:
    net: Any = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Linear(4, 4))
    attended(net, size=2)
    with pytest.raises(ActionError, match=r"'student\.0\.conv' is attended to"):
        quantised(net)
    quantised(net, keep=("student.0",))
    assert len(net[1].weight.unique()) == 3


@pytest.mark.parametrize("variant", ["weighed", "mixed"])
def test_what_is_quantised_is_not_attended_to(variant: str) -> None:
    net: Any = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    quantised(net, keep=("student.1",))
    lines, _ = attended(net, size=2, variant=variant)
    assert lines[1].startswith("student.0 stays as it is: its weight is computed already")
    assert net[1].log_rows.logits.requires_grad
