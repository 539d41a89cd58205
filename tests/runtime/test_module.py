"""The compiled module is a plain nn.Module that behaves as its users expect."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "small",
    "batch": {
        "image": {"shape": ["B", 3, 16, 16]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 4},
    },
    "models": {
        "teacher": {
            "source": "cifar/resnet14",
            "args": {"num_classes": 4},
            "taps": {"mid": "layer2", "logits": "output"},
        },
        "student": {
            "source": "cifar/resnet8",
            "args": {"num_classes": 4},
            "taps": {"mid": "layer1", "logits": "output"},
        },
    },
    "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid"}},
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"},
        "hint": {"use": "hint", "link": "mid", "weight": {"linear": [1.0, 0.0], "epochs": [0, 4]}},
    },
}


def batch(size: int = 5) -> dict[str, Tensor]:
    return {"image": torch.randn(size, 3, 16, 16), "label": torch.arange(size) % 4}


@pytest.fixture
def step() -> kdgraph.DistillModule:
    torch.manual_seed(0)
    return kdgraph.compile(SPEC)


def test_the_total_is_the_weighted_sum_of_the_edges(step: kdgraph.DistillModule) -> None:
    step.set_progress(epoch=1)
    out = step(**batch())
    assert list(out.losses) == ["label", "soft", "hint"]
    expected = out.losses["label"] + out.losses["soft"] + 0.75 * out.losses["hint"]
    torch.testing.assert_close(out.loss, expected, rtol=1e-6, atol=0)


def test_outputs_are_the_taps_that_edges_read(step: kdgraph.DistillModule) -> None:
    out = step(**batch())
    assert set(out.outputs) == {
        "teacher.mid",
        "teacher.logits",
        "student.mid",
        "student.logits",
    }
    assert out.outputs["student.logits"].shape == (5, 4)


def test_a_schedule_reaches_its_exact_end(step: kdgraph.DistillModule) -> None:
    values = batch()
    step.set_progress(epoch=4)
    out = step(**values)
    assert out.loss == out.losses["label"] + out.losses["soft"]


def test_parameters_are_exactly_what_is_trained(step: kdgraph.DistillModule) -> None:
    trained = {id(p) for p in step.parameters()}
    assert trained == {id(p) for m in (step.student, step.adapters) for p in m.parameters()}
    assert all(p.requires_grad for p in step.parameters())


def test_the_callers_student_is_trained_in_place() -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    spec = copy.deepcopy(SPEC)
    spec["models"]["student"] = {"taps": {"logits": "output"}}
    spec["links"] = {}
    del spec["losses"]["hint"]
    step = kdgraph.compile(spec, models={"student": student})
    assert step.student is student
    step(**batch()).loss.backward()
    assert student[1].weight.grad is not None
    assert student[1].weight.grad.any()


def test_train_leaves_the_teacher_in_eval_with_frozen_statistics() -> None:
    from kdgraph.models.load import build_model

    teacher = build_model("cifar/resnet14", {"num_classes": 4})
    step = kdgraph.compile(SPEC, models={"teacher": teacher})
    before = copy.deepcopy(teacher.state_dict())
    step.train()
    step(**batch()).loss.backward()
    assert not any(m.training for m in teacher.modules())
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert all(p.grad is None for p in teacher.parameters())


def test_state_dict_holds_student_adapters_and_progress_only(step: kdgraph.DistillModule) -> None:
    step.set_progress(epoch=2.5, iteration=70)
    state = step.state_dict()
    assert {k.split(".")[0] for k in state} == {"models", "adapters", "steer"}
    assert not any("teacher" in k for k in state)

    torch.manual_seed(1)
    other = kdgraph.compile(SPEC)
    other.load_state_dict(state)
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    assert other.steer.get_buffer("losses_hint_weight") == pytest.approx(0.375)


def test_the_student_file_loads_into_the_plain_model(
    step: kdgraph.DistillModule, tmp_path: Any
) -> None:
    from kdgraph.models.load import build_model

    step.save_student(tmp_path / "student.safetensors")
    plain = build_model(
        "cifar/resnet8", {"num_classes": 4}, weights=tmp_path / "student.safetensors"
    ).eval()
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(plain(image), step.eval().student(image), rtol=0, atol=0)


def test_resume_equals_no_interruption_bit_for_bit() -> None:
    torch.manual_seed(3)
    data = [batch() for _ in range(6)]

    def start() -> tuple[kdgraph.DistillModule, torch.optim.Optimizer]:
        torch.manual_seed(0)
        step = kdgraph.compile(SPEC)
        return step, torch.optim.SGD(step.parameters(), lr=0.1, momentum=0.9)

    def run(
        step: kdgraph.DistillModule, optimizer: torch.optim.Optimizer, part: range
    ) -> list[Tensor]:
        losses = []
        for i in part:
            step.set_progress(epoch=i / 2, iteration=i)
            optimizer.zero_grad()
            loss = step(**data[i]).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    whole_step, whole_optimizer = start()
    whole = run(whole_step, whole_optimizer, range(6))
    first_step, first_optimizer = start()
    run(first_step, first_optimizer, range(3))
    saved = copy.deepcopy((first_step.state_dict(), first_optimizer.state_dict()))
    second_step, second_optimizer = start()
    second_step.load_state_dict(saved[0])
    second_optimizer.load_state_dict(saved[1])
    resumed = run(second_step, second_optimizer, range(3, 6))
    assert resumed == whole[3:]
    for a, b in zip(whole_step.parameters(), second_step.parameters(), strict=True):
        assert torch.equal(a, b)


def test_moving_schedules_never_recompile(step: kdgraph.DistillModule) -> None:
    graphs = []

    def count(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    compiled = torch.compile(step, backend=count, fullgraph=True)
    values = batch()
    seen = []
    for epoch in (0, 1, 2.5, 4):
        step.set_progress(epoch=epoch)
        seen.append(float(compiled(**values).loss.detach()))
    assert len(graphs) == 1
    assert len(set(seen)) == 4


def test_it_follows_a_cast_but_schedules_keep_their_digits(step: kdgraph.DistillModule) -> None:
    step.double()
    step.set_progress(epoch=1 / 3)
    values = batch()
    out = step(image=values["image"].double(), label=values["label"])
    assert out.loss.dtype == torch.float64
    step.half()
    assert step.steer.get_buffer("losses_hint_weight").dtype == torch.float32
    assert step.steer.epoch == 1 / 3


def test_copies_are_independent(step: kdgraph.DistillModule) -> None:
    twin = copy.deepcopy(step)
    values = batch()
    torch.testing.assert_close(twin(**values).loss, step(**values).loss)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert next(step.parameters()).any()
    twin(**values).loss.backward()
    assert all(p.grad is None for p in step.parameters())


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda b: b.pop("label"), "KD701", "no 'label'"),
        (lambda b: b.update(lable=b["label"]), "KD702", "did you mean 'label'"),
        (lambda b: b.update(label=b["label"].int()), "KD703", "must be int64, not int32"),
        (lambda b: b.update(label=[1, 2]), "KD703", "must be a tensor, not list"),
        (lambda b: b.update(image=b["image"][:, :1]), "KD704", "[B, 3, 16, 16]"),
        (lambda b: b.update(label=b["label"][:2]), "KD704", "B = 2, but 'image' has 5"),
        (lambda b: b.update(label=b["label"] + 1), "KD705", "holds 4, outside 0..3"),
        (lambda b: b["image"].fill_(float("nan")), "KD706", "entry 'image' holds nan"),
        (lambda b: b["image"].fill_(3e38), "KD706", "holds nan (read by"),
    ],
)
def test_a_wrong_batch_is_named(
    step: kdgraph.DistillModule, change: Any, code: str, words: str
) -> None:
    values = batch()
    change(values)
    with pytest.raises(kdgraph.KDGraphError) as caught:
        step(**values)
    assert caught.value.diagnostics[0].code == code
    assert words in str(caught.value)


def test_a_batch_is_given_by_name(step: kdgraph.DistillModule) -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"step\(image=..., label=...\)"):
        step(*batch().values())


def test_ignored_labels_are_within_range() -> None:
    spec = copy.deepcopy(SPEC)
    spec["losses"]["label"]["ignore_index"] = 255
    step = kdgraph.compile(spec)
    values = batch()
    values["label"][0] = 255
    assert torch.isfinite(step(**values).loss)


def test_labels_that_a_stage_does_not_read_may_be_any() -> None:
    stages = [{"name": "features", "epochs": 1, "losses": {"label": 0}}]
    step = kdgraph.compile(SPEC | {"stages": [*stages, {"name": "labels", "epochs": 1}]})
    values = batch()
    values["label"][0] = -100  # which the edge on the labels ignores
    assert torch.isfinite(step(**values).loss)
    step.set_stage("labels")
    assert torch.isfinite(step(**values).loss)


def test_a_signal_weighs_each_sample() -> None:
    spec = copy.deepcopy(SPEC)
    spec["batch"]["trust"] = {"shape": ["B"]}
    spec["losses"]["soft"]["weight"] = "trust"
    step = kdgraph.compile(spec)
    values = batch()
    step.set_progress(epoch=4)
    step.eval()
    none = step(**values, trust=torch.zeros(5))
    assert none.loss == none.losses["label"]
    one = step(**values, trust=torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0]))
    alone = {"image": values["image"][2:3], "label": values["label"][2:3]}
    single = step(**alone, trust=torch.ones(1))
    torch.testing.assert_close(one.loss - one.losses["label"], single.losses["soft"] * 2 / 5)


def test_no_gradient_reaches_a_trained_teacher_side() -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["trainable"] = True
    del spec["losses"]["label"], spec["losses"]["hint"], spec["links"]
    step = kdgraph.compile(spec)
    step(**batch()).loss.backward()
    assert all(p.grad is None for p in step.models["teacher"].parameters())
    assert any(p.grad is not None for p in step.student.parameters())


def test_a_step_can_be_exported(step: kdgraph.DistillModule) -> None:
    values = batch()
    step.eval()
    program = torch.export.export(step, (), kwargs=values, strict=False)
    torch.testing.assert_close(program.module()(**values).loss, step(**values).loss)


def test_it_runs_under_autocast_with_losses_in_float32(step: kdgraph.DistillModule) -> None:
    values = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = step(**values)
    assert out.outputs["student.logits"].dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in out.losses.values())
    out.loss.backward()


def test_it_works_under_ddp(step: kdgraph.DistillModule, tmp_path: Any) -> None:
    values = batch()
    plain = copy.deepcopy(step)
    plain(**values).loss.backward()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1
    )
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(step)
        wrapped(**values).loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    for ours, theirs in zip(step.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_everything_follows_to_another_device() -> None:
    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["args"]["num_classes"] = 6
    spec["signals"] = {
        "few": {"use": "select_classes", "of": "teacher.logits", "classes": [0, 1, 2, 5]}
    }
    spec["losses"]["soft"]["teacher"] = "few"
    step = kdgraph.compile(spec).to("meta")
    for program in step._programs.values():
        for name, value in [*program.named_parameters(), *program.named_buffers()]:
            assert value.device.type == "meta", name


def test_a_loss_may_learn_numbers_of_its_own() -> None:
    from typing import Literal

    from kdgraph.losses.base import Loss
    from kdgraph.spec.entry import LOSSES, Ref

    class Scaled(Loss):
        """||a F_s - F_t||^2 with a learned a [C]."""

        use: Literal["scaled"] = "scaled"
        student: Ref
        teacher: Ref

        def shapes(self, **shapes: Any) -> None: ...

        def parameters(self, *, student: Any, teacher: Any) -> dict[str, Tensor]:
            return {"scale": torch.ones(student[1])}

        def forward(self, *, student: Tensor, teacher: Tensor, scale: Tensor) -> Tensor:
            return (student * scale[:, None, None] - teacher).square().mean()

    LOSSES.names()
    LOSSES._entries["scaled"] = Scaled
    try:
        spec = copy.deepcopy(SPEC)
        spec["losses"]["hint"] = {"use": "scaled", "link": "mid"}
        step = kdgraph.compile(spec)
    finally:
        del LOSSES._entries["scaled"]
    assert "losses.hint.scale" in step.state_dict()
    step(**batch()).loss.backward()
    scale = dict(step.named_parameters())["losses.hint.scale"]
    assert scale.shape == (32,)
    assert scale.grad is not None
    assert scale.grad.any()


def test_one_network_cannot_be_both_frozen_and_trained() -> None:
    from kdgraph.models.load import build_model

    net = build_model("cifar/resnet8", {"num_classes": 4})
    spec = copy.deepcopy(SPEC)
    spec["models"]["teacher"]["taps"] = spec["models"]["student"]["taps"]
    with pytest.raises(kdgraph.KDGraphError, match="frozen, but has parameters of 'student'"):
        kdgraph.compile(spec, models={"teacher": net, "student": net})
    assert all(p.requires_grad for p in net.parameters())


def test_words_in_the_place_of_collections() -> None:
    with pytest.raises(kdgraph.KDGraphError, match=r"must be an nn\.Module, not str"):
        kdgraph.compile(SPEC, models={"teacher": "resnet14"})  # type: ignore[dict-item]
    names = [r.name for r in kdgraph.compile(SPEC, without="prune").report.records]
    assert "prune" not in names
