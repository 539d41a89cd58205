"""rewrite_losses: each loss in its cheapest form, by shape; the numbers stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import kdgraph
from kdgraph.losses._module import LossModule
from kdgraph.losses.spatial_correlation import SpatialCorrelation
from kdgraph.passes import _sizes, rewrite_losses
from kdgraph.passes.base import Context
from kdgraph.passes.manager import Record

LOSSES: dict[str, dict[str, Any]] = {
    "csc": {"use": "csc"},
    "spatial": {"use": "spatial_correlation"},
    "channels": {"use": "channel_correlation", "variant": "cosine"},
    "paper": {"use": "channel_correlation"},
    "relation": {"use": "relation"},
}


class Net(nn.Module):
    """A map of ``width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x))


def compiled(*losses: str, side: int, width: int = 4, without: Any = ()) -> kdgraph.DistillModule:
    """Maps of ``width`` channels and ``side * side`` pixels, always with the same weights."""
    torch.manual_seed(0)
    taps = {"map": "output"}
    spec = {
        "kdgraph": 1,
        "name": "maps",
        "batch": {"image": {"shape": ["B", 3, side, side]}},
        "models": {"teacher": {"taps": taps}, "student": {"taps": taps}},
        "losses": {
            n: {**LOSSES[n], "student": "student.map", "teacher": "teacher.map"} for n in losses
        },
    }
    models = {"teacher": Net(width), "student": Net(width)}
    return kdgraph.compile(spec, models=models, without=without)


def record_of(step: kdgraph.DistillModule) -> Record:
    (record,) = [r for r in step.report.records if r.name == "rewrite_losses"]
    return record


def targets(step: kdgraph.DistillModule) -> set[str]:
    calls = step.report.graph.graph.find_nodes(op="call_module")
    return {str(n.target) for n in calls if str(n.target).startswith(("losses.", "rewritten."))}


def results(step: Any, image: Tensor, parameters: Any) -> tuple[Any, Any]:
    out = step(image=image)
    return out.losses, torch.autograd.grad(out.loss, list(parameters))


class Sizes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped there
    """Notes how many numbers each tensor has that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= {x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)}
        return result


def test_large_maps_become_products_of_channels() -> None:
    step = compiled("csc", "spatial", "channels", side=16)
    assert targets(step) == {"rewritten.csc", "rewritten.spatial", "losses.channels"}
    record = record_of(step)
    assert [line.split(",")[0] for line in record.did] == [
        "csc: delta_sigma",
        "spatial: delta_sigma",
    ]
    (line,) = record.declined
    assert line.startswith("channels: stays plain, ")


def test_small_maps_become_products_of_pixels() -> None:
    step = compiled("csc", "spatial", "channels", side=2, width=64)
    assert targets(step) == {"rewritten.csc", "losses.spatial", "rewritten.channels"}


def test_samples_are_related_by_inner_products_where_they_have_many_features() -> None:
    assert targets(compiled("relation", side=16)) == {"rewritten.relation"}
    assert targets(compiled("relation", side=1, width=2)) == {"losses.relation"}


def test_it_says_what_both_sides_take_and_at_which_batch() -> None:
    (line,) = record_of(compiled("spatial", side=16)).did
    # [13, 4, 16, 16]: 13 * 256 * 256 numbers in float32, 8 * 13 * 256 * 256 * 4 operations
    assert line.endswith("instead of 0.0273 GFLOP and 3.41 MB (batch of 13, an example)")
    sizes = _sizes.Sizes(13, 64, "data.batch_size")
    (node,) = record_of(compiled("spatial", side=16)).before.graph.find_nodes(
        op="call_module", target="losses.spatial"
    )
    loss = SpatialCorrelation(student="student.map", teacher="teacher.map")
    shapes = _sizes.shapes_at(loss, node.kwargs, sizes)
    assert shapes == {"student": (64, 4, 16, 16), "teacher": (64, 4, 16, 16)}


def test_it_says_why_there_is_no_cheaper_side() -> None:
    (line,) = record_of(compiled("paper", side=2, width=64)).declined
    assert line == (
        "paper: its rows are normalised after the product, which has no cheaper side then"
    )


@pytest.mark.parametrize(("side", "width"), [(16, 4), (2, 64)])
@pytest.mark.parametrize("batch", [2, 5])
def test_losses_and_gradients_stay(side: int, width: int, batch: int) -> None:
    step = compiled(*LOSSES, side=side, width=width)
    plain = compiled(*LOSSES, side=side, width=width, without=["rewrite_losses"])
    assert any(t.startswith("rewritten.") for t in targets(step))
    assert not any(t.startswith("rewritten.") for t in targets(plain))
    image = torch.randn(batch, 3, side, side)
    expected = results(plain, image, plain.student.parameters())
    found = results(step, image, step.student.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_nothing_as_large_as_the_plain_form_is_made() -> None:
    B, side, width = 6, 12, 5
    N, D = side**2, side**2 * width
    image = torch.randn(B, 3, side, side)
    for losses, large in ((["csc", "spatial"], B * N * N), (["relation"], B * B * D)):
        for without in ((), ["rewrite_losses"]):
            step = compiled(*losses, side=side, width=width, without=without)
            with Sizes() as sizes:
                results(step, image, step.student.parameters())
            assert (max(sizes.seen) >= large) == bool(without)
            if not without:
                assert max(sizes.seen) <= B * 3 * 9 * N  # what the convolution unfolds


@pytest.mark.parametrize("loss", ["csc", "relation"])
def test_one_graph_under_compile(loss: str) -> None:
    step = compiled(loss, side=8)
    assert targets(step) == {f"rewritten.{loss}"}
    image = torch.randn(3, 3, 8, 8)
    torch._dynamo.reset()
    fast = torch.compile(step, fullgraph=True, backend="aot_eager")
    expected = results(step, image, step.student.parameters())
    found = results(fast, image, step.student.parameters())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_state_and_parameters_are_those_without_it() -> None:
    step = compiled(*LOSSES, side=16)
    plain = compiled(*LOSSES, side=16, without=["rewrite_losses"])
    assert step.state_dict().keys() == plain.state_dict().keys()
    assert len(list(step.parameters())) == len(list(plain.parameters()))


def test_what_a_loss_learns_is_shared_by_its_other_form() -> None:
    loss = SpatialCorrelation(student="student.map", teacher="teacher.map")
    module = LossModule(loss, {"scale": torch.ones(2)})
    made = rewrite_losses._in_form(module, "delta_sigma")
    assert made.scale is module.scale


def test_a_second_run_changes_nothing() -> None:
    once = record_of(compiled(*LOSSES, side=16)).after
    assert str(rewrite_losses.run(once.copy(), Context(once.spec))) == str(once)
