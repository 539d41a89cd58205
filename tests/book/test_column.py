from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdgraph.book.column import Column
from kdgraph.errors import BookError


def there_and_back(column: Column, values: Tensor) -> dict[str, Tensor]:
    kept = column.encode(values)
    for name, (shape, dtype) in column.parts.items():
        assert kept[name].shape == (len(values), *shape)
        assert kept[name].dtype == dtype
    given = column.decode(kept)
    for name, (shape, dtype) in column.gives.items():
        assert given[name].shape == (len(values), *shape)
        assert given[name].dtype == dtype
    assert sum(x.numel() * x.itemsize for x in kept.values()) == column.bytes * len(values)
    return given


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(5, 3, 4, 2, generator=torch.Generator().manual_seed(0))


def test_float32_is_exact(maps: Tensor) -> None:
    assert torch.equal(there_and_back(Column("t.mid", (3, 4, 2)), maps)["t.mid"], maps)


def test_float16_is_rounded_once(maps: Tensor) -> None:
    found = there_and_back(Column("t.mid", (3, 4, 2), "float16"), maps)["t.mid"]
    assert torch.equal(found, maps.half().float())


def test_int8_is_off_by_half_a_step_at_most(maps: Tensor) -> None:
    maps[:, 1] *= 100  # a channel of its own size does not coarsen the others
    maps[2, 0] = 0
    found = there_and_back(Column("t.mid", (3, 4, 2), "int8"), maps)["t.mid"]
    step = maps.abs().amax((2, 3), keepdim=True) / 127
    assert ((found - maps).abs() <= step * 0.5001).all()
    assert torch.equal(found[2, 0], maps[2, 0])


def test_int8_of_a_vector_has_one_scale() -> None:
    column = Column("t.logits", (4,), "int8")
    kept = column.encode(torch.tensor([[127.0, -127.0, 1.0, 0.4]]))
    assert kept["t.logits"].tolist() == [[127, -127, 1, 0]]
    assert kept["t.logits.scale"].tolist() == [1.0]


@pytest.mark.parametrize("dtype", ["int64", "int32", "bool"])
def test_whole_numbers_are_exact(dtype: str) -> None:
    values = torch.tensor([[0, 1], [1, 1]]).to(getattr(torch, dtype))
    found = there_and_back(Column("mask", (2,), dtype), values)["mask"]  # type: ignore[arg-type]
    assert torch.equal(found, values)


def test_a_single_number_for_each_sample() -> None:
    values = torch.tensor([1.5, -2.0])
    for dtype in ("float32", "float16", "int8"):
        found = there_and_back(Column("weight", (), dtype), values)["weight"]  # type: ignore[arg-type]
        assert torch.equal(found, values)


def test_top_k_keeps_log_probabilities_and_the_rest() -> None:
    # probabilities 1/10, 2/10, 3/10, 4/10
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log() + 7
    found = there_and_back(Column("t.logits", (4,), "float32", "top_k", 2), logits)
    assert found["t.logits.ids"].tolist() == [[3, 2]]
    assert found["t.logits.values"].exp().tolist() == [pytest.approx([0.4, 0.3])]
    assert found["t.logits.tail"].tolist() == pytest.approx([0.3])


def test_a_small_rest_is_not_rounded_away() -> None:
    logits = torch.tensor([[0.0, -30.0, -31.0]])
    tail = there_and_back(Column("t.logits", (3,), "float16", "top_k", 1), logits)["t.logits.tail"]
    # e^-30 + e^-31, of 1
    assert tail.item() == pytest.approx(1.280e-13, rel=1e-3)


def test_many_classes_need_wider_numbers() -> None:
    assert Column("t", (2**15,), "float16", "top_k", 2).parts["t.ids"][1] == torch.int16
    assert Column("t", (2**15 + 1,), "float16", "top_k", 2).parts["t.ids"][1] == torch.int32
    logits = torch.zeros(1, 40_000)
    logits[0, 39_999] = 1
    column = Column("t", (40_000,), "float16", "top_k", 1)
    assert there_and_back(column, logits)["t.ids"].tolist() == [[39_999]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BookError, match=r"KD768.*up to 1e\+05, more than float16"):
        Column("t", (1,), "float16").encode(torch.tensor([[1e5]]))
    with pytest.raises(BookError, match=r"KD768.*not finite"):
        Column("t", (1,)).encode(torch.tensor([[float("nan")]]))
    with pytest.raises(BookError, match=r"KD768.*'t' is \[3\], and \[2\] elsewhere"):
        Column("t", (2,)).encode(torch.zeros(4, 3))
