"""Training without the teachers: their side by itself, and the spec with a book in its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import nn

from kdgraph.book import Book, Column
from kdgraph.book.origin import described, weights
from kdgraph.errors import BookError, Diagnostic, near
from kdgraph.graph import DistillGraph
from kdgraph.networks import build_networks, capture_networks, refuse
from kdgraph.passes.base import Context, Pass
from kdgraph.passes.inline_models import inline_models
from kdgraph.passes.manager import run_passes
from kdgraph.passes.pipeline import pipeline
from kdgraph.runtime.lower import lower
from kdgraph.runtime.teachers import TeachersModule
from kdgraph.spec.booked import teachers_side, with_book
from kdgraph.spec.files import check_weights
from kdgraph.spec.frontier import stored
from kdgraph.spec.language import Spec


def compile_teachers(
    spec: Spec,
    references: Collection[str],
    *,
    models: Mapping[str, nn.Module] | None = None,
    trust: Collection[str] = (),
    without: Collection[str] = (),
    also: Collection[str] = (),
) -> TeachersModule:
    """Compiles what gives the values of some references, by the passes of a training step.

    Args:
        spec: a checked spec.
        references: taps of frozen models, and signals.
        models: modules to use instead of what the spec's ``source`` names.
        trust: Python modules that ``python/`` sources may come from.
        without: optional passes to leave out, by name.
        also: optional passes to run that are off unless asked for, by name.

    Raises:
        KDGraphError: with every mistake found, each with its place in the spec.
    """
    side = teachers_side(spec, references)
    given = {name: net for name, net in (models or {}).items() if name in side.models}
    refuse(check_weights(side, given=given))
    nets = build_networks(side, given, trust)

    def gather(graph: DistillGraph, context: Context) -> DistillGraph:
        """``taps, signals`` -> ``{reference: value}``."""
        named = graph.named()
        if not context.diagnostics:
            graph.output.args = ({ref: named[ref] for ref in references},)
        return graph

    order = [Pass(p.name, gather) if p.name == "attach_losses" else p
             for p in pipeline(without, also)]  # fmt: skip
    graph = inline_models(side, capture_networks(side, nets))
    graph, _ = run_passes(graph, order, Context(side))
    return TeachersModule(side, lower(graph), nets)


def open_book(book: Book | str | Path) -> Book:
    """A book, opened unless it is open.

    Raises:
        BookError: KD761 or KD762 when there is none that can be read.
    """
    return book if isinstance(book, Book) else Book.open(book)


def columns_of(spec: Spec, book: Book) -> list[Column]:
    """The columns of a book that a spec reads, in its order.

    Raises:
        BookError: KD760 where there are none, KD763 for each that the book does not have.
    """
    wanted = stored(spec)
    if not wanted:
        message = "no edge reads anything that a book could hold"
        raise BookError.of("KD760", message, span=spec.span("losses"))
    have = {column.name: column for column in book.columns}
    missing = [ref for ref in wanted if ref not in have]
    if missing:
        raise BookError(
            Diagnostic(
                "KD763",
                f"the book in {str(book.path)!r} holds no {ref!r}",
                spec.key_span("book", "store", ref),
                near(ref, have) or f"it holds {', '.join(have)}; build it again",
            )
            for ref in missing
        )
    return [have[ref] for ref in wanted]


def in_place_of_teachers(
    spec: Spec, book: Book, models: Mapping[str, nn.Module] | None = None
) -> Spec:
    """The spec that takes values of a book from the batch (``with_book``), if they are its own.

    Args:
        spec: a checked spec.
        book: what holds the values.
        models: modules at hand. Those of teachers are compared with what the book was made of.

    Raises:
        BookError: KD760 or KD763, with what the spec or a teacher has otherwise than the book.
    """
    columns = columns_of(spec, book)
    references = [column.name for column in columns]
    side = teachers_side(spec, references)
    given = {name: net for name, net in (models or {}).items() if name in side.models}
    book.check(described(spec, references) | weights(side, given))
    return with_book(spec, columns)
