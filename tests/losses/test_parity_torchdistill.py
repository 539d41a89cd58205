"""The same numbers as torchdistill where the formulas agree; where they do not, how they differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdgraph.losses.activation_boundary import ActivationBoundary
from kdgraph.losses.attention_transfer import AttentionTransfer
from kdgraph.losses.channel_correlation import ChannelCorrelation
from kdgraph.losses.correlation_congruence import CorrelationCongruence
from kdgraph.losses.cross_entropy import CrossEntropy
from kdgraph.losses.dist import DIST
from kdgraph.losses.factor_transfer import FactorTransfer
from kdgraph.losses.fsp import FSP
from kdgraph.losses.log_sum import LogSum
from kdgraph.losses.pkt import PKT
from kdgraph.losses.prime_aware import PrimeAware
from kdgraph.losses.relation import Relation
from kdgraph.losses.similarity import Similarity
from kdgraph.losses.soft_target import SoftTarget
from kdgraph.signals.normalise import Normalise

peer = pytest.importorskip("torchdistill.losses.mid_level")

SIDES = {"student": "link.student", "teacher": "link.teacher"}
PATHS = {
    f"{side}_module_{what}": v for side in SIDES for what, v in (("path", "x"), ("io", "output"))
}
PAIRS = {"pair": {side: {"path": "x", "io": "output"} for side in SIDES}}


@pytest.fixture
def features() -> dict[str, Tensor]:
    return {
        "student": torch.randn(4, 6, 3, 2).double(),
        "teacher": torch.randn(4, 6, 3, 2).double(),
    }


@pytest.fixture
def logits() -> dict[str, Tensor]:
    return {"student": torch.randn(6, 5).double(), "teacher": torch.randn(6, 5).double()}


def of_peer(loss: Any, tensors: dict[str, Tensor], *more: Any) -> float:
    student, teacher = ({"x": {"output": tensors[side]}} for side in ("student", "teacher"))
    return float(loss(student, teacher, *more))


def test_kd(value_of: Callable[..., Any], logits: dict[str, Tensor]) -> None:
    """``alpha`` is on the labels there, and tau**2 on the other term."""
    labels = torch.randint(0, 5, (6,))
    hard = value_of(
        CrossEntropy(student="s.z", target="label"), student=logits["student"], target=labels
    )
    soft = value_of(SoftTarget(**SIDES, tau=4.0), **logits)
    loss = peer.KDLoss(**PATHS, temperature=4.0, alpha=0.3)
    expected = 0.3 * hard.item() + 0.7 * soft.item()
    assert of_peer(loss, logits, labels) == pytest.approx(expected, rel=1e-10)


def test_kd_without_labels(value_of: Callable[..., Any], logits: dict[str, Tensor]) -> None:
    """With alpha 0 there is no factor tau**2."""
    value = value_of(SoftTarget(**SIDES, tau=4.0, scale=False), **logits)
    loss = peer.KDLoss(**PATHS, temperature=4.0, alpha=0)
    assert of_peer(loss, logits) == pytest.approx(value.item(), rel=1e-10)


def test_kd_of_tokens(value_of: Callable[..., Any]) -> None:
    """On [B, L, K] the softmax there runs over dimension 1, the tokens."""
    tokens = {side: torch.randn(2, 3, 5).double() for side in SIDES}
    loss = peer.KDLoss(**PATHS, temperature=4.0, alpha=0)
    value = value_of(SoftTarget(**SIDES, scale=False, reduction="batchmean"), **tokens)
    assert of_peer(loss, tokens) != pytest.approx(value.item(), rel=1e-3)
    turned = {side: x.mT for side, x in tokens.items()}
    assert of_peer(loss, turned) == pytest.approx(value.item(), rel=1e-10)


def test_similarity(value_of: Callable[..., Any], features: dict[str, Tensor]) -> None:
    """``normalize(z, 1)`` there is the L1 norm of the rows; the paper has the L2 norm."""
    loss = peer.SPKDLoss("x", "x", reduction="batchmean")
    theirs, ours = of_peer(loss, features), value_of(Similarity(**SIDES), **features).item()
    assert theirs != pytest.approx(ours, rel=1e-3)
    for norm, number in ((1, theirs), (2, ours)):
        s, t = (F.normalize(x.flatten(1) @ x.flatten(1).T, norm, 1) for x in features.values())
        assert (s - t).square().sum().item() / 16 == pytest.approx(number, rel=1e-10)


def test_relation(value_of: Callable[..., Any], features: dict[str, Tensor]) -> None:
    loss = peer.RKDLoss("x", "x", dist_factor=25.0, angle_factor=50.0, reduction="mean")
    value = value_of(Relation(**SIDES, distance=25.0, angle=50.0), **features)
    assert of_peer(loss, features) == pytest.approx(value.item(), rel=1e-10)


def test_relation_of_one_sample(value_of: Callable[..., Any]) -> None:
    """Distances there are nan, for the mean of no pairs; the value is 0 here."""
    tensors = {side: torch.randn(1, 4) for side in SIDES}
    loss = peer.RKDLoss("x", "x", dist_factor=1.0, angle_factor=2.0, reduction="mean")
    assert of_peer(loss, tensors) != of_peer(loss, tensors)
    assert value_of(Relation(**SIDES), **tensors) == 0


def test_channel_correlation(value_of: Callable[..., Any], features: dict[str, Tensor]) -> None:
    """ICKD's ChSimLoss divides by B twice; the authors' program, and ``code``, once."""
    value = value_of(ChannelCorrelation(**SIDES, variant="code"), **features)
    loss = peer.ChSimLoss(PAIRS)
    assert 4 * of_peer(loss, features) == pytest.approx(value.item(), rel=1e-10)


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_attention_transfer(
    value_of: Callable[..., Any], features: dict[str, Tensor], variant: str
) -> None:
    loss = peer.ATLoss(PAIRS, mode=variant)
    value = value_of(AttentionTransfer(**SIDES, variant=variant), **features)
    assert of_peer(loss, features) == pytest.approx(value.item(), rel=1e-10)


def test_pkt(value_of: Callable[..., Any], logits: dict[str, Tensor]) -> None:
    """There 1e-7 is added to norms and probabilities, which moves the value by about as much."""
    value = value_of(PKT(**SIDES), **logits)
    assert of_peer(peer.PKTLoss(**PATHS), logits) == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_dist(value_of: Callable[..., Any], logits: dict[str, Tensor], tau: float) -> None:
    loss = peer.DISTLoss(**PATHS, beta=2.0, gamma=0.5, tau=tau)
    value = value_of(DIST(**SIDES, inter=2.0, intra=0.5, tau=tau), **logits)
    assert of_peer(loss, logits) == pytest.approx(value.item(), rel=1e-10)


def test_logit_standardisation(value_of: Callable[..., Any], logits: dict[str, Tensor]) -> None:
    """There the deviation divides by K - 1 and gains 1e-7, and without labels no tau**2."""
    entry = Normalise(of="some.logits", mode="standardise")
    standard = {side: entry.forward(of=x) for side, x in logits.items()}
    tau = 2.0 * (5 / 4) ** 0.5  # K = 5: dividing by K - 1 is a higher temperature
    value = value_of(SoftTarget(**SIDES, tau=tau, scale=False), **standard)
    loss = peer.LogitStdKDLoss(**PATHS, temperature=2.0, alpha=0)
    assert of_peer(loss, logits) == pytest.approx(value.item(), rel=1e-5)


def test_activation_boundary(value_of: Callable[..., Any], features: dict[str, Tensor]) -> None:
    """There all elements of a sample are added up."""
    loss = peer.AltActTransferLoss(PAIRS, margin=1.5, reduction="mean")
    value = value_of(ActivationBoundary(**SIDES, margin=1.5), **features)
    assert of_peer(loss, features) == pytest.approx(6 * 3 * 2 * value.item(), rel=1e-10)


def test_correlation_congruence(value_of: Callable[..., Any], logits: dict[str, Tensor]) -> None:
    """There the norm of the difference, not its square, is divided by B * B."""
    rows = {side: F.normalize(x) for side, x in logits.items()}
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    loss = peer.CCKDLoss("x", "x", kernel_config=kernel, reduction="batchmean")
    value = value_of(CorrelationCongruence(**SIDES), **logits)
    assert of_peer(loss, rows) == pytest.approx(value.sqrt().item() / 6, rel=1e-10)


def test_fsp(value_of: Callable[..., Any], features: dict[str, Tensor]) -> None:
    """There columns of the difference are measured by their norm; the paper squares them."""
    first = features
    second = {side: 2 * x + 1 for side, x in features.items()}
    flow = {side: peer.FSPLoss.compute_fsp_matrix(first[side], second[side]) for side in features}
    value = value_of(
        FSP(**SIDES, student_to="s.late", teacher_to="t.late"),
        **first, student_to=second["student"], teacher_to=second["teacher"],
    )  # fmt: skip
    expected = (flow["student"] - flow["teacher"]).square().mean().item()
    assert value.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("p", [1, 2])
def test_factor_transfer(
    value_of: Callable[..., Any], features: dict[str, Tensor], p: Literal[1, 2]
) -> None:
    """There the norm of order 1 is divided by the number of values."""
    loss = peer.FTLoss(p=p, paraphraser_path="x", translator_path="x")
    value = value_of(FactorTransfer(**SIDES, p=p), **features)
    number = 6 * 3 * 2 if p == 1 else 1
    assert number * of_peer(loss, features) == pytest.approx(value.item(), rel=1e-10)


@pytest.mark.parametrize("exponent", [1.0, 4.0])
def test_log_sum(value_of: Callable[..., Any], logits: dict[str, Tensor], exponent: float) -> None:
    """SRD there is twice this and the divergence, without tau**2, of other tensors."""
    paths = {f"{side}_{what}_module_path": "x" for side in SIDES for what in ("feature", "linear")}
    outs = {path.replace("_path", "_io"): "output" for path in paths}
    loss = peer.SRDLoss(**paths, **outs, exponent=exponent, temperature=2.0)
    near = value_of(LogSum(**SIDES, exponent=exponent), **logits)
    soft = value_of(SoftTarget(**SIDES, tau=2.0, scale=False), **logits)
    expected = 2 * near.item() + soft.item()
    assert of_peer(loss, logits) == pytest.approx(expected, rel=1e-10)


def test_prime_aware(value_of: Callable[..., Any], logits: dict[str, Tensor]) -> None:
    """The logarithms of variances come from a module of their own there."""
    learned = {"expects": torch.randn(5, 5).double(), "bias": torch.randn(5).double()}
    value = value_of(PrimeAware(**SIDES), learned=learned, **logits)
    v = logits["student"] @ learned["expects"].mT + learned["bias"]
    loss = peer.PADL2Loss("x", "x", module_path="v")
    student = {"x": {"output": logits["student"]}, "v": {"output": v}}
    found = loss(student, {"x": {"output": logits["teacher"]}}).item()
    assert found == pytest.approx(value.item(), rel=1e-10)
