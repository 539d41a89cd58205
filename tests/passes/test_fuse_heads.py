from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.kernels.base import KERNELS
from kdgraph.losses.soft_target import SoftTarget
from kdgraph.passes._fused_head import _counts


class Language(nn.Module):
    """Tokens to logits."""

    def __init__(self, width: int, classes: int, *, bias: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, classes, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(self.embedding(tokens)))
        return logits


def spec(**keys: Any) -> dict[str, Any]:
    taps = {"logits": "head", "hidden": "body"}
    soft = {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"}
    return {
        "kdgraph": 1,
        "name": "language",
        "batch": {
            "tokens": {"shape": ["B", 5], "dtype": "int64"},
            "mask": {"shape": ["B", 5], "dtype": "bool"},
        },
        "models": {
            "teacher": {"input": "tokens", "taps": dict(taps)},
            "student": {"input": "tokens", "taps": dict(taps)},
        },
        "losses": {"soft": {**soft, "tau": 2.0, "fused_head": True, **keys}},
    }


def batch() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(11, (3, 5), generator=random)
    return {"tokens": tokens, "mask": torch.rand(3, 5, generator=random) > 0.3}


def models(own: int = 13, its: int = 13) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"teacher": Language(16, its), "student": Language(8, own, bias=True)}


def result(step: kdgraph.DistillModule) -> list[Tensor]:
    out = step(**batch())
    leaves = list(step.student.parameters())
    return [out.loss.detach(), out.losses["soft"].detach(), *torch.autograd.grad(out.loss, leaves)]


def both(given: dict[str, Any], **networks: int) -> list[kdgraph.DistillModule]:
    """With the pass, and without it."""
    return [
        kdgraph.compile(given, models=models(**networks), without=without)
        for without in ((), ("fuse_heads",))
    ]


KEYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask": {"mask": "mask"},
    "batchmean": {"mask": "mask", "reduction": "batchmean"},
    "sum": {"reduction": "sum", "scale": False},
    "element": {"reduction": "element", "tau_student": 3.0},
    "weights": {"weight": {"linear": [0.5, 0.0], "epochs": [0, 10]}},
    "moving tau": {"tau": {"linear": [4.0, 1.0], "epochs": [0, 10]}},
}


@pytest.mark.parametrize("name", KEYS)
def test_one_node_without_logits(name: str) -> None:
    fused, plain = both(spec(**KEYS[name]))
    (record,) = [r for r in fused.report.records if r.name == "fuse_heads"]
    assert record.did == ("soft: one node over states of width 8 and 16, no logits",)
    assert "models.student.head" in {n.target for n in record.before}
    assert "models.student.head" not in {n.target for n in record.after}
    torch.testing.assert_close(result(fused), result(plain), rtol=1e-4, atol=1e-6)
    assert fused(**batch()).outputs.keys() == plain(**batch()).outputs.keys() == set()
    assert fused.state_dict().keys() == plain.state_dict().keys()


def test_through_a_link() -> None:
    given = spec(link="heads")
    del given["losses"]["soft"]["student"], given["losses"]["soft"]["teacher"]
    given["links"] = {"heads": {"student": "student.logits", "teacher": "teacher.logits"}}
    fused, plain = both(given)
    torch.testing.assert_close(result(fused), result(plain), rtol=1e-4, atol=1e-6)
    assert fused(**batch()).outputs.keys() == plain(**batch()).outputs.keys() == set()


@pytest.mark.parametrize(("own", "its"), [(13, 10), (10, 13)])
def test_classes_that_one_side_lacks_are_masked(own: int, its: int) -> None:
    fused, plain = both(spec(), own=own, its=its)
    torch.testing.assert_close(result(fused), result(plain), rtol=1e-4, atol=1e-6)
    networks, tokens = models(own, its), batch()["tokens"]
    teacher, student = (networks[n](tokens)[..., :10] / 2 for n in ("teacher", "student"))
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    expected = 4 * (p.exp() * (p - q)).sum(-1).mean()
    torch.testing.assert_close(fused(**batch()).loss, expected)
    loss = SoftTarget(student="a.b", teacher="c.d", fused_head=True)
    rows = KERNELS.get("softmax_rows")  # without the pass, no other kernel may take it
    assert rows.declines(loss, student=(3, 5, own), teacher=(3, 5, its)) is not None
    assert rows.declines(loss, student=(3, 5, own), teacher=(3, 5, own)) is None


def test_a_teacher_in_half_precision() -> None:
    given = spec()
    given["models"]["teacher"]["precision"] = "bf16"
    fused, plain = both(given)
    torch.testing.assert_close(result(fused), result(plain), rtol=3e-2, atol=1e-3)


def test_float64_and_transforms_make_the_logits() -> None:
    fused, plain = both(spec())
    wide = [result(step.double()) for step in (fused, plain)]
    assert all(x.dtype == torch.float64 for x in wide[0])
    torch.testing.assert_close(*wide)


def test_a_temperature_that_learns_gets_its_gradient() -> None:
    fused, plain = both(spec())
    grads = []
    for step in (fused, plain):
        name = "rewritten.soft_head" if step is fused else "losses.soft"
        module = step.report.graph.root.get_submodule(name)
        tau = torch.tensor(2.0, requires_grad=True)
        sides: dict[str, Tensor] = {}
        for side, net in models().items():
            assert isinstance(net, Language)
            hidden = net.body(net.embedding(batch()["tokens"]))
            sides[side] = hidden if step is fused else net.head(hidden)
            if step is fused:
                sides[f"{side}_weight"], sides[f"{side}_bias"] = net.head.weight, net.head.bias
        value = module(tau=tau, **{k: v for k, v in sides.items() if v is not None})
        grads += torch.autograd.grad(value, [tau])
    torch.testing.assert_close(*grads)


def test_autocast() -> None:
    fused, plain = both(spec())
    with torch.autocast("cpu", torch.bfloat16):
        values = [result(step) for step in (fused, plain)]
    assert all(x.dtype == torch.float32 for x in values[0])
    torch.testing.assert_close(*values, rtol=5e-2, atol=1e-2)


def test_a_sparse_teacher() -> None:
    given = spec()
    del given["models"]["teacher"]
    given["batch"] |= {
        "values": {"shape": ["B", 5, 3]},
        "ids": {"shape": ["B", 5, 3], "dtype": "int64"},
    }
    soft = {"use": "sparse_soft_target", "student": "student.logits", "fused_head": True}
    results = []
    for tail in ("bucket", "zero"):
        given["losses"] = {"soft": {**soft, "values": "values", "ids": "ids", "tail": tail}}
        for without in ((), ("fuse_heads",)):
            step = kdgraph.compile(given, models={"student": models()["student"]}, without=without)
            teacher = models()["teacher"](batch()["tokens"]).detach()
            values, ids = teacher.log_softmax(-1).topk(3)
            out = step(**batch(), values=values, ids=ids)
            leaves = list(step.student.parameters())
            results.append([out.loss.detach(), *torch.autograd.grad(out.loss, leaves)])
        torch.testing.assert_close(results[-2], results[-1], rtol=1e-4, atol=1e-6)
    for tail, k, reason in (
        ("renormalise", 3, "the listed logits"),
        ("zero", 257, "more than 256"),
    ):
        given["losses"]["soft"]["tail"] = tail
        given["batch"] |= {
            n: {**given["batch"][n], "shape": ["B", 5, k]} for n in ("values", "ids")
        }
        with pytest.raises(kdgraph.KDGraphError, match=reason):
            kdgraph.compile(given, models={"student": Language(8, 300)})


def test_compiles_to_one_graph() -> None:
    step = kdgraph.compile(spec(), models=models())
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**batch()).loss, step(**batch()).loss)


def other_reader(given: dict[str, Any], networks: dict[str, nn.Module]) -> None:
    given["losses"]["mse"] = {
        "use": "logit_mse", "student": "student.logits", "teacher": "teacher.logits"
    }  # fmt: skip


def own_output(given: dict[str, Any], networks: dict[str, nn.Module]) -> None:
    given["models"]["student"]["taps"]["out"] = "output"


def no_linear(given: dict[str, Any], networks: dict[str, nn.Module]) -> None:
    for side in ("teacher", "student"):
        given["models"][side]["taps"]["logits"] = "output"


def capped(given: dict[str, Any], networks: dict[str, nn.Module]) -> None:
    networks["teacher"].head = nn.Sequential(networks["teacher"].head, nn.Tanh())


def watched(given: dict[str, Any], networks: dict[str, nn.Module]) -> None:
    networks["teacher"].head.register_forward_hook(lambda *_: None)


def row_weight(given: dict[str, Any], networks: dict[str, nn.Module]) -> None:
    given["batch"]["w"] = {"shape": ["B"]}
    given["losses"]["soft"]["weight"] = "w"


@pytest.mark.parametrize(
    ("change", "reason"),
    [(other_reader, "student's logits are read by %"), (own_output, "student's logits are read"),
     (capped, "head is a Sequential"), (watched, "head is a Linear with hooks"),
     (row_weight, "a signal with a number for each row")],
)  # fmt: skip
def test_where_it_cannot_be_done_it_is_an_error(
    change: Callable[[dict[str, Any], dict[str, nn.Module]], None], reason: str
) -> None:
    given, networks = spec(), models()
    change(given, networks)
    with pytest.raises(kdgraph.KDGraphError, match=reason) as error:
        kdgraph.compile(given, models=networks)
    assert "KD306" in str(error.value)


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
@pytest.mark.parametrize("mask", [None, torch.tensor([1.0, 0.0, 0.5]), torch.zeros(3)])
def test_rows_count_as_the_reduction_has_them(reduction: Any, mask: Tensor | None) -> None:
    loss = SoftTarget(student="a.b", teacher="c.d", reduction=reduction)
    rows = torch.randn(3, 5)
    keep = None if mask is None else mask[:, None]
    found = (_counts(loss, mask, rows[..., None]) * rows).sum()
    torch.testing.assert_close(found, loss.reduce(rows, keep))


class Tied(Language):
    """Its head has the weight of its embedding, and is a function."""

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.linear(self.body(self.embedding(tokens)), self.embedding.weight)


def test_a_head_that_is_a_function() -> None:
    given = spec()
    for side in ("teacher", "student"):
        given["models"][side]["taps"] = {"logits": "output", "hidden": "body"}
    given["losses"]["hidden"] = {"use": "similarity"} | {
        side: f"{side}.hidden" for side in ("student", "teacher")
    }
    results = []
    for without in ((), ("fuse_heads",)):
        torch.manual_seed(0)
        networks = {"teacher": Tied(16, 1), "student": Tied(8, 1)}
        step = kdgraph.compile(given, models=networks, without=without)
        embedding = networks["student"].embedding.weight
        out = step(**batch())
        assert out.outputs.keys() == {"teacher.hidden", "student.hidden"}
        results.append([out.loss.detach(), *torch.autograd.grad(out.loss, embedding)])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
