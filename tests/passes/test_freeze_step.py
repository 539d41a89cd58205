"""freeze: the step that comes out of it, in other precisions, compiled, after a change."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import kdgraph
from kdgraph.errors import InputError
from kdgraph.graph.conv import FusedConv2d
from kdgraph.passes.base import PASSES, Context


def norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width)


@pytest.fixture
def net(frozen: Any) -> nn.Module:
    torch.manual_seed(0)
    return frozen.ready(
        frozen.stack(nn.Conv2d(6, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3), norm(8))
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_precision(frozen: Any, net: nn.Module, dtype: torch.dtype) -> None:
    step, other = (frozen.compiled(net, without=w).to(dtype) for w in ((), ["freeze"]))
    given = {"image": frozen.batch()["image"].to(dtype), "label": frozen.batch()["label"]}
    loose = {"rtol": 0.1, "atol": 0.1} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(step(**given).outputs, other(**given).outputs, **loose)


def test_autocast_and_gradients_of_the_image(frozen: Any, net: nn.Module) -> None:
    step, other = frozen.compiled(net), frozen.compiled(net, without=["freeze"])
    with torch.autocast("cpu", torch.bfloat16):
        here, there = step(**frozen.batch()).outputs, other(**frozen.batch()).outputs
    assert here["teacher.logits"].dtype == there["teacher.logits"].dtype == torch.bfloat16
    torch.testing.assert_close(here, there, rtol=0.1, atol=0.1)
    images = [frozen.batch()["image"].requires_grad_() for _ in range(2)]
    for run, image in zip((step, other), images, strict=True):
        run(image=image, label=frozen.batch()["label"]).outputs["teacher.logits"].sum().backward()
    torch.testing.assert_close(images[0].grad, images[1].grad, rtol=1e-4, atol=1e-5)


def test_it_follows_to_another_device(frozen: Any, net: nn.Module) -> None:
    step = frozen.compiled(net)
    step(**frozen.batch())  # packs
    step.to("meta")
    assert all(t.is_meta for m in step._frozen for t in (*m.parameters(), *m.buffers()))
    fused = [m for m in step._frozen if isinstance(m, FusedConv2d)]
    assert [m._packed for m in fused] == [None] * 3
    assert fused[0](frozen.batch()["image"].to("meta")).is_meta


def test_one_graph_when_compiled(frozen: Any, net: nn.Module) -> None:
    step = frozen.compiled(net)
    fast = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        fast(**frozen.batch()).loss, step(**frozen.batch()).loss, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        fast(**frozen.batch()).loss, step(**frozen.batch()).loss, rtol=1e-5, atol=1e-6
    )


def test_weights_that_change_are_not_overlooked(frozen: Any, net: nn.Module) -> None:
    step = frozen.compiled(net)
    step(**frozen.batch())
    step.to(torch.float64).to(torch.float32)
    step(**frozen.batch())
    with torch.no_grad():
        net[1][1].bias.add_(1)
    with pytest.raises(InputError, match=r"'1.1.bias' of frozen model 'teacher'") as caught:
        step(**frozen.batch())
    assert caught.value.diagnostics[0].code == "KD709"
    frozen.assert_same(
        frozen.compiled(net), frozen.compiled(net, without=["freeze"]), frozen.batch()
    )


def test_a_copy_watches_its_own_teacher(frozen: Any, net: nn.Module) -> None:
    step = frozen.compiled(net)
    twin = copy.deepcopy(step)
    with torch.no_grad():
        net[1][1].bias.add_(1)
    torch.testing.assert_close(twin(**frozen.batch()).losses, twin(**frozen.batch()).losses)
    with pytest.raises(InputError):
        step(**frozen.batch())


def test_weights_may_change_where_nothing_was_folded(frozen: Any, net: nn.Module) -> None:
    step = frozen.compiled(net, without=["freeze"])
    with torch.no_grad():
        net[1][1].bias.add_(1)
    step(**frozen.batch())


def test_only_the_folded_layers_belong_to_the_step(frozen: Any, net: nn.Module) -> None:
    step = frozen.compiled(net)
    assert {n.split(".")[0] for n, _ in step.named_parameters()} == {"models"}
    assert not any(k.startswith("frozen") for k in step.state_dict())
    assert all(not p.requires_grad for m in step._frozen for p in m.parameters())


def test_what_it_says_and_that_a_plan_without_weights_says_the_same(
    frozen: Any, net: nn.Module
) -> None:
    step = frozen.compiled(net)
    given = frozen.record(step)
    assert given.did == (
        "teacher: 1 module opened",
        "teacher: 2 batch norms folded into the layer in front",
        "teacher: 1 activation joined to the convolution in front",
        "teacher: channels last from its input on",
    )
    hollow = {
        n: copy.deepcopy(m).to("meta") for n, m in (("teacher", net), ("student", step.student))
    }
    context = Context(given.after.spec, skeleton=True)
    report = kdgraph.compiler.plan(frozen.spec(16, 5, None), models=hollow)
    (planned,) = [r for r in report.records if r.name == "freeze"]
    assert (planned.did, planned.declined) == (given.did, given.declined)
    assert str(planned.after) == str(given.after)
    again = PASSES.get("freeze").run(given.after.copy(), context)
    assert str(again) == str(given.after)
