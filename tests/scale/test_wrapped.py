"""A step trains to the same weights in DDP, FSDP2, with no_sync, checkpointing and compilers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.scale import wrapped

# how far low precision may be from itself on other parts of a batch
CLOSE = {"bf16": 0.02, "fp16": 2e-3}


PLACES = [*((case, 2) for case in wrapped.CASES), *((case, 4) for case in wrapped.AMONG_FOUR)]


@pytest.mark.parametrize(("case", "world"), PLACES)
def test_ranks_train_to_the_weights_of_one(case: str, world: int, ranks: Any, alone: Any) -> None:
    one = alone("wrapped")["ddp" if case == "fsdp2" else case]
    close = CLOSE.get(case, 1e-5)
    for found in (r[case] for r in ranks("wrapped", world)):
        assert found["losses"] == pytest.approx(one["losses"], rel=max(close / 10, 1e-5))
        assert found["weights"].keys() == one["weights"].keys()
        for name, weight in one["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, rtol=close, atol=close)


def test_what_wraps_one_process_changes_nothing(alone: Any) -> None:
    plain = alone("wrapped")["ddp"]
    for case in ("checkpointed", "compiled_inside", "compiled_outside"):
        torch.testing.assert_close(alone("wrapped")[case], plain, rtol=1e-5, atol=1e-6)


def test_a_frozen_model_lets_go_of_what_it_has_gathered(ranks: Any) -> None:
    assert [found["fsdp2"]["gathered"] for found in ranks("wrapped", 2)] == [[], []]


def test_language_models_are_sharded_block_by_block(ranks: Any, alone: Any) -> None:
    for case, one in alone("llm").items():
        for found in (r[case] for r in ranks("llm", 2)):
            assert found["losses"] == pytest.approx(one["losses"], rel=1e-5)
    (found, _) = ranks("llm", 2)
    blocks = {f"teacher.model.layers.{i}" for i in range(3)}
    blocks |= {f"student.model.layers.{i}" for i in range(2)}
    assert found["ports, tied"]["units"] == blocks
    assert found["export, tied"]["units"] == set()  # its blocks are never called
