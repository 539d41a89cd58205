"""A step by itself is untouched; it is planned anew when it has to share a batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import kdgraph
from kdgraph.graph import ranks
from kdgraph.runtime import window
from tests.scale import across, wrapped


def test_a_step_of_one_process_counts_nothing() -> None:
    step = wrapped.compiled()
    assert "across_ranks" not in step.program.code
    assert "across_ranks" not in [record.name for record in step.report.records]


def test_sharing_keeps_parameters_progress_and_the_mode() -> None:
    step = wrapped.compiled()
    before = dict(step.named_parameters())
    step.set_progress(iteration=3)
    step.eval()
    whole = next(iter(wrapped.batches()))
    alone = step(**whole)
    step.share()
    assert "across_ranks" in step.program.code
    after = dict(step.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
    assert step.steer.iteration == 3
    assert not step.student.training
    torch.testing.assert_close(step(**whole).losses, alone.losses)


def test_stages_share_in_each_of_them() -> None:
    first = {"name": "features", "epochs": 1, "losses": {"label": 0}}
    step = wrapped.compiled(stages=[first, {"name": "labels", "epochs": 1}])
    step.share()
    step.set_stage("labels")
    assert "across_ranks" in step.program.code


def test_a_compiler_does_not_meet_a_step_that_counts_too_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step = wrapped.compiled()
    monkeypatch.setattr("kdgraph.runtime.module.world_size", lambda: 2)
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"compile the spec once the group is there"):
        compiled(**next(iter(wrapped.batches())))


def test_scope_is_global_or_rank() -> None:
    losses = {"soft": across.edge("soft_target", **across.LOGITS, scope="ranks")}
    with pytest.raises(kdgraph.KDGraphError, match="'rank'"):
        wrapped.compiled(losses=losses)


def test_one_process_gathers_and_sums_nothing() -> None:
    value = torch.randn(3, 2)
    rows = ranks.rows_of_ranks(value)
    assert rows.tolist() == [3]
    assert ranks.gather_rows(value, rows) is value
    assert ranks.own_rows(value, rows) is value
    assert ranks.sum_over_ranks(value) is value


def masked_by_teacher() -> kdgraph.DistillModule:
    """Rows count where the teacher, which has dropout, is right."""
    return across.masked("teacher", across.net(7, 1).append(nn.Dropout(0.5)))


def test_a_window_leaves_a_frozen_model_out_of_what_is_trained_and_kept() -> None:
    step = masked_by_teacher()
    state, trained = list(step.state_dict()), [n for n, _ in step.named_parameters()]
    with step.window([across.batch("labels")]):
        pass
    step.train()
    assert list(step.state_dict()) == state
    assert [n for n, _ in step.named_parameters()] == trained
    assert not any(m.training for m in step.networks["teacher"].modules())


def test_a_copy_of_a_step_shares_with_its_own_weights() -> None:
    step, whole = wrapped.compiled(), next(iter(wrapped.batches()))
    other = copy.deepcopy(step)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    alone = other(**whole)
    other.share()
    torch.testing.assert_close(other(**whole).losses, alone.losses)
    assert "across_ranks" not in step.program.code


def test_a_window_within_another_gives_back_the_outer() -> None:
    step = across.compiled("labels")
    parts = [across.share(across.batch("labels"), [8, 5], rank) for rank in (0, 1)]
    with step.window(parts):
        before = step(**parts[0]).loss
        with step.window(parts[:1]):
            assert step(**parts[0]).loss > before
        assert step(**parts[0]).loss == before


def test_the_batches_of_a_window_are_checked() -> None:
    step, whole = wrapped.compiled(), next(iter(wrapped.batches()))
    with pytest.raises(kdgraph.KDGraphError, match=r"KD701.*'label'"):
        step.window([{"x": whole["x"]}])
    with pytest.raises(kdgraph.KDGraphError, match="KD704"):
        step.window([])
    wrong: Any
    for wrong in (whole, [tuple(whole.values())], [[whole]]):
        with pytest.raises(kdgraph.KDGraphError, match="KD702"):
            step.window(wrong)


def test_the_batches_of_a_window_may_come_one_after_the_other() -> None:
    step, whole = wrapped.compiled(), next(iter(wrapped.batches()))
    with step.window(whole for _ in range(2)):
        half = step(**whole).loss
    torch.testing.assert_close(2 * half, step(**whole).loss)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_masks_in_half_precision_are_counted_exactly(dtype: torch.dtype) -> None:
    edge = {"use": "logit_mse", "student": "student.logits", "teacher": "zero", "mask": "mask"}
    spec = {
        "kdgraph": 1,
        "name": "half",
        "batch": {"x": {"shape": ["B", 4]}, "zero": {"shape": ["B", 4]}, "mask": {"shape": ["B"]}},
        "models": {"student": {"taps": {"logits": "output"}}},
        "losses": {"zero": edge},
    }
    step = kdgraph.compile(spec, models={"student": nn.Linear(4, 4)})
    whole = {"x": torch.ones(70_000, 4), "zero": torch.zeros(70_000, 4)}
    whole["mask"] = torch.ones(70_000, dtype=dtype)
    one = step(**whole).loss
    parts = [{n: v[:259] for n, v in whole.items()}, {n: v[259:] for n, v in whole.items()}]
    with step.window(parts):
        shares = [step(**part).loss for part in parts]
    torch.testing.assert_close(torch.stack(shares).sum(), one)
    torch.testing.assert_close(shares[0], one * 259 / 70_000)  # bfloat16 has no 259


def test_a_window_counts_the_rows_of_all_ranks_but_for_an_edge_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kdgraph.passes._across.sum_over_ranks", lambda value: 2 * value)
    for case, times in (("labels", 2), ("rank", 1)):
        step = across.compiled(case)
        step.share()
        own = torch.arange(3.0)[: len(step.losses)]
        assert torch.equal(window.across_of({True: step.program}).totals(own), times * own)
