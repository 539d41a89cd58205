from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from kdgraph.losses.soft_target import SoftTarget
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
        {"gamma": 2},
        {"theta": 2},
        {"ignore_index": 0},
        {"weights": [1, 1], "gamma": 0},
    ],
)
def test_refuses(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Ensemble.model_validate({"of": OF, **keys})


def test_the_temperature_may_be_a_signal() -> None:
    entry = Ensemble(of=OF, tau="warmth")
    assert [ref for _, ref in entry.references()] == [*OF, "warmth"]


THREE = [_logits([[2, 0]]), _logits([[0, 1]]), _logits([[1, 0.5]])]
NAMES = ("a.logits", "b.logits", "c.logits")


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_golden_members_weighed_by_the_label(dtype: torch.dtype, rel: float) -> None:
    """Cross-entropies 0.126928, 1.313262 and 0.474077, by NumPy."""
    of, label = [z.to(dtype) for z in THREE], torch.tensor([0])
    out = Ensemble(of=NAMES, tau=2.0, target="label").forward(of=of, tau=2.0, target=label)
    target = (out / 2).softmax(1)
    assert target[0].tolist() == pytest.approx([0.61809272862, 0.38190727138], rel=rel)
    student = torch.tensor([[0.3, -0.2]], dtype=dtype)
    edge = SoftTarget(student="student.logits", teacher="soft", tau=2.0, reduction="batchmean")
    soft = edge.module()(student=student, teacher=out, tau=2.0)
    assert soft.item() == pytest.approx(0.0257044996320143, rel=rel)


def test_golden_weights_by_the_label() -> None:
    entry = Ensemble(of=NAMES, target="label")
    fixed = torch.zeros(3, 1, 1, dtype=torch.float64)
    logs = entry._by_row(torch.stack(THREE), fixed, torch.tensor([0]), 1)
    known = [0.497008326494, 0.151755868749, 0.351235804757]
    assert logs.exp().flatten().tolist() == pytest.approx(known, rel=1e-10)


def test_golden_weights_by_accuracy() -> None:
    """Members of one known class each show the weights that they have."""
    of = [_logits([[0.0 if i == m else -1e4 for i in range(3)]]) for m in range(3)]
    for gamma, known in (
        (1.0, [0.351851851852, 0.333333333333, 0.314814814815]),
        (2.0, [0.9025 / 2.435, 0.81 / 2.435, 0.7225 / 2.435]),
    ):
        out = Ensemble(of=NAMES, weights=(0.95, 0.90, 0.85), gamma=gamma).forward(of=of)
        assert out.softmax(1)[0].tolist() == pytest.approx(known, rel=1e-11)


def test_the_label_weighs_row_by_row() -> None:
    of = [torch.randn(2, 5, 3, 4).double() for _ in OF]
    label = torch.randint(5, (2, 3, 4))
    label[0, 0, 0] = -100
    entry = Ensemble(of=OF, weights=(1, 3), target="label", theta=0.5)
    out = entry.forward(of=of, target=label).softmax(1)
    for b, i, j in ((0, 1, 2), (1, 2, 3), (0, 0, 0)):
        p = [z[b, :, i, j].softmax(0) for z in of]
        shares = [1.0, 3.0]
        if (y := int(label[b, i, j])) >= 0:
            shares = [w * float(q[y]) ** 2 for w, q in zip(shares, p, strict=True)]
        mean = sum(w * q for w, q in zip(shares, p, strict=True)) / sum(shares)
        torch.testing.assert_close(out[b, :, i, j], mean)


def test_weights_are_constants_for_autograd() -> None:
    of = [z.clone().requires_grad_() for z in THREE]
    entry = Ensemble(of=NAMES, average="logits", target="label")
    out = entry.forward(of=of, target=torch.tensor([0]))
    out[0, 0].backward()  # type: ignore[no-untyped-call]  # untyped there
    fixed = torch.zeros(3, 1, 1, dtype=torch.float64)
    weights = entry._by_row(torch.stack(THREE), fixed, torch.tensor([0]), 1).exp()
    for z, weight in zip(of, weights, strict=True):
        assert z.grad is not None
        torch.testing.assert_close(z.grad, torch.stack([weight[0, 0], 0 * weight[0, 0]])[None])


def test_a_label_that_no_member_thinks_possible() -> None:
    of = [_logits([[0, 1, -torch.inf]]), _logits([[2, 0, -torch.inf]])]
    out = Ensemble(of=OF, target="label").forward(of=of, target=torch.tensor([2]))
    torch.testing.assert_close(out, Ensemble(of=OF).forward(of=of))


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="one class index for each row"):
        Ensemble(of=OF, target="label").shape(of=[(2, 3, 4), (2, 3, 4)], target=(2,))
