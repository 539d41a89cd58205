"""``snapshot_of``: a frozen copy of the student, brought up to date in place."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

import kdgraph
from kdgraph.passes.base import PASSES

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "past",
    "batch": {"image": {"shape": ["B", 3, 8, 8]}},
    "models": {
        "student": {"taps": {"logits": "output"}},
        "past": {"snapshot_of": "student", "taps": {"mid": "1", "logits": "output"}},
    },
    "losses": {
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "past.logits"}
    },
}


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def compiled(spec: dict[str, Any] | None = None, **options: Any) -> kdgraph.DistillModule:
    return kdgraph.compile(spec or SPEC, models={"student": net()}, **options)


def image() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def past(step: kdgraph.DistillModule) -> Tensor:
    return step(image=image()).outputs["past.logits"]


def in_eval(step: kdgraph.DistillModule) -> Tensor:
    student = copy.deepcopy(step.student).eval()
    with torch.no_grad():
        found: Tensor = student(image())
    return found


def assert_present(step: kdgraph.DistillModule) -> None:
    """That the snapshot is the student as it is now; a step in train mode moves the latter."""
    expected = in_eval(step)
    torch.testing.assert_close(past(step), expected)


def train_a_little(step: kdgraph.DistillModule) -> None:
    optimizer = torch.optim.SGD(step.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        step(image=image()).loss.backward()
        optimizer.step()


def test_holds_the_weights_of_the_last_snapshot() -> None:
    step = compiled()
    first = in_eval(step)
    torch.testing.assert_close(past(step), first)
    train_a_little(step)
    torch.testing.assert_close(past(step), first)
    step.snapshot()
    assert_present(step)
    assert not torch.allclose(past(step), first)


def test_is_in_the_state_and_nowhere_else() -> None:
    step = compiled()
    train_a_little(step)
    assert all(n.startswith("models.student.") for n, _ in step.named_parameters())
    assert not any(n.startswith("snapshots.") for n, _ in step.named_buffers())
    assert all(p.grad is not None for p in step.parameters())
    own = {n.removeprefix("snapshots.past.") for n in step.state_dict() if "snapshots" in n}
    assert own == set(step.student.state_dict())
    assert past(step).requires_grad is False


def test_a_fresh_step_takes_it_up() -> None:
    step, fresh = compiled(), compiled()
    train_a_little(step)
    step.snapshot("past")
    train_a_little(step)
    file = io.BytesIO()
    torch.save(step.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(past(fresh), past(step))
    assert not torch.allclose(past(step), in_eval(step))


def test_states_that_do_not_fit_are_refused() -> None:
    step = compiled()
    state = step.state_dict()
    missing = {k: v for k, v in state.items() if k != "snapshots.past.6.bias"}
    with pytest.raises(RuntimeError, match=r"Missing.*snapshots\.past\.6\.bias"):
        step.load_state_dict(missing)
    for key in ("snapshots.past.7.bias", "snapshots.other.6.bias"):
        with pytest.raises(RuntimeError, match=rf"Unexpected.*{key}"):
            step.load_state_dict({**state, key: torch.zeros(5)})
    with pytest.raises(RuntimeError, match="size mismatch"):
        step.load_state_dict({**state, "snapshots.past.6.bias": torch.zeros(4)})


@pytest.mark.parametrize("rung", ["fx", "export", "ports"])
def test_follows_a_move_on_every_rung(rung: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved, it is still what is written to, also where the graph reads single tensors."""
    from kdgraph.capture import together
    from kdgraph.capture.ladder import capture

    def only(module: nn.Module, inputs: Any, taps: Any, **options: Any) -> Any:
        return capture(module, inputs, taps, **options | {"rungs": [rung]})

    monkeypatch.setattr(together, "capture", only)
    step = compiled().double()
    assert step.report.captures["past"].rung == rung
    assert {v.dtype for n, v in step.state_dict().items() if n.endswith("weight")} == {
        torch.float64
    }
    assert step(image=image().double()).outputs["past.logits"].dtype == torch.float64
    step.float()
    train_a_little(step)
    step.snapshot()
    assert_present(step)


def test_never_in_train_mode() -> None:
    step = compiled()
    for mode in (step.train, step.eval, lambda: step.to("cpu"), step.snapshot):
        mode()
        assert torch.equal(past(step), past(step))
    before = {n: v.clone() for n, v in step.state_dict().items() if n.startswith("snapshots.")}
    step.train()
    past(step)
    assert all(torch.equal(step.state_dict()[n], v) for n, v in before.items())


def test_a_copy_of_a_step_has_a_snapshot_of_its_own() -> None:
    step = compiled()
    other = copy.deepcopy(step)
    train_a_little(other)
    other.snapshot()
    assert_present(other)
    assert_present(step)
    assert not torch.allclose(past(step), past(other))


def test_compiled_whole_without_compiling_anew() -> None:
    torch._dynamo.reset()
    step = compiled().eval()
    counter = CompileCounter()
    fast = torch.compile(step, fullgraph=True, backend=counter)
    fast(image=image())
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.mul_(1.5)
    step.snapshot()
    out = fast(image=image())
    torch.testing.assert_close(out.outputs["past.logits"], in_eval(step))
    assert counter.frame_count == 1


def test_passes_leave_it_alone() -> None:
    """A twin of it with other weights later: nothing is made of its weights."""
    spec = copy.deepcopy(SPEC)
    spec["models"]["older"] = {"snapshot_of": "student", "taps": {"logits": "output"}}
    edge = {"use": "soft_target", "student": "student.logits", "teacher": "older.logits"}
    spec["losses"]["older"] = edge
    step = compiled(spec)
    start = past(step)
    train_a_little(step)
    step.snapshot("past")
    expected = in_eval(step)
    out = step(image=image()).outputs
    torch.testing.assert_close(out["past.logits"], expected)
    torch.testing.assert_close(out["older.logits"], start)
    said = {r.name: r.declined for r in step.report.records}
    for name in ("merge", "freeze", "batch_teachers"):
        assert any("past: left alone" in line for line in said[name])


def test_equal_layers_of_a_snapshot_stay_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.one, self.two = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return (self.one(x) * 2 + self.two(x)).mean((2, 3))

    spec = copy.deepcopy(SPEC)
    spec["models"]["past"]["taps"] = {"logits": "output", "mid": "one"}
    student = Twice()
    step = kdgraph.compile(spec, models={"student": student})
    with torch.no_grad():
        student.two.weight.fill_(3.0)
    step.snapshot()
    assert_present(step)


@pytest.mark.parametrize("without", PASSES.names())
def test_same_numbers_without_a_pass(without: str) -> None:
    values = []
    for left_out in ([], [without]):
        step = compiled(without=left_out)
        with torch.no_grad():
            for parameter in step.parameters():
                parameter.mul_(1.5)
        step.snapshot()
        torch.manual_seed(0)
        values.append(step(image=image()).loss)
    torch.testing.assert_close(*values)


def test_names_and_shapes_are_checked() -> None:
    step = compiled()
    with pytest.raises(kdgraph.KDGraphError, match="did you mean 'past'"):
        step.snapshot("pst")
    step.student.register_buffer("more", torch.zeros(1))
    with pytest.raises(kdgraph.KDGraphError, match="KD704"):
        step.snapshot()
    with pytest.raises(kdgraph.KDGraphError, match="is a snapshot of 'student'; hand over that"):
        kdgraph.compile(SPEC, models={"student": net(), "past": net()})


def test_nothing_to_do_without_one() -> None:
    spec = copy.deepcopy(SPEC)
    del spec["models"]["past"]["snapshot_of"]
    step = kdgraph.compile(spec, models={"student": net(), "past": net()})
    step.snapshot()
    assert not any(n.startswith("snapshots") for n in step.state_dict())


def test_reads_what_it_copies_reads() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.fc(a - b)

    spec = copy.deepcopy(SPEC)
    spec["batch"] = {"x": {"shape": ["B", 4]}, "y": {"shape": ["B", 4]}}
    spec["models"]["student"]["input"] = {"a": "x", "b": "y"}
    spec["models"]["past"]["taps"] = {"logits": "output"}
    step = kdgraph.compile(spec, models={"student": Sum()})
    out = step(x=torch.ones(2, 4), y=torch.zeros(2, 4)).outputs
    assert torch.equal(out["student.logits"], out["past.logits"])


def test_is_in_distributed_checkpoints() -> None:
    step, fresh = compiled(), compiled()
    train_a_little(step)
    step.snapshot()
    set_model_state_dict(fresh, get_model_state_dict(step))
    assert torch.equal(past(fresh.eval()), past(step.eval()))
