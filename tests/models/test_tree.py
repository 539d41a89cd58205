from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

import kdgraph
from kdgraph.capture import capture
from kdgraph.models.load import build_model
from kdgraph.models.nets.tree import LogRows, Route

SMALL = {"in_channels": 1, "num_classes": 4, "width": 0.125, "pool": 1}
EXAMPLE = ("kdexplainer", SMALL)


def tree(**args: Any) -> Any:
    torch.manual_seed(0)
    return build_model("tree/kdexplainer", {**SMALL, **args})


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def route(b: list[list[float]], **kinds: Any) -> Route:
    made = Route(len(b[0]), len(b)).double()
    with torch.no_grad():
        made.log_rows.logits.copy_(torch.tensor(b, dtype=torch.float64))
    return made


KNOWN = [[0.2, 0.9], [0.6, 0.1]]
SOFT, HARD = torch.tensor(False), torch.tensor(True)


@pytest.mark.parametrize(
    ("epoch", "rows"),
    [
        (1, [[0.465057054842, 0.534942945158], None]),
        (10, [[0.197816111441, 0.802183888559], [0.731058578630, 0.268941421370]]),
    ],
)
def test_known_rows(epoch: int, rows: list[Any]) -> None:
    found = route(KNOWN).log_rows(number(epoch), SOFT).exp().tolist()
    for row, known in zip(found, rows, strict=True):
        assert known is None or row == pytest.approx(known, abs=1e-12)


def test_known_mixture() -> None:
    x = torch.tensor([[[1, 2], [3, -1]]], dtype=torch.float64)
    mixed = route(KNOWN)(x, number(10), SOFT)[0].tolist()
    assert mixed[0] == pytest.approx([2.604367777117, -0.406551665676], abs=1e-12)
    assert mixed[1] == pytest.approx([1.537882842740, 1.193175735890], abs=1e-12)
    assert route(KNOWN)(x, number(10), HARD)[0].tolist() == [[3, -1], [1, 2]]


def test_the_authors_two_softmaxes() -> None:
    b = np.random.default_rng(0).random((5, 3))

    def softmax(z: np.ndarray) -> Any:
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    for epoch in (1, 7, 300):
        theirs = softmax(np.log(softmax(b / 0.5)) / (10 / epoch))
        ours = route(b.tolist()).log_rows(number(epoch), SOFT).exp()
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-10, atol=1e-300)


def test_hard_rows_pass_no_gradient_and_no_nan() -> None:
    made = route(KNOWN)
    x = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    made(x, number(1), HARD).square().sum().backward()
    assert made.log_rows.logits.grad is not None
    assert made.log_rows.logits.grad.tolist() == [[0, 0], [0, 0]]
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_routes_start_between_0_and_1() -> None:
    logits = LogRows(40, 50).logits
    assert 0 <= logits.min() < 0.05
    assert 0.95 < logits.max() <= 1


def test_blocks_see_what_they_read_alone() -> None:
    """The convolutions in groups of a level against each of its blocks by itself."""
    net = tree().double().eval()
    level = net.levels[1]
    x = torch.randn(3, 4, 8, 4, 4, dtype=torch.float64)
    found = level(x)
    assert found.shape == (3, 4, 8, 2, 2)
    for i in range(4):
        own = slice(8 * i, 8 * i + 8)
        y = conv2d(x[:, i], level.conv1.weight[own], level.conv1.bias[own], padding=1)
        y = (y / (1 + level.bn1.eps) ** 0.5).relu()
        y = conv2d(y, level.conv2.weight[own], level.conv2.bias[own], padding=1)
        y = nn.functional.max_pool2d((y / (1 + level.bn2.eps) ** 0.5).relu(), 2)
        torch.testing.assert_close(found[:, i], y, rtol=1e-12, atol=1e-12)


def test_each_head_is_a_network_of_its_own() -> None:
    net = tree().double().eval()
    first, second, third = (net.heads.layers[i] for i in (0, 3, 6))
    x = torch.randn(2, 4, 4, 1, 1, dtype=torch.float64)
    for k in range(4):
        y = x[:, k].flatten(1)
        for layer, size in ((first, 16), (second, 16), (third, 1)):
            own = slice(size * k, size * (k + 1))
            y = y @ layer.weight[own, :, 0].T + layer.bias[own]
            y = y if layer is third else y.relu()
        torch.testing.assert_close(net.heads(x)[:, k], y, rtol=1e-12, atol=1e-12)


def test_heads_drop_hidden_units_in_training_alone() -> None:
    """0.15 of the units behind either hidden layer, the others scaled up."""
    net = tree(width=2)
    layers = net.heads.layers
    for first, last in ((0, 3), (3, 6)):
        x = torch.randn(64, layers[first].in_channels, 1)
        hidden = layers[first](x).relu()
        dropped = layers[first:last](x)
        left = dropped[hidden > 0] != 0
        assert (~left).float().mean().item() == pytest.approx(0.15, abs=0.005)
        torch.testing.assert_close(dropped[dropped != 0], hidden[dropped != 0] / 0.85)
        assert torch.equal(layers[first:last].eval()(x), hidden)


@pytest.mark.parametrize("form", ["ce", "nce", "binary"])
def test_logits_of_each_form(form: str) -> None:
    net = tree(form=form).eval()
    units: list[Tensor] = []
    net.heads.register_forward_hook(lambda _module, _inputs, out: units.append(out))
    logits = net(torch.randn(3, 1, 8, 8))
    (u,) = units
    assert u.shape == (3, 4, 1 if form == "ce" else 2)
    want = {"ce": u[..., 0], "nce": u.max(2).values, "binary": u[..., 0] - u[..., -1]}[form]
    assert torch.equal(logits, want)


def test_another_form_is_refused() -> None:
    with pytest.raises(kdgraph.KDGraphError, match="'ce', 'nce' or 'binary'"):
        tree(form="bce")


def test_sizes_are_the_papers() -> None:
    """14 blocks and 10 heads, counted layer by layer."""

    def block(c: int, out: int) -> int:
        return c * 64 * 9 + 64 + 2 * 64 + 64 * out * 9 + out + 2 * out

    head = 1568 * 128 + 128 + 128 * 128 + 128 + 128 + 1
    whole = 2 * block(3, 64) + 4 * block(64, 64) + 8 * block(64, 32) + 10 * head
    routes = 4 * 2 + 8 * 4 + 10 * 8
    net = build_model("tree/kdexplainer", {})
    assert sum(p.numel() for p in net.parameters()) == whole + routes
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_epoch_and_mode_need_no_other_graph() -> None:
    from torch._dynamo.testing import CompileCounter

    net = tree(blocks=[2, 3]).eval()
    spec = {
        "kdgraph": 1,
        "name": "tree",
        "batch": {
            "image": {"shape": ["B", 1, 8, 8]},
            "label": {"shape": ["B"], "dtype": "int64", "classes": 4},
        },
        "models": {
            "student": {"taps": {"rows": "routes.0.log_rows", "logits": "output"}},
        },
        "losses": {
            "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
            "rows": {"use": "entropy", "student": "student.rows", "reduction": "sum"},
        },
    }
    step = kdgraph.compile(spec, models={"student": net})
    batch = {"image": torch.randn(2, 1, 8, 8), "label": torch.tensor([0, 3])}
    torch._dynamo.reset()
    counter = CompileCounter()
    fast = torch.compile(step.eval(), fullgraph=True, backend=counter)
    before = fast(**batch).losses["rows"]
    net.epoch.fill_(10)
    after = fast(**batch).losses["rows"]
    a = (2 * net.routes[0].log_rows.logits).detach().softmax(1).numpy()
    assert after.item() == pytest.approx(-(a * np.log(a)).sum(), rel=1e-5)
    assert after < before
    net.hard.fill_(True)
    assert fast(**batch).losses["rows"].item() == 0
    assert counter.frame_count == 1
    assert torch.equal(step(**batch).outputs["student.logits"], net(batch["image"]))


@pytest.mark.parametrize(
    "path", ["levels.0.conv1", "routes.0.log_rows", "pool.mean", "heads.layers.0"]
)
def test_it_opens_at_any_tap(path: str) -> None:
    found = capture(tree(), {"x": torch.randn(2, 1, 8, 8)}, {"tap": path, "logits": "output"})
    assert found.rung == "fx"
