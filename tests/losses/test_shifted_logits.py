"""Which losses may read logits that are known but for a number of each row, as a book has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kdgraph.spec.entry import LOSSES
from kdgraph.spec.frontier import of_logits

if TYPE_CHECKING:
    from conftest import Case


def test_a_number_on_top_of_each_row_makes_no_difference(softmax_case: Case) -> None:
    tensors = softmax_case.tensors()
    side = "other" if "other" in tensors else "teacher"
    at = 1 if len(softmax_case.teacher) > 3 else -1
    rows = tensors[side].select(at, 0)
    by = torch.linspace(-3, 5, rows.numel(), dtype=rows.dtype).view_as(rows).unsqueeze(at)
    moved = softmax_case.value(**{**tensors, side: tensors[side] + by})
    torch.testing.assert_close(moved, softmax_case.value(**tensors))


def test_what_takes_values_as_they_are_is_none_of_them() -> None:
    known = {name for name, cls in LOSSES.items() if of_logits(cls)}
    assert {"soft_target", "decoupled", "dist", "hard_label", "ranking"} <= known
    assert known.isdisjoint({"logit_mse", "logit_mae", "hint", "cosine", "soft_cross_entropy"})
