"""Losses over class scores, so scaled that the numbers are torchdistill's."""

from __future__ import annotations

from typing import Any

from kdgraph.importers._torchdistill.terms import NOT_HERE, Term, writes
from kdgraph.importers._values import Cannot

LABEL = "label"


@writes("KDLoss", "LogitStdKDLoss")
def kd(term: Term) -> None:
    """``alpha * CE + beta * tau**2 * KL``, and with ``alpha`` 0 the bare ``KL``.

    ``LogitStdKDLoss`` takes the divergence of standardised logits, with the deviation over
    ``K - 1``, which makes them cooler than a deviation over ``K`` would.
    """
    tau = term.number("temperature", 1.0)
    alpha = term.number("alpha", 0.0)
    beta = term.number("beta", 1 - alpha)
    reduction = term.choice("reduction", "batchmean", "batchmean", "mean", "sum")
    sides = term.logits()
    scale: bool | None = False
    told = ""
    if term.key == "LogitStdKDLoss":
        soft_sides = {
            role: term.draft.signal(
                f"{role}_standard", {"use": "normalise", "of": ref, "mode": "standardise"}
            )
            for role, ref in sides.items()
        }
        weight = beta * tau**2 if alpha else 1.0
        told = f"tau is {tau} sqrt(K / (K - 1)): torchdistill's deviation is over K - 1 classes"
        tau *= _cooler(term)
    else:
        soft_sides = sides
        weight, scale = (beta, None) if alpha else (1.0, False)
    if (eps := term.get("eps")) is not None:
        eps.number()
    if alpha:
        _label_edge(term, sides["student"], alpha, "sum" if reduction == "sum" else "mean", "label")
    if weight:
        term.remarks += [told] if told else []
        term.edge(
            "soft_target", soft_sides, weight=weight, tau=tau, scale=scale,
            reduction=_divergence_reduction(term, reduction), part="soft" if alpha else "",
        )  # fmt: skip
    else:
        term.draft.differs(term.at, "the teacher's part", "its factor 1 - alpha is 0")


def _cooler(term: Term) -> float:
    classes = term.classes()
    if classes is None or classes < 2:
        raise Cannot("its temperature depends on the number of classes, which is not written")
    return float((classes / (classes - 1)) ** 0.5)


def _divergence_reduction(term: Term, theirs: str) -> str | None:
    """That of ``soft_target`` for one of ``nn.KLDivLoss``."""
    if theirs == "mean":
        return "element"
    if theirs == "sum":
        return "sum"
    whole = all(s.network.kind in ("image", "text") for s in term.sides.values())
    return None if whole else "batchmean"  # of [B, K] both are the same


def _label_edge(term: Term, student: str, weight: float, reduction: str, part: str = "") -> None:
    """Cross entropy, with the arguments of torch's class."""
    more: dict[str, Any] = {"reduction": None if reduction == "mean" else reduction}
    for theirs, ours in (
        ("ignore_index", "ignore_index"),
        ("label_smoothing", "smoothing"),
        ("weight", "class_weights"),
    ):
        if (at := term.get(theirs)) is not None:
            more[ours] = at.read()
    term.edge(
        "cross_entropy", {"student": student, "target": LABEL}, weight=weight, part=part, **more
    )


@writes("CrossEntropyLoss")
def cross_entropy(term: Term) -> None:
    """With labels, or with the other side's values as probabilities."""
    reduction = term.choice("reduction", "mean", "mean", "sum")
    for part, student, target, factor in _wrapped(term):
        if target is None:
            _label_edge(term, student, factor, reduction, part)
        else:
            kind = None if reduction == "mean" else reduction
            sides = {"student": student, "target": target}
            term.edge("cross_entropy", sides, weight=factor, part=part, reduction=kind)


def _wrapped(term: Term) -> list[tuple[str, str, str | None, float]]:
    """Name, input, target (None: the labels) and factor, as the loss's wrapper says."""
    wrapper = term.wrapper
    if wrapper is None:
        return [("", term.bare(term.side("student").place(".")), None, 1.0)]
    student = term.bare(wrapped_place(term, "input"))
    target = wrapper.get("target")
    ref = None
    if target is not None and target.get("module_path") is not None:
        ref = term.bare(wrapped_place(term, "target"))
    elif target is not None:
        target.read()
    weights = wrapper.get("weights")
    if weights is None:
        return [("", student, ref, 1.0)]
    found = []
    model, text = student.partition(".")[0], term.draft.text(student)
    root = text.removesuffix(".out") if text == "output.out" else text
    written = weights.items()
    for key, factor in written:
        part = key if len(written) > 1 else ""
        found.append((part, term.draft.tap(model, f"{root}.{key}"), ref, float(factor.number())))
    return found


def wrapped_place(term: Term, name: str) -> Any:
    """The place of ``input`` or ``target`` of a wrapper."""
    assert term.wrapper is not None
    half = term.wrapper.need(name)
    teacher = half.get("is_from_teacher")
    role = "teacher" if teacher is not None and teacher.flag() else "student"
    return term.side(role).at(half.need("module_path"), half.get("io"))


@writes("DISTLoss", "DISTPlusLoss")
def dist(term: Term) -> None:
    """The same formula; of DIST+ the part over logits."""
    plus = term.key == "DISTPlusLoss"
    sides = term.logits("logit_" if plus else "")
    if (eps := term.get("eps")) is not None:
        eps.number()
    more: dict[str, Any] = {
        "tau": term.number("tau", 1.0),
        "inter": term.number("beta", 1.0),
        "intra": term.number("gamma", 1.0),
    }
    if plus:
        term.differs("no edge has its two correlations of features (iota, kappa)")
    term.edge("dist", sides, **more)


@writes("SRDLoss")
def srd(term: Term) -> None:
    """Twice the logarithm of the distance, and the divergence without ``tau**2``."""
    exponent = term.number("exponent", 1.0)
    tau = term.number("temperature", 1.0)
    reduction = term.choice("reduction", "batchmean", "batchmean", "mean", "sum")
    features = {}
    for role in ("student", "teacher"):
        names = f"{role}_feature_module_path", f"{role}_feature_module_io"
        features[role] = term.bare(term.place(role, *names))
    term.edge("log_sum", features, weight=2.0, exponent=exponent, part="features")
    term.edge(
        "soft_target", term.logits("linear_"), tau=tau, scale=False,
        reduction=_divergence_reduction(term, reduction),
    )  # fmt: skip


@writes("SKDInstanceLoss")
def skd_instance(term: Term) -> None:
    """As the paper has it: the divergence, without ``tau**2``."""
    if term.choice("mode", "paper", "paper", "code") == "code":
        raise Cannot("its program leaves out the half of the rows that the teacher is surer of")
    tau = term.number("temperature", 4.0)
    term.edge("soft_target", term.logits(), tau=tau, scale=False)


NOT_HERE |= {
    "SKDDirectionLoss": "no edge takes the Mahalanobis length of a difference of similarities",
    "CRDLoss": "it needs memory banks of all samples, which no edge has",
    "SSKDLoss": "it needs rotated copies of each image and a self-supervised head on both sides",
    "AuxSSKDLoss": "it trains a self-supervised head on the teacher",
}
