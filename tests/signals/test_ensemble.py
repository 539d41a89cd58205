from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from kdgraph.signals.ensemble import Ensemble
from kdgraph.spec.shapes import ShapeMismatch

OF = ("teacher.logits", "teacher2.logits")


def _logits(values: list[list[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


Z_S = _logits([[2, 0.5, -1], [0.1, 0.2, 0.3]])
Z_T = _logits([[1, 1.5, -0.5], [0, 2, -1]])
Z_T2 = _logits([[3, 0, 0], [1, 1, 0]])
BOOK = _logits(  # 0.9 * mean of softmax(z / 2) + 0.1 / 3, by plain NumPy
    [
        [0.507737534706, 0.312385686445, 0.179876778849],
        [0.310027366299, 0.488815886014, 0.201156747687],
    ]
)


def test_golden_mean_of_tempered_distributions() -> None:
    out = Ensemble(of=OF, tau=2.0).forward(of=[Z_T, Z_T2], tau=2.0)
    mean = (out / 2).softmax(-1)
    torch.testing.assert_close(0.9 * mean + 0.1 / 3, BOOK, atol=1e-11, rtol=0)


def test_golden_distillation_from_an_ensemble() -> None:
    out = Ensemble(of=OF, tau=2.0).forward(of=[Z_T, Z_T2], tau=2.0)
    target = (out / 2).softmax(-1)
    soft = F.kl_div((Z_S / 2).log_softmax(-1), target, reduction="batchmean") * 4
    hard = F.cross_entropy(Z_S, torch.tensor([0, 1]))
    assert (0.5 * hard + 0.5 * soft).item() == pytest.approx(0.429458533995, abs=1e-11)


def test_weights_are_shares() -> None:
    out = Ensemble(of=OF, weights=(1, 3)).forward(of=[Z_T, Z_T2])
    mean = (Z_T.softmax(-1) + 3 * Z_T2.softmax(-1)) / 4
    torch.testing.assert_close(out, mean.log())
    alone = Ensemble(of=OF, weights=(0, 2)).forward(of=[Z_T, Z_T2])
    torch.testing.assert_close(alone.softmax(-1), Z_T2.softmax(-1))


def test_mean_of_logits() -> None:
    entry = Ensemble(of=OF, average="logits")
    torch.testing.assert_close(entry.forward(of=[Z_T, Z_T2], tau=1.0), (Z_T + Z_T2) / 2)


def test_temperature_per_sample() -> None:
    tau = torch.tensor([1.0, 4.0], dtype=torch.float64)
    out = Ensemble(of=OF).forward(of=[Z_T, Z_T2], tau=tau)
    for row, value in enumerate(tau.tolist()):
        one = Ensemble(of=OF).forward(of=[Z_T, Z_T2], tau=value)
        torch.testing.assert_close(out[row], one[row])


def test_classes_of_maps_are_second() -> None:
    maps = [torch.randn(2, 5, 3, 4) for _ in OF]
    out = Ensemble(of=OF).forward(of=maps)
    mean = (maps[0].softmax(1) + maps[1].softmax(1)) / 2
    torch.testing.assert_close(out.softmax(1), mean)


def test_far_apart_members_stay_finite() -> None:
    out = Ensemble(of=OF).forward(of=[Z_T.float() * 1e4, Z_T2.float() * -1e4])
    assert out.isfinite().all()


def test_shapes_must_be_equal() -> None:
    with pytest.raises(ShapeMismatch, match=r"teacher2.logits is \[2, 4\]"):
        Ensemble(of=OF).shape(of=[(2, 3), (2, 4)])
    with pytest.raises(ShapeMismatch, match="1 weights for 2 members"):
        Ensemble(of=OF, weights=(1.0,)).shape(of=[(2, 3), (2, 3)])


@pytest.mark.parametrize(
    "keys",
    [
        {"weights": [0, 0]},
        {"weights": [1, -1]},
        {"average": "logits", "tau": 2},
        {"tau": 0},
        {"of": []},
    ],
)
def test_refuses(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Ensemble.model_validate({"of": OF, **keys})


def test_the_temperature_may_be_a_signal() -> None:
    entry = Ensemble(of=OF, tau="warmth")
    assert [ref for _, ref in entry.references()] == [*OF, "warmth"]
