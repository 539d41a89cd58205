"""Rows that are padded to the longest of their batch: what depends on that is in no book."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from kdgraph.errors import BookError
from kdgraph.spec.book import BookSpec
from kdgraph.spec.read import load_spec
from kdgraph.teachers import compile_teachers
from kdgraph.train.data._split import Split
from kdgraph.train.data.base import DataSet
from kdgraph.train.shards import Source

SPEC = load_spec({
    "kdgraph": 1, "name": "padded",
    "batch": {"x": {"shape": ["B", "T", 4]}},
    "models": {
        "teacher": {"taps": {"logits": "output"}},
        "student": {"taps": {"logits": "output"}},
    },
    "losses": {
        "soft": {"use": "soft_target", "student": "student.logits", "teacher": "teacher.logits"}
    },
    "data": {"use": "digits", "batch_size": 3},
})  # fmt: skip


class Padded(Split):
    """Row i is 1 + i ones of 4 features, behind them nothing."""

    columns = ("x",)

    def __len__(self) -> int:
        return 5

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        x = torch.zeros(len(indices), 1 + max(indices), 4)
        for at, row in enumerate(indices):
            x[at, : 1 + row] = 1
        return {"x": x}

    def subset(self, indices: Tensor) -> Split:
        raise NotImplementedError


class Pooled(nn.Module):
    """Logits of all steps in one: their sum, their mean, or each by itself."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.head = how, nn.Linear(4, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.head(x)
        return {"sum": z.sum(1), "mean": z.mean(1), "steps": z}[self.how]


def look(how: str) -> None:
    module = compile_teachers(SPEC, ["teacher.logits"], models={"teacher": Pooled(how)})
    assert isinstance(SPEC.data, DataSet)
    source = Source(Padded(), SPEC.data, BookSpec(views=1), module, torch.device("cpu"))
    module.look(source.first(), source.padded())


def test_what_padding_does_not_change_is_kept() -> None:
    look("sum")


@pytest.mark.parametrize("how", ["mean", "steps"])
def test_what_depends_on_padding_is_refused(how: str) -> None:
    with pytest.raises(BookError, match=r"KD767.*how far it is padded"):
        look(how)
