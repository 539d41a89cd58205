"""What a warning is, and what it may look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from kdgraph.errors import Diagnostic, Span
from kdgraph.graph.cost import CannotRun
from kdgraph.graph.example import example_batch
from kdgraph.graph.reach import Reach, reaches
from kdgraph.registry import Registry
from kdgraph.runtime.report import Report
from kdgraph.spec.language import Spec
from kdgraph.spec.shapes import Shape
from kdgraph.visual.costs import batch_rows
from kdgraph.visual.start import Start
from kdgraph.visual.words import named_shape

Needs = Literal["plan", "reach", "start"]


@dataclass
class Sight:
    """A plan, and what has been worked out about it.

    Attributes:
        report: of a plan or a compilation.
        rows: in the batch of training; None where nothing says how many.
        start: the values of the edges before the first step; None where nobody has asked.
        blind: why ``reach`` is empty, once it was asked for.
    """

    report: Report
    rows: int | None = None
    start: Start | None = None
    blind: str | None = field(default=None, init=False)

    @property
    def spec(self) -> Spec:
        """The spec, of one stage."""
        return self.report.spec

    @property
    def edges(self) -> dict[str, Any]:
        """The loss edges (``Loss``) that count: all but those whose weight is the number 0."""
        return {n: e for n, e in self.spec.losses.items() if e.weight != 0}

    @cached_property
    def reach(self) -> dict[str, Reach]:
        """Where each tap lies; empty where the models do not run on fake tensors."""
        graph = next(r.after for r in self.report.records if r.name == "resolve_taps")
        try:
            return reaches(graph, example_batch(self.spec))
        except CannotRun as reason:
            self.blind = str(reason)
            return {}

    def shape(self, reference: str) -> Shape | None:
        """The shape of a value at the example batch."""
        return named_shape(self.report, reference)

    def models_behind(self, reference: str) -> list[str]:
        """The models that a value is made of, in the order of the spec."""
        owners = {ref.partition(".")[0] for ref in self.behind(reference)}
        return [name for name in self.spec.models if name in owners]

    def batch_behind(self, reference: str) -> list[str]:
        """The batch entries that a value is made of by signals, in the order of the spec."""
        found = self.behind(reference)
        return [name for name in self.spec.batch if name in found]

    def behind(self, reference: str) -> set[str]:
        """The taps and batch entries that a value is made of, through links and signals."""
        found: set[str] = set()
        waiting = [reference]
        while waiting:
            ref = waiting.pop()
            owner, _, side = ref.partition(".")
            if owner in self.spec.links:
                waiting.append(str(getattr(self.spec.links[owner], side)))
            elif owner in self.spec.signals:
                waiting += [r for _, r in self.spec.signals[owner].references()]
            else:
                found.add(ref)
        return found


Find = Callable[[Sight], Iterator[Diagnostic]]


@dataclass(frozen=True)
class Advice:
    """A registered warning.

    Attributes:
        name: what it is about.
        code: of its diagnostics, KD6xx.
        run: finds it.
        needs: ``plan``: what a check has anyway; ``reach``: a run of the models on fake tensors;
            ``start``: a step of training.
    """

    name: str
    code: str
    run: Find
    needs: Needs


ADVICE: Registry[Advice] = Registry("warning", "kdgraph.visual.advice")
Say = Callable[[str, Span | None, str], Diagnostic]


def register_advice(
    name: str, code: str, *, needs: Needs = "plan"
) -> Callable[[Callable[[Sight, Say], Iterator[Diagnostic]]], Find]:
    """Makes a function known as a warning; it is given ``say(message, span, help)``."""

    def register(run: Callable[[Sight, Say], Iterator[Diagnostic]]) -> Find:
        def say(message: str, span: Span | None, help: str) -> Diagnostic:
            return Diagnostic(code, message, span, help, severity="warning")

        def find(sight: Sight) -> Iterator[Diagnostic]:
            return run(sight, say)

        find.__doc__, find.__module__ = run.__doc__, run.__module__
        ADVICE.add(name, Advice(name, code, find, needs))
        return find

    return register


def advise_of_plan(report: Report) -> list[Diagnostic]:
    """What there is to say of a plan without running anything: what ``kdgraph check`` shows."""
    rows, origin = batch_rows(report.spec)
    return advise(Sight(report, rows if origin != "example" else None), "plan")


def advise(sight: Sight, *needs: Needs) -> list[Diagnostic]:
    """What there is to say, by code; only warnings of these ``needs``, where any are given."""
    found = [a for _, a in ADVICE.items() if not needs or a.needs in needs]
    return [d for a in sorted(found, key=lambda a: a.code) for d in a.run(sight)]
