"""Families of language models: padding at either side, packed rows, hidden states."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import kdgraph
from tests.llm.tiny import ARGS, batch, logits_only, pair

every_family = pytest.mark.parametrize("family", list(ARGS))
Step = kdgraph.DistillModule


@cache
def opened(family: str) -> Step:
    """A pair of a family; of some with a link of hidden states, so that models are opened."""
    torch.manual_seed(0)
    spec = pair(family, attention_mask="there")
    return kdgraph.compile(spec if family in ("llama", "bert") else logits_only(spec))


def gradients(step: Step, data: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    step.zero_grad()
    out = step(**data)
    out.loss.backward()
    grads = {n: p.grad.clone() for n, p in step.student.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in out.losses.items()}, grads


def with_mask(data: dict[str, Tensor]) -> dict[str, Tensor]:
    return data | {"there": data["keep"].long()}


@every_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_positions_move_nothing(family: str, side: str) -> None:
    data = with_mask(batch([8, 5, 2], side))
    other = data | {"tokens": data["tokens"].where(data["keep"], 7)}
    (losses, grads), (moved, moved_grads) = (gradients(opened(family), d) for d in (data, other))
    assert losses == moved
    # an embedding that is tied, or a lookup of the padding itself, has no part in it
    torch.testing.assert_close(grads, moved_grads, rtol=0, atol=0)


# GPT-2 counts positions from the left end of the row unless it is given some
@pytest.mark.parametrize(
    ("family", "side"),
    [*((f, "right") for f in ARGS), ("llama", "left"), ("qwen2", "left"), ("qwen3", "left")],
)
def test_a_mean_is_over_the_tokens_that_are_there(family: str, side: str) -> None:
    lengths = [8, 5, 2]
    data = with_mask(batch(lengths, side))
    with torch.no_grad():
        found = opened(family)(**data).losses
        places = [slice(8 - n, 8) if side == "left" else slice(0, n) for n in lengths]
        alone = [
            opened(family)(**{name: v[row : row + 1, place] for name, v in data.items()}).losses
            for row, place in enumerate(places)
        ]
    for name, value in found.items():
        wanted = sum(n * own[name] for n, own in zip(lengths, alone, strict=True)) / sum(lengths)
        torch.testing.assert_close(value, torch.as_tensor(wanted), rtol=1e-5, atol=1e-6)


# their forward takes any name, and would go on without a mask
@every_family
def test_an_argument_that_is_misspelt_is_not_lost(family: str) -> None:
    (first, second) = kdgraph.check(logits_only(pair(family, attention_masks="there")))
    for found in (first, second):
        assert found.code == "KD203", found
        assert "attention_mask'" in str(found.help)


def packed(data: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sequences of a padded batch in one row, with positions, and what sees what."""
    keep = data["keep"]
    rows, size = keep.shape
    position = torch.arange(size).expand(rows, size)[keep]
    document = torch.arange(rows).unsqueeze(1).expand(rows, size)[keep]
    return {
        "tokens": data["tokens"][keep][None],
        "label": data["label"][keep][None],
        "keep": torch.ones(1, len(position), dtype=torch.bool),
        "position": position[None],
        "same": (document.unsqueeze(1) == document)[None, None],
    }


def packed_pair(family: str) -> dict[str, Any]:
    """Decoders tell documents by their positions; an encoder is told which tokens see which."""
    if family != "bert":
        return pair(family, position_ids="position")
    spec = pair(family, position_ids="position", attention_mask="same")
    spec["batch"]["same"] = {"shape": ["B", 1, "L", "L"], "dtype": "bool"}
    return spec


@every_family
def test_packed_is_as_unpacked(family: str) -> None:
    torch.manual_seed(0)
    apart = kdgraph.compile(logits_only(pair(family, attention_mask="there")))
    _as_apart(family, apart, logits_only(packed_pair(family)))


def test_packed_is_as_unpacked_where_models_are_captured_inside() -> None:
    _as_apart("llama", opened("llama"), packed_pair("llama"))


def _as_apart(family: str, apart: Step, spec: dict[str, Any]) -> None:
    models = {name: captured.root for name, captured in apart.report.captures.items()}
    together = kdgraph.compile(spec, models=models)
    data = batch([5, 8, 3])
    row = {name: v for name, v in packed(data).items() if name in spec["batch"]}
    wanted, found = gradients(apart, with_mask(data)), gradients(together, row)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    if family != "bert":  # the positions matter: as one document, the loss is another
        row["position"] = torch.arange(16)[None]
        assert abs(float(gradients(together, row)[0]["next"] - wanted[0]["next"])) > 1e-5
