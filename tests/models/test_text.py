from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from kdgraph.errors import ModelError
from kdgraph.models.load import build_model

SMALL = {"vocabulary": 11, "width": 8, "depth": 2, "heads": 2, "length": 6}
EXAMPLE = ("transformer", SMALL)


def test_logits_for_each_place() -> None:
    model = build_model("text/transformer", SMALL)
    for length in (1, 5, 6):
        assert model(torch.randint(0, 11, (3, length))).shape == (3, length, 11)


def test_defaults_are_for_bytes() -> None:
    model = build_model("text/transformer", {}).eval()
    assert model(torch.randint(0, 256, (1, 128))).shape == (1, 128, 256)
    # 256 * 64 tokens, 128 * 64 places, 2 blocks of 49,984, a norm, and the head
    assert sum(p.numel() for p in model.parameters()) == 16_384 + 8_192 + 99_968 + 128 + 16_640


def test_no_place_sees_what_comes_after_it() -> None:
    model = build_model("text/transformer", SMALL).double()
    tokens = torch.randint(0, 11, (2, 6))
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all()


def test_order_matters() -> None:
    model = build_model("text/transformer", SMALL)
    there, back = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 1, 3]])
    assert not torch.allclose(model(there)[:, 2], model(back)[:, 2])


def test_dropout_is_of_training_alone() -> None:
    model = build_model("text/transformer", {**SMALL, "dropout": 0.5})
    tokens = torch.randint(0, 11, (2, 6))
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_it_learns_a_sequence_by_heart() -> None:
    model = build_model("text/transformer", SMALL)
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9]])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[0, 1:])
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_mistakes() -> None:
    with pytest.raises(ModelError, match=r"KD413.*8.*3 heads"):
        build_model("text/transformer", {**SMALL, "heads": 3})
    with pytest.raises(ModelError, match=r"KD411.*\n.*'transformer'"):
        build_model("text/transfomer", {})
    with pytest.raises(ValueError, match=r"7 tokens.*length: 6"):
        build_model("text/transformer", SMALL)(torch.zeros(1, 7, dtype=torch.int64))


LABELLER = {"vocabulary": 11, "classes": 3, "width": 4, "embedding": 5}


def test_a_class_for_each_place() -> None:
    model = build_model("text/lstm", LABELLER)
    for length in (1, 5):
        assert model(torch.randint(0, 11, (2, length))).shape == (2, length, 3)
    deep = build_model("text/lstm", {**LABELLER, "depth": 2})
    assert [name for name, _ in deep.named_children()] == ["token", "dropout", "rnn", "head"]


def test_a_place_is_read_from_both_sides() -> None:
    model = build_model("text/lstm", LABELLER)
    tokens = torch.randint(0, 11, (1, 5))
    for at in (0, 4):
        changed = tokens.clone()
        changed[:, at] = (changed[:, at] + 1) % 11
        assert not torch.isclose(model(tokens)[:, 2], model(changed)[:, 2]).any()
