"""``criterion``: a weighted sum of terms, in torchdistill's present words and its earlier ones."""

from __future__ import annotations

from dataclasses import dataclass

from kdgraph.errors import near
from kdgraph.importers._draft import Draft
from kdgraph.importers._tagged import At
from kdgraph.importers._torchdistill import feature_terms, logit_terms
from kdgraph.importers._torchdistill.terms import NOT_HERE, TERMS, Sides, Term, tidy
from kdgraph.importers._values import Cannot

_SUMS = ("WeightedSumLoss", "GeneralizedCustomLoss")
_OWN = "a spec names every loss itself"
_WRAPPERS = ("SimpleLossWrapper", "DictLossWrapper")
_VOCABULARY = (feature_terms, logit_terms)  # which filled TERMS


def read_criterion(at: At, sides: Sides, batch_size: int | None, draft: Draft) -> list[str]:
    """Adds the edges of a stage; their names.

    Args:
        at: the criterion.
        sides: teacher and student of the stage.
        batch_size: rows of a batch, where they are written.
        draft: what the edges go into.

    Raises:
        SpecError: KD123 or KD124; it is no criterion.
    """
    key = at.need("key", "type").text()
    sum_of = Sum(sides, batch_size, draft)
    if key not in _SUMS:
        return sum_of.term("loss", at, at)
    draft.carry(at, "the weighted sum of losses")
    made: list[str] = []
    inner = at.get("kwargs", "params")
    for part in (inner, at):
        if part is None:
            continue
        part.ledger.take(part.path)
        if (own := part.get("org_term")) is not None:
            made += sum_of.whole(own)
        if (terms := part.get("sub_terms")) is not None:
            for name, config in terms.items():
                made += sum_of.term(name, config, config.need("criterion"))
        if (model_term := part.get("model_term")) is not None:
            _model_term(model_term, draft)
    for name in ("func2extract_model_loss", "func2extract_org_loss"):
        if (function := at.get(name)) is not None:
            draft.leave(function, "a function of code", "it would have to be run")
    return made


def _factor(config: At) -> float:
    at = config.get("weight", "factor")
    return float(at.number()) if at is not None else 1.0


def _model_term(at: At, draft: Draft) -> None:
    weight = at.get("weight")
    if weight is not None and weight.read() == 0:
        draft.carry(at, "nothing: its weight is 0", whole=True)
    else:
        draft.leave(at, "the model's own loss", _OWN, "losses")


@dataclass(frozen=True)
class Sum:
    """A weighted sum on its way into a draft; see ``read_criterion``."""

    sides: Sides
    batch_size: int | None
    draft: Draft

    def whole(self, at: At) -> list[str]:
        """``org_term`` of earlier files: a loss of the models' whole outputs and the labels."""
        criterion = at.get("criterion")
        if _factor(at) == 0:
            self.draft.carry(at, "nothing: its factor is 0", whole=True)
            return []
        if criterion is None:
            self.draft.leave(at, "the model's own loss", _OWN, "losses")
            return []
        return self.term("org", at, criterion, whole=True)

    def term(self, name: str, at: At, criterion: At, *, whole: bool = False) -> list[str]:
        """The edges of one term; none where no edge is like it, which the report then says."""
        key = criterion.need("key", "type", "name").text()
        before, told = set(self.draft.losses), len(self.draft.left)
        kwargs = criterion.get("kwargs", "params")
        term = Term(
            name, key, at, kwargs, None, 1.0, self.sides, self.batch_size, self.draft, whole
        )
        try:
            if criterion.path != at.path:
                term.weight, term.wrapper = _factor(at), _wrapper(at)
            if key not in TERMS:
                raise Cannot(NOT_HERE.get(key) or _unknown(key))
            TERMS[key](term)
        except Cannot as why:
            for edge in set(self.draft.losses) - before:
                del self.draft.losses[edge]
            del self.draft.left[told:]
            what = f"{name} ({key}, weight {tidy(term.weight)})"
            self.draft.leave(at, what, str(why), "losses")
            return []
        for part in (at, criterion, kwargs):
            if part is not None:
                part.ledger.take(part.path)
        self.draft.carry(at, ", ".join(f"losses.{edge}" for edge in term.made) or "nothing")
        for child in kwargs.inner() if kwargs is not None else []:
            for missed in child.ledger.missed(child):
                why_not = "it changes nothing there, or is not known"
                self.draft.leave(missed, f"an argument of {key}", why_not)
        return term.made


def _wrapper(at: At) -> At | None:
    """The arguments of a wrapper that says what a loss reads; earlier files have them bare."""
    wrapper = at.get("criterion_wrapper")
    if wrapper is None:
        return at.get("params", "kwargs")
    key = wrapper.need("key", "type").text()
    if key not in _WRAPPERS:
        raise Cannot(f"the wrapper {key} is not known; {near(key, _WRAPPERS) or 'it is code'}")
    wrapper.ledger.take(wrapper.path)
    return wrapper.get("kwargs", "params")


def _unknown(key: str) -> str:
    hint = near(key, {*TERMS, *NOT_HERE})
    return f"nothing is known of it{'; ' + hint if hint else ', it may be code of the user'}"
