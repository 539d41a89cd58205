"""Stages of an embedded module: graphs, trained models, actions, checkpoints."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdgraph
from kdgraph.errors import KDGraphError
from kdgraph.spec.entry import ACTIONS

SPEC: dict[str, Any] = {
    "kdgraph": 1,
    "name": "staged",
    "batch": {
        "x": {"shape": ["B", 6]},
        "label": {"shape": ["B"], "dtype": "int64", "classes": 4},
    },
    "models": {
        "teacher": {"taps": {"mid": "0", "logits": "output"}},
        "student": {"taps": {"mid": "0", "logits": "output"}},
        "helper": {"trainable": True, "taps": {"logits": "output"}},
    },
    "links": {"mid": {"student": "student.mid", "teacher": "teacher.mid"}},
    "losses": {
        "label": {"use": "cross_entropy", "student": "student.logits", "target": "label"},
        "hint": {"use": "hint", "link": "mid", "weight": {"linear": [1, 0], "epochs": [0, 4]}},
        "of_helper": {"use": "cross_entropy", "student": "helper.logits", "target": "label"},
        "helped": {
            "use": "soft_target", "student": "student.logits", "teacher": "helper.logits",
            "tau": 2, "weight": 0,
        },
    },
    "stages": [
        {
            "name": "features",
            "losses": {"label": 0, "of_helper": 0},
            "trainable": {"helper": False},
        },
        {
            "name": "turns",
            "rounds": 2,
            "losses": {"hint": 0},
            "phases": [
                {"name": "helper", "trainable": {"student": False}, "losses": {"label": 0}},
                {
                    "name": "student",
                    "trainable": {"helper": False},
                    "losses": {"of_helper": 0, "helped": 0.5},
                },
            ],
        },
        {"name": "labels", "losses": {"hint": 0, "of_helper": 0}, "trainable": {"helper": False}},
    ],
}  # fmt: skip


def net(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.BatchNorm1d(width), nn.Linear(width, 4))


def compiled(spec: dict[str, Any] = SPEC) -> kdgraph.DistillModule:
    models = {"teacher": net(9, 1), "student": net(5, 2), "helper": net(7, 3)}
    torch.manual_seed(4)
    return kdgraph.compile(spec, models=models)


def batch(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(8, 6, generator=g),
        "label": torch.randint(4, (8,), generator=g),
    }


def state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(dict(module.state_dict()))


def changed(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(v, before[k]) for k, v in module.state_dict().items())


def train(step: kdgraph.DistillModule, steps: int = 3) -> None:
    step.train()
    optimizer = torch.optim.SGD(step.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for i in range(steps):
        optimizer.zero_grad()
        step(**batch(i)).loss.backward()
        optimizer.step()


def test_each_stage_has_its_own_graph_and_weights_carry_over() -> None:
    step = compiled()
    assert set(step(**batch()).losses) == {"hint"}
    owners = {n.meta["kd_owner"] for n in step.report.graph}
    assert "helper" not in owners
    train(step)
    student = state(step.student)
    step.set_stage("labels")
    assert set(step(**batch()).losses) == {"label"}
    assert "teacher" not in {n.meta["kd_owner"] for n in step.report.graph}
    assert not changed(step.student, student) or step.student.training


def test_models_take_turns_and_who_waits_stays_bit_for_bit() -> None:
    step = compiled()
    step.set_stage("turns.helper")
    student, helper = state(step.student), state(step.models["helper"])
    train(step)
    assert not changed(step.student, student)
    assert changed(step.models["helper"], helper)
    helper = state(step.models["helper"])
    step.set_stage("turns.student")
    assert not step.models["helper"].training
    train(step)
    assert changed(step.student, student)
    assert not changed(step.models["helper"], helper)


def test_the_value_of_a_stage_is_that_of_the_same_spec_written_without_stages() -> None:
    step = compiled()
    step.set_stage("turns.student")
    plain = copy.deepcopy(SPEC)
    del plain["stages"]
    plain["losses"] = {
        "label": SPEC["losses"]["label"],
        "helped": {**SPEC["losses"]["helped"], "weight": 0.5},
    }
    plain["models"]["helper"]["trainable"] = False
    wanted = compiled(plain)
    assert step(**batch()).loss.item() == pytest.approx(wanted(**batch()).loss.item(), rel=1e-6)


def test_schedules_count_from_the_start_of_a_stage() -> None:
    step = compiled()
    step.set_progress(epoch=2)
    assert step.steer.losses_hint_weight == 0.5
    step.set_stage("labels")
    step.set_stage("features")
    assert step.steer.losses_hint_weight == 1


def test_an_unknown_stage_is_refused_with_a_near_match() -> None:
    with pytest.raises(KDGraphError, match="did you mean 'labels'") as found:
        compiled().set_stage("label")
    assert found.value.diagnostics[0].code == "KD202"


def test_a_checkpoint_brings_a_fresh_module_into_its_stage() -> None:
    step = compiled()
    train(step)
    step.set_stage("turns.student")
    train(step)
    saved = copy.deepcopy(step.state_dict())
    train(step)
    fresh = compiled()
    fresh.load_state_dict(saved)
    assert fresh.stages.leg == "turns.student"
    train(fresh)
    for name, value in step.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name


def test_what_its_owner_has_frozen_stays_frozen_through_all_stages() -> None:
    models = {"teacher": net(9, 1), "student": net(5, 2), "helper": net(7, 3)}
    models["student"].get_parameter("0.weight").requires_grad_(False)
    step = kdgraph.compile(SPEC, models=models)
    for leg in ("turns.helper", "turns.student", "labels"):
        step.set_stage(leg)
    assert not models["student"].get_parameter("0.weight").requires_grad
    assert models["student"].get_parameter("0.bias").requires_grad


def test_an_edge_with_nothing_to_train_is_idle() -> None:
    spec = copy.deepcopy(SPEC)
    spec["stages"][0]["losses"] = {"label": 0}
    step = compiled(spec)
    assert set(step(**batch()).losses) == {"hint"}
    told = [line for record in step.report.records for line in record.did]
    assert "of_helper: idle, what it trains is frozen in this stage" in told
    spec["stages"][0]["trainable"]["student"] = False
    spec["links"] = {}
    spec["losses"]["hint"] = {"use": "cross_entropy", "student": "student.logits",
                              "target": "label"}  # fmt: skip
    (found,) = kdgraph.check(spec, shapes=False)
    assert (found.code, found.message) == ("KD216", "stage 'features' trains no model")


def test_every_stage_is_checked() -> None:
    spec = copy.deepcopy(SPEC)
    spec["stages"][2]["losses"]["label"] = 0
    (found,) = kdgraph.check(spec, shapes=False)
    assert (found.code, found.message) == ("KD216", "stage 'labels' has no loss edge left")
    spec = copy.deepcopy(SPEC)
    spec["stages"][1]["phases"][0]["trainable"] = {"studnet": False}
    (found,) = kdgraph.check(spec, shapes=False)
    assert (found.code, found.help) == ("KD202", "did you mean 'student'?")


def test_the_registry_of_actions_finds_them() -> None:
    assert "freeze" in ACTIONS.names()


def test_a_compiled_step_follows_its_stages() -> None:
    torch._dynamo.reset()  # it counts compilations of the same code over all tests
    step = compiled()
    fast = torch.compile(step, backend="aot_eager", fullgraph=True)
    for leg in ("features", "turns.student", "turns.helper", "turns.student"):
        if leg != step.stages.leg:
            step.set_stage(leg)
        step.eval()
        assert set(fast(**batch()).losses) == set(step(**batch()).losses)
        torch.testing.assert_close(fast(**batch()).loss, step(**batch()).loss)
        grads = []
        for one in (fast, step):
            step.zero_grad()
            one(**batch()).loss.backward()
            zero = torch.zeros(())
            grads.append([zero if p.grad is None else p.grad.sum() for p in step.parameters()])
        torch.testing.assert_close(*grads)


LATE = {
    **{key: SPEC[key] for key in ("kdgraph", "name", "batch", "models", "links", "losses")},
    "stages": [
        {
            "name": "turns",
            "rounds": 1,
            "trainable": {"helper": False},
            "losses": {"of_helper": 0},
            "phases": [
                {"name": "labels", "losses": {"hint": 0}},
                {"name": "hints", "losses": {"label": 0}},
            ],
        },
        {"name": "alone", "trainable": {"helper": False}, "losses": {"hint": 0, "of_helper": 0}},
    ],
}


def test_the_adapter_of_a_later_phase_is_there_from_the_start_of_its_stage() -> None:
    step = compiled(LATE)
    adapter = dict(step.adapters.named_parameters())
    assert adapter
    step.set_stage("turns.hints")
    assert all(p is adapter[name] for name, p in step.adapters.named_parameters())
    step.set_stage("turns.labels")
    assert dict(step.adapters.named_parameters()).keys() == adapter.keys()


def test_a_checkpoint_holds_the_adapters_of_stages_that_were_passed() -> None:
    spec = {**LATE, "stages": [LATE["stages"][1], LATE["stages"][0], LATE["stages"][1]]}
    spec["stages"][2] = {**spec["stages"][2], "name": "again"}
    step = compiled(spec)
    step.set_stage("turns.hints")
    train(step)
    step.set_stage("again")
    fresh = compiled(spec)
    fresh.load_state_dict(step.state_dict())
    assert fresh.stages.leg == "again"
    for name, value in step.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]) or name.startswith("stages"), name


def test_new_adapters_follow_a_cast() -> None:
    spec = {**LATE, "stages": [LATE["stages"][1], LATE["stages"][0]]}
    step = compiled(spec).double()
    step.check_values = False
    step.set_stage("turns.hints")
    assert {p.dtype for p in step.adapters.parameters()} == {torch.float64}


def pruning(**during: Any) -> dict[str, Any]:
    spec = copy.deepcopy(SPEC)
    spec["links"] = {}
    spec["losses"] = {k: SPEC["losses"][k] for k in ("label", "of_helper")}
    spec["stages"] = [{"name": "all", "during": [during]}]
    for model in spec["models"].values():
        model["taps"] = {"logits": "output"}
    return spec


def test_each_of_several_optimisers_is_carried_and_keeps_to_its_own() -> None:
    step = compiled(pruning(use="prune", module="student.0", eps=0.4, fold_mean=True))
    step.stages.batches = lambda: iter([batch()])
    head = nn.Linear(2, 2)
    own = {n: torch.optim.Adam(m.parameters(), 0.01) for n, m in step.models.items()}
    own["student"].add_param_group({"params": head.parameters()})
    before = {id(p) for p in step.models["helper"].parameters()}
    for _ in range(2):
        step(**batch()).loss.backward()
        for optimizer in own.values():
            optimizer.step()
    (line,) = step.after_epoch(1)
    assert "student.0: 5 ->" in line
    for optimizer in own.values():
        step.carry(optimizer)
    groups = own["student"].param_groups
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in step.student.parameters()}
    assert groups[1]["params"] == list(head.parameters())
    assert {id(p) for p in own["helper"].param_groups[0]["params"]} == before
    for p in step.student.parameters():
        assert own["student"].state[p]["exp_avg"].shape == p.shape
    step(**batch()).loss.backward()
    own["student"].step()


def test_an_optimiser_without_moments_of_that_shape_starts_afresh() -> None:
    step = compiled(pruning(use="prune", module="student.0", eps=0.4, fold_mean=True))
    step.stages.batches = lambda: iter([batch()])
    optimizer = torch.optim.Adafactor(step.student.parameters())
    for turn in range(2):
        step(**batch()).loss.backward()
        optimizer.step()
        if turn == 0:
            step.after_epoch(1)
            step.carry(optimizer)
            optimizer.zero_grad()


def test_nothing_left_to_train_is_told_at_the_stage() -> None:
    spec = pruning(use="freeze", modules=["student", "helper"])
    step = compiled(spec)
    with pytest.raises(KDGraphError, match="nothing is left to be trained in 'all'") as found:
        step.after_epoch(1)
    assert found.value.diagnostics[0].code == "KD751"


def test_a_refused_action_leaves_the_module_in_its_stage() -> None:
    spec = pruning(use="freeze", modules="student.0")
    spec["stages"][0]["after"] = [{"use": "unfreeze", "modules": "student.0"}]
    spec["stages"].append(
        {"name": "next", "before": [{"use": "prune", "module": "student.0", "fold_mean": True}]}
    )
    step = compiled(spec)
    for _ in range(2):  # without data
        with pytest.raises(KDGraphError, match="training data"):
            step.set_stage("next")
    assert (step.stages.leg, len(step.stages.log)) == ("all", 1)
    step(**batch()).loss.backward()


def test_what_can_be_trained_again_joins_the_optimiser_of_its_model_alone() -> None:
    spec = pruning(use="unfreeze", modules="student.0")
    spec["stages"][0]["before"] = [{"use": "freeze", "modules": "student.0"}]
    step = compiled(spec)
    own = {
        n: torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.01)
        for n, m in step.models.items()
    }
    before = {n: len(optimizer.param_groups[0]["params"]) for n, optimizer in own.items()}
    step.after_epoch(1)
    for optimizer in own.values():
        step.carry(optimizer)
    now = {n: len(optimizer.param_groups[0]["params"]) for n, optimizer in own.items()}
    assert now == {"student": before["student"] + 2, "helper": before["helper"]}
