"""Losses over features and relations, so scaled that the numbers are torchdistill's.

Where the formulas differ, the edge is the method's own and the report says what is not the same.
"""

from __future__ import annotations

from typing import Any

from kdgraph.importers._torchdistill.logit_terms import LABEL, wrapped_place
from kdgraph.importers._torchdistill.sides import Place
from kdgraph.importers._torchdistill.terms import NOT_HERE, Term, writes
from kdgraph.importers._values import Cannot


@writes("MSELoss", "L1Loss")
def distance(term: Term) -> None:
    """Squared or absolute differences, of one side with the other."""
    reduction = term.choice("reduction", "mean", "mean", "sum")
    if term.wrapper is None:
        raise Cannot("it has no wrapper that says what it compares")
    target = term.wrapper.get("target")
    if target is None or target.get("module_path") is None:
        raise Cannot(f"no edge compares scores with {LABEL!r} that is a number")
    one, other = (wrapped_place(term, n) for n in ("input", "target"))
    roles = [place.ref.partition(".")[0] for place in (one, other)]
    if roles[0] == roles[1]:
        raise Cannot(f"it compares two places of the {roles[0]}")
    student, teacher = (one, other) if roles[0] == "student" else (other, one)
    kind = None if reduction == "mean" else reduction
    scores = student.added is None and all(
        term.draft.text(place.ref) == term.sides[role].network.output
        for place, role in ((student, "student"), (teacher, "teacher"))
    )
    if term.key == "L1Loss":
        if not scores:
            raise Cannot("no edge takes absolute differences of features")
        term.edge("logit_mae", term.joined(student, teacher), reduction=kind)
    else:
        use = "logit_mse" if scores else "hint"
        term.edge(use, term.joined(student, teacher), reduction=kind)


@writes("ATLoss")
def attention(term: Term) -> None:
    """One edge for each pair."""
    mode = term.choice("mode", "code", "code", "paper")
    for part, student, teacher, factor in term.pairs("at_pairs"):
        variant = None if mode == "code" else mode
        sides = term.joined(student, teacher)
        term.edge("attention_transfer", sides, weight=factor, part=part, variant=variant)


@writes("FSPLoss")
def fsp(term: Term) -> None:
    """Four places for each pair."""
    at = term.get("fsp_pairs")
    if at is None:
        raise Cannot("it has no fsp_pairs")
    term.differs(
        "it adds up the norms of the columns of the difference; `fsp` is the mean of its squares, "
        "as in the paper, so another weight suits it"
    )
    written = at.items()
    for name, pair in written:
        refs = {}
        for role in ("student", "teacher"):
            for end, key in (("first", role), ("second", f"{role}_to")):
                half = pair.need(f"{role}_{end}")
                place = term.side(role).at(half.need("path"), half.get("io"))
                refs[key] = term.bare(place)
        factor = pair.get("weight", "factor")
        number = factor.number() if factor is not None else 1.0
        term.edge("fsp", refs, weight=number, part=name if len(written) > 1 else "")


def _outputs(term: Term, what: str) -> tuple[Place, Place]:
    """Student and teacher, of losses that always read outputs."""
    return (
        term.place("student", f"student_{what}_path"),
        term.place("teacher", f"teacher_{what}_path"),
    )


@writes("PKTLoss")
def pkt(term: Term) -> None:
    """The same but for the constant that keeps logarithms finite, which is 1e-7 on both sides."""
    if term.number("eps", 1e-7) > 1e-6:
        term.differs("its eps is larger than the 1e-7 of `pkt`")
    term.edge("pkt", term.logits())


@writes("RKDLoss")
def relation(term: Term) -> None:
    """The same; distances and angles have a factor each."""
    term.choice("reduction", "mean", "mean")
    factors: dict[str, Any] = {
        "distance": term.number("dist_factor", 0.0),
        "angle": term.number("angle_factor", 0.0),
    }
    term.edge("relation", term.joined(*_outputs(term, "output")), **factors)


@writes("SPKDLoss")
def similarity(term: Term) -> None:
    """The paper's, whose rows have length 1; torchdistill divides them by their sum."""
    term.differs(
        "it divides each row of similarities by the sum of its magnitudes; `similarity` by its "
        "length, as in the paper, so another weight suits it"
    )
    term.choice("reduction", "batchmean", "batchmean")
    term.edge("similarity", term.joined(*_outputs(term, "output")))


@writes("CCKDLoss")
def correlation(term: Term) -> None:
    """The paper's."""
    student, teacher = _outputs(term, "linear")
    sides = term.joined(student, teacher)
    kernel = term.get("kernel_config", "kernel_params")
    if kernel is None:
        raise Cannot("it has no kernel_config")
    kind = kernel.need("type", "key").text()
    more: dict[str, Any] = {"variant": "bilinear"}
    if kind == "gaussian":
        more = {"gamma": kernel.need("gamma").number(), "order": kernel.need("max_p").count()}
    elif kind != "bilinear":
        raise Cannot(f"its kernel {kind!r} is not one of gaussian, bilinear")
    term.choice("reduction", "batchmean", "batchmean", "none")
    term.differs(
        "it takes the norm of the difference, of features as they are; `correlation_congruence` "
        "its mean square, of features of length 1, so another weight suits it"
    )
    term.edge("correlation_congruence", sides, **more)


@writes("AltActTransferLoss")
def boundary(term: Term) -> None:
    """A sum over all values of a sample; ``batchmean`` adds up pixels, the weight channels."""
    margin = term.number("margin", 1.0)
    reduction = term.choice("reduction", "mean", "mean", "sum")
    for part, student, teacher, factor in term.pairs("feature_pairs"):
        channels = student.added.channels if student.added is not None else None
        if channels is None:
            term.differs("it adds up the channels, whose number is not written; here is their mean")
        else:
            term.remarks.append(f"the weight is times the {channels} channels, which are added up")
        term.edge(
            "activation_boundary", term.joined(student, teacher), weight=factor * (channels or 1),
            part=part,
            margin=margin, reduction="batchmean" if reduction == "mean" else "sum",
        )  # fmt: skip


@writes("VIDLoss")
def vid(term: Term) -> None:
    """The regressor is the adapter, the variance the edge's own."""
    for part, student, teacher, factor in term.pairs("feature_pairs"):
        if student.added is None:
            raise Cannot("its student's side is not a regressor of VariationalDistributor4VID")
        term.edge("vid", term.joined(student, teacher), weight=factor, part=part)


@writes("ChSimLoss")
def channels(term: Term) -> None:
    """The authors' program, divided by B once more."""
    for part, student, teacher, factor in term.pairs("feature_pairs"):
        if term.batch_size is None:
            term.differs("it is divided by the number of rows, which is not written")
        else:
            term.remarks.append(f"the weight is divided by the {term.batch_size} rows of a batch")
        sides = term.joined(student, teacher)
        share = factor / (term.batch_size or 1)
        term.edge("channel_correlation", sides, weight=share, part=part, variant="code")


@writes("FTLoss", "KTALoss")
def factors(term: Term) -> None:
    """Directions of features; the norm of order 1 is a mean over their values there."""
    order = term.number("p", 1)
    reduction = term.choice("reduction", "mean", "mean", "sum")
    if order not in (1, 2) or term.number("q", 2) != 2:
        raise Cannot("`factor_transfer` has p 1 or 2, of features whose length is 1")
    names = ("feature_adapter_path", "knowledge_translator_path")
    if term.key == "FTLoss":
        names = ("translator_path", "paraphraser_path")
    places = []
    for role, name, default in zip(
        ("student", "teacher"), names, ("translator", "paraphraser"), strict=True
    ):
        at = term.get(name)
        side = term.side(role)
        places.append(side.at(at, None) if at is not None else side.place(default))
    sides = term.joined(places[0], places[1])
    if order == 1 and reduction == "mean":
        term.differs("it divides the norm by the number of values of a sample; here it is whole")
    kind = None if reduction == "mean" else "sum"
    term.edge("factor_transfer", sides, p=int(order), reduction=kind)


@writes("HierarchicalContextLoss")
def hierarchical(term: Term) -> None:
    """The student's side is the first of two results there."""
    term.choice("reduction", "mean", "mean")
    student = term.place("student", "student_module_path", "student_module_io")
    teacher = term.place("teacher", "teacher_module_path", "teacher_module_io")
    text = term.draft.text(term.bare(student))
    first = term.draft.tap("student", f"{text}[0][0]" if text.endswith(":in") else f"{text}[0]")
    sizes = term.get("output_sizes")
    value = sizes.read() if sizes is not None else None
    sides = {"student": first, "teacher": term.bare(teacher)}
    term.edge("hierarchical", sides, sizes=value)


@writes("RegularizationLoss")
def norm(term: Term) -> None:
    """The sum of magnitudes; norms of other orders are of the whole batch at once."""
    at = term.get("is_from_teacher")
    if at is not None and at.flag():
        raise Cannot("it keeps values of the teacher small")
    if term.number("p", 1) != 1:
        raise Cannot("no edge takes a norm of another order than 1 of a whole batch")
    place = term.place("student", "module_path", "io_type")
    term.edge("activation_norm", {"student": term.bare(place)}, reduction="sum")


@writes("PADL2Loss")
def prime_aware(term: Term) -> None:
    """The layer that tells variances belongs to the edge here."""
    refs = {}
    for role in ("student", "teacher"):
        names = f"{role}_embed_module_path", f"{role}_embed_module_io"
        place = term.place(role, *names)
        ref = term.bare(place)
        if term.draft.text(ref).endswith("avgpool"):
            ref = term.draft.signal(f"{role}_vector", {"use": "pool", "of": ref})
        refs[role] = ref
    for name in ("module_path", "module_io", "eps"):
        if (at := term.get(name)) is not None:
            at.read()
    kind = None if term.choice("reduction", "mean", "mean", "sum") == "mean" else "sum"
    term.differs("its layer for variances has a batch norm behind it; that of the edge has none")
    term.edge("prime_aware", refs, reduction=kind)


NOT_HERE |= {
    "AffinityLoss": "no edge compares the pixels' affinities of each channel by itself",
    "KLDivLoss": "it takes values for logarithms of probabilities as they are",
    "SmoothL1Loss": "no edge is a smooth L1 distance",
}
