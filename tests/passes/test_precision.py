"""precision: a frozen model in fewer digits, the same as if it had been cast by hand."""

from __future__ import annotations

import copy
import sys
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.errors import SpecError
from kdgraph.passes.base import PASSES, Context

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
low = pytest.mark.parametrize("precision", TYPES)


class Net(nn.Module):
    """A norm that computes in float32 by itself, a residual, a linear layer, a table."""

    def __init__(self, flat: bool = False) -> None:
        super().__init__()
        self.flat = flat
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 5)
        self.register_buffer("table", torch.randn(8))
        self.norm.running_mean += torch.randn(8)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.conv(image)).relu().mean((2, 3))
        if self.flat and x.shape[0] > 0:  # plain tracing cannot follow this: export does
            x = x + self.table
        x = x + self.block(x)
        wide = x.float()
        scale = wide.pow(2).mean(1, keepdim=True).rsqrt()
        return self.head((wide * scale).to(x.dtype))


def spec(precision: str | None) -> dict[str, Any]:
    teacher: dict[str, Any] = {"taps": {"mid": "block", "logits": "output"}}
    if precision is not None:
        teacher["precision"] = precision
    return {
        "kdgraph": 1,
        "name": "precision",
        "batch": {"image": {"shape": ["B", 3, 6, 6]}},
        "models": {"teacher": teacher, "student": {"taps": {"logits": "output"}}},
        "losses": {
            "soft": {
                "use": "soft_target",
                "student": "student.logits",
                "teacher": "teacher.logits",
            },
            "mid": {"use": "similarity", "student": "student.logits", "teacher": "teacher.mid"},
        },
    }


@cache
def compiled(
    precision: str | None, flat: bool = False, without: tuple[str, ...] = ("freeze",)
) -> tuple[kdgraph.DistillModule, nn.Module]:
    """The step, and the teacher that was handed over."""
    torch.manual_seed(0)
    teacher, student = Net(flat), Net()
    step = kdgraph.compile(
        spec(precision), models={"teacher": teacher, "student": student}, without=without
    )
    return step, teacher


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def told(step: kdgraph.DistillModule, what: str = "did") -> str:
    (record,) = [r for r in step.report.records if r.name == "precision"]
    return "; ".join(getattr(record, what))


def by_hand(teacher: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The taps of the whole model cast to a type."""
    cast = copy.deepcopy(teacher).to(dtype)
    found: dict[str, Tensor] = {}
    cast.get_submodule("block").register_forward_hook(
        lambda module, given, result: found.update(mid=result.clone())
    )
    with torch.no_grad():
        found["logits"] = cast(images().to(dtype))
    return found


def frozen_tensors(step: kdgraph.DistillModule) -> list[Tensor]:
    return [t for m in step._frozen for t in (*m.parameters(), *m.buffers())]


@low
@pytest.mark.parametrize("flat", [False, True])
def test_the_taps_of_the_model_cast_by_hand(precision: str, flat: bool) -> None:
    step, teacher = compiled(precision, flat)
    assert step.report.captures["teacher"].rung == ("export" if flat else "fx")
    expected, out = by_hand(teacher, TYPES[precision]), step(image=images())
    for name, value in expected.items():
        got = out.outputs[f"teacher.{name}"]
        assert got.dtype == torch.float32
        assert torch.equal(got, value.float()), name


@low
def test_folded_first_it_is_as_close(precision: str) -> None:
    step, teacher = compiled(precision, without=())
    with torch.no_grad():
        exact = teacher(images())
    error = (step(image=images()).outputs["teacher.logits"] - exact).abs().max()
    # each of the five layers rounds to half a unit; sums of them stay within a few
    assert error < 8 * torch.finfo(TYPES[precision]).eps * exact.abs().max()


@low
@pytest.mark.parametrize("flat", [False, True])
def test_half_the_bytes_and_nothing_of_the_callers(precision: str, flat: bool) -> None:
    step, teacher = compiled(precision, flat)

    def size(tensors: list[Tensor]) -> int:
        return sum(t.numel() * t.element_size() for t in tensors if t.is_floating_point())

    whole = size([*teacher.parameters(), *teacher.buffers()])
    unused = 0 if flat else teacher.get_buffer("table").nbytes
    assert 2 * size(frozen_tensors(step)) == whole - unused
    assert f"{precision}, weights" in told(step)
    assert {t.dtype for t in teacher.parameters()} == {torch.float32}
    shared = {t.data_ptr() for t in teacher.parameters()}
    assert not shared & {t.data_ptr() for t in frozen_tensors(step)}
    assert not [key for key in step.state_dict() if "teacher" in key]


@low
@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("other", TYPES.values())
def test_under_autocast(precision: str, flat: bool, other: torch.dtype) -> None:
    step, _ = compiled(precision, flat)
    plain = step(image=images())
    with torch.autocast("cpu", dtype=other):
        out = step(image=images())
    assert out.outputs["teacher.logits"].dtype == torch.float32
    torch.testing.assert_close(out.loss, plain.loss, rtol=0.05, atol=0.01)


def test_a_cast_of_the_step_leaves_it_and_a_move_takes_it_along() -> None:
    step, _ = compiled("bf16")
    moved = copy.deepcopy(step._frozen)
    for module in moved:
        module.double()
        assert {t.dtype for t in module.parameters()} <= {torch.bfloat16}
        module.to("meta")
        assert {t.device.type for t in module.parameters()} <= {"meta"}


@low
def test_compiled_by_torch_as_one_graph(precision: str) -> None:
    step, _ = compiled(precision)
    whole = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(image=images()).loss, step(image=images()).loss)


def test_token_ids_stay_whole_numbers() -> None:
    torch.manual_seed(0)
    teacher, student = (
        nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3)) for _ in range(2)
    )
    described = spec("bf16")
    described["batch"] = {"ids": {"shape": ["B", 5], "dtype": "int64"}}
    described["models"]["teacher"]["taps"]["mid"] = "0"
    step = kdgraph.compile(described, models={"teacher": teacher, "student": student})
    ids = torch.randint(0, 9, (4, 5))
    with torch.no_grad():
        expected = copy.deepcopy(teacher).bfloat16()(ids).float()
    assert torch.equal(step(ids=ids).outputs["teacher.logits"], expected)


def test_a_number_that_means_masked_does_not_become_infinite() -> None:
    from kdgraph.passes._copies import Copies

    mask = torch.tensor([0.0, torch.finfo(torch.float32).min, -torch.inf])
    made = Copies(torch.bfloat16, skeleton=False).tensor(mask)
    assert made.tolist() == [0.0, torch.finfo(torch.bfloat16).min, -torch.inf]


def test_a_second_run_changes_nothing() -> None:
    graph = compiled("bf16")[0].report.graph
    again = PASSES.get("precision").run(graph.copy(), Context(graph.spec))
    assert str(again) == str(graph)


def test_the_plan_says_the_same_and_looks_at_no_value() -> None:
    described = spec("bf16")
    for name in ("teacher", "student"):
        described["models"][name] |= {"source": "cifar/resnet8", "args": {"width": 0.25}}
    described["models"]["teacher"]["taps"]["mid"] = "layer2"
    described["batch"]["image"]["shape"] = ["B", 3, 16, 16]
    step, planned = kdgraph.compile(described), kdgraph.plan(described)
    (record,) = [r for r in planned.records if r.name == "precision"]
    assert "; ".join(record.did) == told(step) != ""
    assert str(planned.graph) == str(step.report.graph)


def test_without_it_the_model_stays() -> None:
    step, _ = compiled("bf16", without=("freeze", "precision"))
    assert {t.dtype for t in frozen_tensors(step) if t.is_floating_point()} == {torch.float32}


def test_ports_are_declined() -> None:
    class Asks(Net):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image if bool((image < 1e9).all()) else image * 0)

    models = {"teacher": Asks(), "student": Net()}
    step = kdgraph.compile(spec("bf16"), models=models)
    assert step.report.captures["teacher"].rung == "ports"
    assert "stays as it is: captured through ports" in told(step, "declined")


def test_a_trained_model_has_none() -> None:
    described = spec(None)
    described["models"]["student"]["precision"] = "bf16"
    with pytest.raises(SpecError, match=r"KD208.*model 'student' is trained"):
        kdgraph.load_spec(described)


def test_without_torchao_int8_is_an_error_with_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    models = {"teacher": Net(), "student": Net()}
    with pytest.raises(SpecError) as caught:
        kdgraph.compile(spec("int8"), models=models)
    (found,) = caught.value.diagnostics
    assert found.code == "KD414"
    assert "needs torchao, which cannot be imported" in found.message
    assert found.help == "pip install 'kdgraph[int8]'"


@pytest.mark.parametrize("flat", [False, True])
def test_int8_weights(flat: bool) -> None:
    pytest.importorskip("torchao")
    step, teacher = compiled("int8", flat)
    with torch.no_grad():
        exact = teacher(images())
    got = step(image=images()).outputs["teacher.logits"]
    # a weight is off by at most half a step of 1/127 of the largest in its row
    assert 0 < (got - exact).abs().max() < 0.02 * exact.abs().max()
    assert "int8 in 3 linear layers" in told(step)
    inner = [getattr(t, "qdata", t) for t in frozen_tensors(step)]
    assert sorted(t.numel() for t in inner if t.dtype == torch.int8) == [40, 128, 128]
    assert {t.dtype for t in teacher.parameters()} == {torch.float32}
    whole = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(image=images()).loss, step(image=images()).loss)
    assert not [key for key in step.state_dict() if "teacher" in key]
