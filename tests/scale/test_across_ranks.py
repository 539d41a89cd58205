"""A batch that several processes share gives the losses and gradients of the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kdgraph
from tests.scale import across


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("case", [c for c in across.CASES if c != "rank"])
def test_ranks_give_the_losses_and_gradients_of_one(
    case: str, world: int, ranks: Any, alone: Any
) -> None:
    one = alone("across")[case]
    for found in (r[case] for r in ranks("across", world)):
        for name, value in one["losses"].items():
            assert found["losses"][name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assert found["loss"] == pytest.approx(one["loss"], rel=1e-9)
        assert found["grads"].keys() == one["grads"].keys()
        for name, grad in one["grads"].items():
            torch.testing.assert_close(found["grads"][name], grad, rtol=1e-7, atol=1e-10)


def test_scope_rank_keeps_to_the_rows_of_each_rank(ranks: Any) -> None:
    whole, sizes = across.batch("rank"), across.SIZES[2]
    for rank, found in enumerate(ranks("across", 2)):
        own = across.compiled("rank")(**across.share(whole, sizes, rank))
        losses = {name: value.item() for name, value in own.losses.items()}
        assert found["rank"]["losses"] == pytest.approx(losses, rel=1e-12)
    first, second = (found["rank"]["losses"]["soft"] for found in ranks("across", 2))
    assert first != second


def test_rows_of_two_lengths_are_not_read_together(ranks: Any) -> None:
    for found in ranks("across", 2):
        assert "KD704" in found["apart"]
        assert "[5, 7], [4, 7]" in found["apart"]


APART = ("batch_signals", "trained_signal", "relations", "rank", "two_sizes")  # read rows together
IN_WINDOWS = [c for c in across.CASES if c not in APART]


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("case", IN_WINDOWS)
def test_micro_batches_of_a_window_add_up_to_the_large_batch(case: str, averaged: bool) -> None:
    whole = across.batch(case)
    parts = [across.share(whole, across.SIZES[4], rank) for rank in range(4)]
    large, small = across.compiled(case), across.compiled(case)
    out = large(**whole)
    out.loss.backward()
    total = 0.0
    with small.window(parts, averaged=averaged):
        for part in parts:
            loss = small(**part).loss / (len(parts) if averaged else 1)
            loss.backward()
            total += loss.item()
    assert total == pytest.approx(out.loss.item(), rel=1e-12)
    torch.testing.assert_close(across.gradients(small), across.gradients(large))
    after = small(**whole)  # the window is closed
    assert after.loss.item() == pytest.approx(out.loss.item(), rel=1e-12)


def test_a_window_counts_the_rows_that_an_edge_has() -> None:
    """Of two letters that free sizes of the batch begin with."""
    whole = across.batch("two_sizes")
    parts = [across.share(whole, across.SIZES[4], rank) for rank in range(4)]
    step = across.compiled("two_sizes")
    with step.window(parts):
        found = [step(**part).losses for part in parts]
    for name in ("label", "soft", "other"):
        large = step(**whole).losses[name].item()
        assert sum(part[name].item() for part in found) == pytest.approx(large, rel=1e-12)


def test_a_mask_of_samples_counts_the_tokens_of_each_micro_batch() -> None:
    batch = across.TOKENS | {"mask": {"shape": ["B"]}}
    losses = {"soft": across.edge("soft_target", **across.LOGITS, mask="mask")}
    taps = {"logits": "output"}
    spec = {
        "kdgraph": 1,
        "name": "padded to the longest",
        "batch": batch,
        "models": {"student": {"taps": taps}, "teacher": {"taps": taps}},
        "losses": losses,
    }
    models = {"teacher": across.net(7, 1), "student": across.net(7, 2)}
    step = kdgraph.compile(spec, models=models).double()
    parts, kept = [], (3, 1)
    for length, samples in zip((2, 9), kept, strict=True):
        parts.append({
            "x": torch.randn(4, length, 6).double(),
            "label": torch.zeros(4, length, dtype=torch.int64),
            "mask": (torch.arange(4) < samples).float(),
        })  # fmt: skip
    means = [step(**part).loss.item() for part in parts]
    with step.window(parts):
        total = sum(step(**part).loss.item() for part in parts)
    rows = [n * len(part["x"][0]) for n, part in zip(kept, parts, strict=True)]
    mean = sum(n * value for n, value in zip(rows, means, strict=True)) / sum(rows)
    assert total == pytest.approx(mean, rel=1e-12)


def test_a_mask_that_a_trained_model_makes_cannot_be_counted_beforehand() -> None:
    step = across.masked("student", across.net(7, 1))
    with pytest.raises(kdgraph.KDGraphError, match=r"KD731.*'student'"), step.window([]):
        pass
