from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from kdgraph.signals.regularise import Regularise
from kdgraph.spec.shapes import ShapeMismatch, class_dim

SIGNAL = Regularise(of="mean")
LABEL = Regularise(of="mean", variant="label", label="label")
P = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64)


def test_known_values() -> None:
    out = SIGNAL.forward(of=P, by=0.1)
    want = [[0.18 + 0.1 / 3, 0.27 + 0.1 / 3, 0.45 + 0.1 / 3], [0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]]
    torch.testing.assert_close(out, torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0)


def test_towards_the_label() -> None:
    out = LABEL.forward(of=P, by=0.25, label=torch.tensor([1, -100]))
    want = torch.tensor([[0.15, 0.475, 0.375], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(out, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4), (3, 4, 2, 2)])
def test_a_share_per_sample_on_any_layout(shape: tuple[int, ...]) -> None:
    at = class_dim(shape)
    p = torch.randn(shape, dtype=torch.float64).softmax(at)
    label = torch.randint(0, 4, shape[:at] + shape[at + 1 :])
    share = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for out in (SIGNAL.forward(of=p, by=share), LABEL.forward(of=p, by=share, label=label)):
        torch.testing.assert_close(out.sum(at), torch.ones_like(out.sum(at)))
        assert torch.equal(out[0], p[0])
    assert (SIGNAL.forward(of=p, by=share)[2] == 0.25).all()
    assert torch.equal(LABEL.forward(of=p, by=share, label=label).argmax(at)[2], label[2])


def test_a_share_is_no_more_than_1() -> None:
    for by in (1.5, {"linear": [0, 2], "epochs": [0, 3]}):
        with pytest.raises(ValidationError, match="share"):
            Regularise.model_validate({"of": "mean", "by": by})


def test_label_and_variant_go_together() -> None:
    for keys in ({"variant": "label"}, {"label": "label"}):
        with pytest.raises(ValidationError, match="go together"):
            Regularise.model_validate({"of": "mean", **keys})


def test_mismatches() -> None:
    with pytest.raises(ShapeMismatch, match="probabilities"):
        SIGNAL.shape(of=(4,))
    with pytest.raises(ShapeMismatch, match="do not fit"):
        LABEL.shape(of=(4, 3), label=(4, 3))


def inputs(shape: tuple[int, ...]) -> dict[str, Tensor]:
    return {"of": torch.randn(shape).softmax(class_dim(shape))}
