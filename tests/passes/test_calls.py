"""Several calls of one network: one run on their batches put together, taken apart behind it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdgraph
from kdgraph.errors import KDGraphError
from kdgraph.graph.ops import apart
from kdgraph.passes.base import PASSES
from kdgraph.visual import manifest, picture

ROWS = 5


class Net(nn.Module):
    """A convolution with batch norm, a map to tap, and dropout before the head."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        conv = nn.Conv2d(3, 6, 3, padding=1)
        self.body = nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU())
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.drop(self.body(x).mean((2, 3))))
        return out


class Branching(Net):
    """Asks its input for its size in Python, which plain tracing cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[-1] > 2 else x * 2)


class Counting(Net):
    """Sets a number of its own at every call, so that it has to run as it is."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + float(x.sum())
        return super().forward(x)


def spec(**models: Any) -> dict[str, Any]:
    taps = {"logits": "output", "mid": "body"}
    return {
        "kdgraph": 1,
        "name": "calls",
        "batch": {
            "x": {"shape": ["B", 3, 8, 8]},
            "view": {"shape": ["B", 3, 8, 8]},
            "label": {"shape": ["B"], "dtype": "int64", "classes": 4},
        },
        "models": {
            "teacher": {"taps": taps},
            "student": {"taps": taps},
            "student_view": {"same_as": "student", "input": "view", "taps": taps},
            "teacher_view": {"same_as": "teacher", "input": "view", "taps": taps},
            **models,
        },
        "losses": {
            "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
            "soft": {
                "use": "soft_target",
                "student": "student_view.logits",
                "teacher": "teacher_view.logits",
            },
            "hint": {"use": "hint", "student": "student_view.mid", "teacher": "teacher.mid"},
        },
    }


def batch(rows: int = ROWS) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    x, view = (torch.randn(rows, 3, 8, 8, generator=random) for _ in range(2))
    return {"x": x, "view": view, "label": torch.arange(rows) % 4}


def pair(kind: type[Net] = Net, dropout: float = 0.0) -> dict[str, nn.Module]:
    torch.manual_seed(3)
    teacher, student = kind(), kind(dropout)
    with torch.no_grad():
        teacher(torch.randn(8, 3, 8, 8))  # statistics of its own
    return {"teacher": teacher.eval(), "student": student}


def by_hand(nets: dict[str, nn.Module], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses of ``spec``, from one forward of each network over both views."""
    both = torch.cat([given["x"], given["view"]])
    seen: dict[str, Tensor] = {}
    for name, net in nets.items():
        hook = net.body.register_forward_hook(  # type: ignore[union-attr]
            lambda _, __, out, name=name: seen.__setitem__(f"{name}.mid", out)
        )
        seen[name] = net(both)
        hook.remove()
    rows, tau = len(given["x"]), 4.0
    soft = F.kl_div(
        (seen["student"][rows:] / tau).log_softmax(1),
        (seen["teacher"][rows:] / tau).softmax(1),
        reduction="batchmean",
    )
    return {
        "label": F.cross_entropy(seen["student"][:rows], given["label"]),
        "soft": tau**2 * soft,
        "hint": F.mse_loss(seen["student.mid"][rows:], seen["teacher.mid"][:rows]),
    }


def gradients(net: nn.Module) -> dict[str, Tensor | None]:
    return {name: p.grad for name, p in net.named_parameters()}


def statistics(net: nn.Module) -> dict[str, Tensor]:
    return dict(net.named_buffers())


@pytest.mark.parametrize(
    ("kind", "rung"), [(Net, "fx"), (Branching, "export"), (Counting, "ports")]
)
@pytest.mark.parametrize("training", [True, False])
def test_equals_a_loop_of_two_views(kind: type[Net], rung: str, training: bool) -> None:
    nets = pair(kind)
    others = copy.deepcopy(nets)
    step = kdgraph.compile(spec(), models=nets).train(training)
    assert {c.rung for c in step.report.captures.values()} == {rung}
    out = step(**batch())
    others["student"].train(training)
    expected = by_hand(others, batch())
    torch.testing.assert_close(out.losses, expected)
    out.loss.backward()
    torch.stack(list(expected.values())).sum().backward()  # type: ignore[no-untyped-call]  # untyped there
    torch.testing.assert_close(gradients(step.student), gradients(others["student"]))
    torch.testing.assert_close(statistics(step.student), statistics(others["student"]))
    assert out.outputs["student_view.logits"].shape == (ROWS, 4)


def drawn(step: kdgraph.DistillModule, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    outputs: dict[str, Tensor] = step(**batch()).outputs
    return outputs


def test_batch_size_is_free_and_a_frozen_network_gives_what_it_gives_alone() -> None:
    nets = pair()
    step = kdgraph.compile(spec(), models=nets, without=["freeze"])
    for rows in (2, 7):
        out = step(**batch(rows)).outputs
        alone = nets["teacher"](batch(rows)["view"])
        torch.testing.assert_close(out["teacher_view.logits"], alone)


def test_dropout_draws_for_each_row_and_by_the_seed() -> None:
    written = spec(student_view={"same_as": "student", "taps": {"logits": "output", "mid": "body"}})
    step = kdgraph.compile(written, models=pair(dropout=0.5))
    first, again, other = drawn(step), drawn(step), drawn(step, seed=1)
    assert not torch.equal(first["student.logits"], first["student_view.logits"])
    assert torch.equal(first["student_view.logits"], again["student_view.logits"])
    assert not torch.equal(first["student_view.logits"], other["student_view.logits"])
    quiet = drawn(step.eval())
    torch.testing.assert_close(quiet["student.logits"], quiet["student_view.logits"])


def test_frozen_calls_on_equal_inputs_are_one() -> None:
    taps = {"logits": "output"}
    written = spec(teacher_view={"same_as": "teacher", "taps": taps})
    step = kdgraph.compile(written, models=pair(), without=["freeze"])
    report = step.report
    joined = [n for n in report.graph if n.target is torch.cat and n.meta["kd_owner"] == "teacher"]
    assert not joined
    alone = report.captures["teacher"].root(batch()["x"])
    assert torch.equal(step(**batch()).outputs["teacher_view.logits"], alone)


def passes(number: int, **teacher: Any) -> dict[str, Any]:
    taps = {"logits": "output", "mid": "body"}
    written = spec(teacher={"taps": taps, "passes": number, **teacher})
    written["signals"] = {"mean": {"use": "ensemble", "of": ["teacher.logits"]}}
    written["losses"]["soft"]["teacher"] = "mean"
    written["losses"]["hint"]["teacher"] = "teacher_view.mid"
    return written


@pytest.mark.parametrize("without", [[], PASSES.names()])
def test_passes_of_one_call_are_drawn_apart_and_listed(without: list[str]) -> None:
    nets = pair()
    always = nets["teacher"]
    always.drop = Always()
    step = kdgraph.compile(passes(3), models=nets, without=without)
    out = drawn(step)
    replicas = [out[f"teacher.logits@{n}"] for n in (1, 2, 3)]
    assert len({tuple(r.flatten().tolist()) for r in replicas}) == 3
    torch.manual_seed(0)
    whole = always(torch.cat([batch()["x"]] * 3 + [batch()["view"]]))
    torch.testing.assert_close(torch.stack(replicas), whole.unflatten(0, (4, -1))[:3])


class Always(nn.Module):
    """Dropout in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


def test_dropout_of_a_frozen_network_sets_equal_calls_apart() -> None:
    taps = {"logits": "output", "mid": "body"}
    written = spec(
        teacher={"taps": taps, "dropout": True}, teacher_view={"same_as": "teacher", "taps": taps}
    )
    written["losses"]["more"] = {**written["losses"]["soft"], "teacher": "teacher.logits"}
    nets = {**pair(), "teacher": Net(0.5)}
    out = drawn(kdgraph.compile(written, models=nets))
    assert not torch.equal(out["teacher.logits"], out["teacher_view.logits"])


def test_a_snapshot_is_called_several_times() -> None:
    taps = {"logits": "output"}
    past = {"snapshot_of": "student", "taps": taps}
    again = {"same_as": "past", "input": "view", "taps": taps}
    written = spec(past=past, past_view=again)
    written["losses"]["soft"]["teacher"] = "past_view.logits"
    step = kdgraph.compile(written, models=pair()).eval()
    with torch.no_grad():
        step.student.get_parameter("head.weight")[0] += 1
    assert step(**batch()).losses["soft"] > 0
    step.snapshot()
    assert step(**batch()).losses["soft"].item() == pytest.approx(0, abs=1e-6)


class Scaled(nn.Module):
    """Takes two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        out: Tensor = self.net(x * scale[:, None, None, None])
        return out


def test_every_argument_is_put_together() -> None:
    taps = {"logits": "output", "mid": "net.body"}
    one = {"taps": taps, "input": {"x": "x", "scale": "by"}}
    two = {"same_as": "student", "taps": taps, "input": {"scale": "half", "x": "view"}}
    written = spec(student=one, student_view=two)
    written["batch"] |= {"by": {"shape": ["B"]}, "half": {"shape": ["B"]}}
    nets: dict[str, nn.Module] = {**pair(), "student": Scaled()}
    step = kdgraph.compile(written, models=nets).eval()
    given = {**batch(), "by": torch.ones(ROWS), "half": torch.full((ROWS,), 0.5)}
    alone = nets["student"](given["view"], given["half"])
    torch.testing.assert_close(step(**given).outputs["student_view.logits"], alone)


def test_equal_without_each_pass() -> None:
    nets = pair()
    results = []
    for without in ([], *([name] for name in PASSES.names()), PASSES.names()):
        step = kdgraph.compile(spec(), models=copy.deepcopy(nets), without=without)
        out = step(**batch())
        out.loss.backward()
        results.append((out.losses, out.outputs, gradients(step.student)))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=1e-4, atol=1e-5)


def test_precision_and_batched_teachers() -> None:
    written = spec()
    written["models"]["teacher"] = {**written["models"]["teacher"], "precision": "bf16"}
    nets = pair()
    low, full = (kdgraph.compile(w, models=copy.deepcopy(nets)) for w in (written, spec()))
    a, b = low(**batch()).outputs, full(**batch()).outputs
    assert a["teacher_view.logits"].dtype == torch.float32
    torch.testing.assert_close(a["teacher.mid"], b["teacher.mid"], rtol=0.05, atol=0.05)


def test_one_graph_under_torch_compile() -> None:
    step = kdgraph.compile(spec(), models=pair())
    expected = step.eval()(**batch()).loss
    whole = torch.compile(step, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(**batch()).loss, expected)
    torch.testing.assert_close(whole(**batch(7)).loss, step(**batch(7)).loss)


def test_one_module_is_trained_and_saved() -> None:
    step = kdgraph.compile(spec(), models=pair())
    assert list(step.models) == ["student"]
    assert not [key for key in step.state_dict() if "view" in key]
    assert len(list(step.parameters())) == len(list(step.student.parameters()))


def test_report_and_pictures() -> None:
    report = kdgraph.compile(spec(), models=pair()).report
    facts = json.loads(json.dumps(manifest(report)))
    assert facts["models"]["student_view"]["same_as"] == "student"
    assert facts["models"]["student_view"]["taps"]["mid"]["shape"] == ["B", 6, 8, 8]
    (record,) = [r for r in report.records if r.name == "resolve_taps"]
    assert "student, student_view: one call of student on 2 batches together" in record.did


def test_picture_shows_where_calls_meet_and_part() -> None:
    drawn = picture(kdgraph.compile(spec(), models=pair()).report)
    boxes = [b for b in drawn.boxes if b.cluster == "student" and not b.faded]
    assert boxes[0].lines == ("x, view", "[2B, 3, 8, 8]")
    assert {(b.title, b.taps) for b in boxes if b.taps} == {
        ("student", ("logits",)),
        ("student_view", ("mid",)),
        ("student_view", ("logits",)),
    }
    assert [c.name for c in drawn.clusters] == ["teacher", "student"]


class Tokens(nn.Module):
    """Tokens first, as torch's own attention has it."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.mix(x.flatten(2).permute(2, 0, 1)).mean(0))
        return out


def refused(written: dict[str, Any], nets: dict[str, nn.Module]) -> str:
    with pytest.raises(KDGraphError) as caught:
        kdgraph.compile(written, models=nets)
    return str(caught.value)


def test_taps_without_the_batch_in_front_are_refused() -> None:
    taps = {"logits": "output", "mid": "mix"}
    written = spec(student={"taps": taps}, student_view={"same_as": "student", "taps": taps})
    said = refused(written, {**pair(), "student": Tokens()})
    assert "KD406" in said
    assert "'mix'" in said


def test_a_module_for_a_call_is_refused() -> None:
    assert "another call of 'student'" in refused(spec(), {**pair(), "student_view": Net()})


def test_apart_is_the_inverse_of_putting_together() -> None:
    parts = [torch.randn(2, 3) for _ in range(3)]
    torch.testing.assert_close(apart(torch.cat(parts), 3), tuple(parts))
