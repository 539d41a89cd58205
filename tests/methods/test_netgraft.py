"""Grafting: known losses of both specs, frozen parts, and what is left in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdgraph
from kdgraph.models.load import build_model
from kdgraph.models.weights import load_weights
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import epochs_of
from kdgraph.train import run
from kdgraph.train.derive import student_alone, to_train

SPECS = Path(__file__).parents[2] / "specs" / "methods"
BASELINES = Path(__file__).parents[2] / "benchmarks" / "methods"

TEACHERS: dict[str, Any] = {"teacher": [[2, 0]], "second": [[0, 1]], "third": [[1, 0.5]]}
AT_TWO = ["signals.soft.tau=2", "losses.graft.tau=2"]


class Given(nn.Module):
    """Hands logits on, plus an offset for each class that can be trained."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(2, dtype=dtype))

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.offset


def shipped(name: str, *changes: str, dtype: torch.dtype = torch.float64) -> kdgraph.DistillModule:
    """The signals and losses of a spec over logits that are given, ``z_MODEL``."""
    spec = kdgraph.load_spec(SPECS / f"{name}.yaml", set=list(changes))
    models = [model for model, written in spec.models.items() if written.taps]
    logits = {"shape": ["B", 2], "dtype": str(dtype).removeprefix("torch.")}
    text: dict[str, Any] = {
        "kdgraph": 1,
        "name": name,
        "batch": {
            **{f"z_{model}": logits for model in models},
            "label": {"shape": ["B"], "dtype": "int64", "classes": 2},
        },
        "models": {m: {"input": f"z_{m}", "taps": {"logits": "output"}} for m in models},
        "signals": {n: s.model_dump(exclude_unset=True) for n, s in spec.signals.items()},
        "losses": {n: e.model_dump(exclude_unset=True) for n, e in spec.losses.items()},
    }
    return kdgraph.compile(text, models={m: Given(dtype) for m in models})


def batch(student: Any, dtype: torch.dtype = torch.float64, **teachers: Any) -> dict[str, Tensor]:
    logits = {"student": student, **teachers}
    found = {f"z_{model}": torch.tensor(z, dtype=dtype) for model, z in logits.items()}
    return {**found, "label": torch.zeros(len(student), dtype=torch.int64)}


RELATIVE = [(torch.float64, 1e-8), (torch.float32, 1e-5)]


@pytest.mark.parametrize(("dtype", "rel"), RELATIVE)
def test_golden_of_one_teacher(dtype: torch.dtype, rel: float) -> None:
    step = shipped("netgraft", dtype=dtype)
    out = step(**batch([[4, 3], [1, 1]], dtype, teacher=[[3, 4], [1, 0]]))
    assert out.loss.item() == pytest.approx(0.6657864376269050, rel=rel)
    out.loss.backward()
    assert step.get_parameter("models.student.offset").grad is not None
    assert [name for name, _ in step.named_parameters()] == ["models.student.offset"]


def test_one_teacher_by_cosines() -> None:
    torch.manual_seed(0)
    z_s, z_t = torch.randn(2, 7, 2, dtype=torch.float64)
    given = batch(z_s.tolist(), teacher=z_t.tolist())
    expected = (2 - 2 * F.cosine_similarity(z_s, z_t)).sum()
    step = shipped("netgraft")
    torch.testing.assert_close(step(**given).loss, expected)
    assert torch.equal(step(**{**given, "label": 1 - given["label"]}).loss, step(**given).loss)


@pytest.mark.parametrize(("dtype", "rel"), RELATIVE)
def test_golden_of_several_teachers(dtype: torch.dtype, rel: float) -> None:
    step = shipped("netgraft_multi_teacher", *AT_TWO, dtype=dtype)
    out = step(**batch([[0.3, -0.2]], dtype, **TEACHERS))
    assert out.loss.item() == pytest.approx(0.0257044996320143, rel=rel)
    out.loss.backward()
    assert [name for name, _ in step.named_parameters()] == ["models.student.offset"]


@pytest.mark.parametrize("gamma", [1.0, 8.0])
def test_teachers_weighed_by_accuracy(gamma: float) -> None:
    weighed = "{use: ensemble, of: [teacher.logits, second.logits, third.logits], tau: 2, "
    weighed += f"weights: [0.95, 0.90, 0.85], gamma: {gamma}}}"
    step = shipped("netgraft_multi_teacher", f"signals.soft={weighed}", "losses.graft.tau=2")
    shares = torch.tensor([0.95, 0.90, 0.85], dtype=torch.float64) ** gamma
    z = torch.tensor([rows[0] for rows in TEACHERS.values()], dtype=torch.float64)
    target = ((z / 2).softmax(1) * (shares / shares.sum())[:, None]).sum(0)
    student = (torch.tensor([0.3, -0.2], dtype=torch.float64) / 2).log_softmax(0)
    expected = 4 * F.kl_div(student, target, reduction="sum")
    out = step(**batch([[0.3, -0.2]], **TEACHERS))
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-10)


def small(name: str) -> Spec:
    return kdgraph.load_spec(SPECS / f"{name}.yaml")


def test_who_is_trained_beforehand() -> None:
    """All that teach, and not the network of which only the form is needed."""
    assert to_train(small("netgraft")) == ["teacher"]
    assert to_train(small("netgraft_multi_teacher")) == ["teacher", "second", "third"]


def test_every_stage_trains_its_grafts_alone() -> None:
    step = kdgraph.compile(small("netgraft"))
    trained = {
        "block3": ["block3"],
        "block4": ["block4"],
        "classifier": ["classifier"],
        "two": ["block3", "block4"],
        "three": ["block3", "block4", "classifier"],
    }
    given = {
        "image": torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
        "label": torch.tensor([1, 2, 3, 4]),
    }
    for stage, places in trained.items():
        step.set_stage(stage)
        inside = tuple(
            f"{place}.{part}." for place in places for part in ("before", "scion", "after")
        )
        learning = [n for n, p in step.student.named_parameters() if p.requires_grad]
        assert learning == [n for n, _ in step.student.named_parameters() if n.startswith(inside)]
        kept = {n: v.clone() for n, v in step.student.state_dict().items()}
        rest = [p for m, net in step.models.items() if m != "student" for p in net.parameters()]
        assert not any(p.requires_grad for p in rest)
        parameters = [p for p in step.parameters() if p.requires_grad]
        step(**given).loss.backward()
        assert all(p.grad is not None for p in parameters)
        torch.optim.SGD(parameters, lr=0.01).step()
        for path, value in step.student.state_dict().items():
            if not path.startswith(inside):
                assert torch.equal(value, kept[path]), path


def test_the_whole_teacher_is_where_it_starts() -> None:
    """With its own blocks as scions, and adapters that do nothing, the loss is 0."""
    text = "[{use: load, module: student, of: teacher}, {use: graft, at: student.block3, "
    text += "scion: teacher.block3}]"
    spec = kdgraph.load_spec(SPECS / "netgraft.yaml", set=[f"stages.0.before={text}"])
    step = kdgraph.compile(spec, without=["freeze", "precision"]).eval()
    image = torch.rand(4, 1, 8, 8)
    out = step(image=image, label=torch.tensor([1, 2, 3, 4]))
    assert out.loss.item() == 0


def test_it_trains_and_ends_as_the_scion(tmp_path: Path) -> None:
    changes = ["train.epochs=1", "train.teacher.epochs=1", "data.limit=100", "data.shots=2"]
    result = run(SPECS / "netgraft.yaml", out=tmp_path, set=changes, device="cpu")
    assert result.runs[0].steps == 5  # one in each stage
    assert 0 <= result.runs[0].metrics["accuracy"] <= 1
    scion = small("netgraft").models["scion"]
    assert scion.source is not None
    narrow = build_model(scion.source, scion.args)
    load_weights(narrow, tmp_path / "student.safetensors")
    assert result.runs[0].parameters == sum(p.numel() for p in narrow.parameters())


@pytest.mark.parametrize("name", ["netgraft", "netgraft_multi_teacher"])
def test_it_is_compared_with_the_same_network(name: str) -> None:
    spec, plain = small(name), kdgraph.load_spec(BASELINES / f"{name}_plain.yaml")
    alone = student_alone(spec)
    scion = spec.models["scion"]
    assert alone.train is not None
    assert alone.train.epochs == epochs_of(spec, "student") == epochs_of(plain, "student")
    for other in (alone, plain):
        student = other.models["student"]
        assert (student.source, student.args) == (scion.source, scion.args)
        assert other.data == spec.data
    assert [edge.use for edge in alone.losses.values()] == ["cross_entropy"]
