"""prune on all three capture rungs: what is past the last tap does not run and does not move."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.visual import manifest


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu_()


class Net(nn.Module):
    """Its own code can be traced."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.blocks = nn.ModuleList([Block(width) for _ in range(4)])
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = self.block(block, x)
        return self.head(x.mean((2, 3)))

    def block(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x)


class Looped(Net):
    """fx declines: it asks for a size in Python."""

    def block(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x) if len(x.shape) == 4 and x.shape[1] > 0 else x


class Branching(Net):
    """Nothing traces it: it asks for a value."""

    def block(self, block: nn.Module, x: Tensor) -> Tensor:
        return block(x) if float(x.detach().abs().sum()) >= 0 else x


KINDS: dict[str, type[Net]] = {"fx": Net, "export": Looped, "ports": Branching}
every_rung = pytest.mark.parametrize("rung", KINDS)
IMAGE = torch.randn(3, 3, 10, 10, generator=torch.Generator().manual_seed(0))
LATE = ("blocks.2", "blocks.3", "head")


def spec(student: str = "blocks.1") -> dict[str, Any]:
    return {
        "kdgraph": 1,
        "name": "cut",
        "batch": {"x": {"shape": ["B", 3, 10, 10]}},
        "models": {
            "teacher": {"taps": {"early": "blocks.0", "mid": "blocks.1", "spare": "output"}},
            "student": {"taps": {"early": "blocks.0", "mid": student}},
        },
        "losses": {
            "early": {"use": "similarity", "student": "student.early", "teacher": "teacher.early"},
            "mid": {"use": "similarity", "student": "student.mid", "teacher": "teacher.mid"},
        },
    }


def compiled(rung: str, *without: str) -> tuple[kdgraph.DistillModule, Net, Net]:
    torch.manual_seed(0)
    teacher, student = KINDS[rung](), KINDS[rung]()
    step = kdgraph.compile(
        spec(), models={"teacher": teacher, "student": student}, without=("freeze", *without)
    )
    assert {c.rung for c in step.report.captures.values()} == {rung}
    return step, teacher, student


def late(net: nn.Module, values: str = "named_parameters") -> list[Tensor]:
    return [value for name, value in getattr(net, values)() if name.startswith(LATE)]


@every_rung
def test_loss_gradients_and_live_statistics_are_those_of_the_whole(rung: str) -> None:
    step, _, student = compiled(rung)
    whole, _, other = compiled(rung, "prune")
    ours, theirs = step(x=IMAGE), whole(x=IMAGE)
    torch.testing.assert_close(ours.loss, theirs.loss)
    torch.testing.assert_close(ours.outputs, theirs.outputs)
    ours.loss.backward(), theirs.loss.backward()
    for (name, mine), full in zip(student.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, full.grad, msg=name)
    for name, buffer in student.named_buffers():
        if not name.startswith(LATE):
            torch.testing.assert_close(buffer, other.get_buffer(name), msg=name)


@every_rung
def test_what_is_past_the_tap_does_not_run(rung: str) -> None:
    step, teacher, student = compiled(rung)
    before = [t.clone() for t in late(student, "named_buffers")]
    step(x=IMAGE).loss.backward()
    assert all(
        torch.equal(a, b) for a, b in zip(before, late(student, "named_buffers"), strict=True)
    )
    assert int(student.blocks[1].norm.num_batches_tracked) == 1
    for net in (teacher, student):
        with torch.no_grad():
            for value in late(net):
                value.fill_(torch.nan)
    out = step(x=IMAGE)
    assert out.loss.isfinite()
    assert "teacher.spare" not in out.outputs


@every_rung
def test_only_what_runs_goes_to_the_device(rung: str) -> None:
    step, teacher, _ = compiled(rung)
    size = sum(p.numel() for p in teacher.parameters()) - sum(p.numel() for p in late(teacher))
    moved: dict[int, int] = {}

    def noted(value: Tensor) -> Tensor:
        if isinstance(value, nn.Parameter) and not value.requires_grad:
            moved[id(value)] = value.numel()
        return value

    step._apply(noted)
    assert sum(moved.values()) == size
    step.to("meta")
    assert {p.device.type for p in late(teacher)} == {"cpu"}
    runs = [p for n, p in step.student.named_parameters() if not n.startswith(LATE)]
    assert {p.device.type for p in runs} == {"meta"}


@every_rung
def test_the_callers_models_are_as_they_were(rung: str) -> None:
    _, teacher, student = compiled(rung)
    plain, x = KINDS[rung](), IMAGE
    step = kdgraph.compile(spec(), models={"teacher": teacher, "student": student})
    step(x=x)
    for net in (teacher, student):
        assert type(net) is type(plain)
        assert [(n, type(m)) for n, m in net.named_modules()] == [
            (n, type(m)) for n, m in plain.named_modules()
        ]
        assert all("forward" not in vars(m) for m in net.modules())
    fresh = KINDS[rung]().eval()
    fresh.load_state_dict(teacher.state_dict())
    assert torch.equal(teacher(x), fresh(x))


@every_rung
def test_unneeded_parameters_of_the_student_stay_its_own(rung: str) -> None:
    step, _, student = compiled(rung)
    assert {id(p) for p in step.parameters()} == {id(p) for p in student.parameters()}
    assert "models.student.head.weight" in step.state_dict()
    optimizer = torch.optim.AdamW(step.parameters(), weight_decay=0.5)
    before = copy.deepcopy(late(student))
    step(x=IMAGE).loss.backward()
    optimizer.step()  # leaves alone what has no gradient, weight decay and all
    assert all(p.grad is None for p in late(student))
    assert all(torch.equal(a, b) for a, b in zip(before, late(student), strict=True))


@every_rung
def test_it_says_what_is_no_longer_needed(rung: str) -> None:
    step, teacher, _ = compiled(rung)
    (record,) = [r for r in step.report.records if r.name == "prune"]
    gone = sum(p.numel() for p in late(teacher))
    share = gone / sum(p.numel() for p in teacher.parameters())
    for model in ("teacher", "student"):
        (line,) = [w for w in record.did if w.startswith(f"{model}: ") and "parameters" in w]
        assert f"{gone:,} parameters ({share:.0%}) no longer needed" in line
        facts = manifest(step.report)["models"][model]
        assert facts["parameters"] - facts["parameters_used"] == gone


@pytest.mark.parametrize("rung", ["fx", "export"])  # what Branching asks for is no graph
def test_one_graph_for_torch_compile(rung: str) -> None:
    step, _, student = compiled(rung)
    state = copy.deepcopy(student.state_dict())
    plain = step(x=IMAGE).loss
    student.load_state_dict(state)
    run = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(x=IMAGE).loss, plain)
