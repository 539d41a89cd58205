"""Training without the teachers: their side by itself, and the spec with a book in its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from kdgraph.book import Book, Column
from kdgraph.book.origin import described, weights
from kdgraph.errors import BookError, Diagnostic, near, refuse
from kdgraph.graph import DistillGraph
from kdgraph.networks import build_networks, capture_networks
from kdgraph.passes.base import PASSES, Context, Pass
from kdgraph.passes.inline_models import inline_models
from kdgraph.passes.manager import run_passes
from kdgraph.passes.pipeline import pipeline
from kdgraph.runtime.lower import lower
from kdgraph.runtime.teachers import TeachersModule
from kdgraph.spec.booked import book_entries, teachers_side, with_book
from kdgraph.spec.files import check_weights
from kdgraph.spec.frontier import stored, why_nothing
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
    return TeachersModule(side, lower(_gathered(side, nets, references, without, also)), nets)


def plan_teachers(
    spec: Spec, references: Collection[str], *, trust: Collection[str] = ()
) -> DistillGraph:
    """The graph that gives the values of some references as a mapping; it has no weights.

    Args are those of ``compile_teachers``.

    Raises:
        KDGraphError: with every mistake found, each with its place in the spec.
    """
    side = teachers_side(spec, references)
    nets = build_networks(side, {}, trust, skeleton=True)
    return _gathered(side, nets, references, PASSES.names(), (), skeleton=True)


def _gathered(
    side: Spec, nets: Mapping[str, nn.Module], references: Collection[str],
    without: Collection[str], also: Collection[str], *, skeleton: bool = False,
) -> DistillGraph:  # fmt: skip
    def gather(graph: DistillGraph, context: Context) -> DistillGraph:
        """``taps, signals`` -> ``{reference: value}``."""
        named = graph.named()
        if not context.diagnostics:
            graph.output.args = ({ref: named[ref] for ref in references},)
        return graph

    order = [Pass(p.name, gather) if p.name == "attach_losses" else p
             for p in pipeline(without, also)]  # fmt: skip
    graph = inline_models(side, capture_networks(side, nets))
    return run_passes(graph, order, Context(side, skeleton=skeleton))[0]


@dataclass(frozen=True)
class Pages:
    """What a book holds of rows, as the batch entries of a step that was compiled with it.

    ``step(image=x, label=y, **step.book(ids, view))``

    Attributes:
        book: where it is kept.
        entries: the batch entry of each value, by the name that ``Book.rows`` gives it.
    """

    book: Book
    entries: Mapping[str, str]

    def __call__(self, ids: Tensor, view: int | Tensor = 0) -> dict[str, Tensor]:
        """The values of some rows, by entry, each [B, ...] on the CPU.

        Args:
            ids: [B] int64, the numbers of the rows in the training part, before it is shuffled.
            view: which view of them.

        Raises:
            BookError: KD764 for a row or a view that the book does not have.
        """
        found = self.book.rows(ids, view)
        return {entry: found[name] for name, entry in self.entries.items()}


def pages(spec: Spec, book: Book) -> Pages:
    """What the book holds of rows for a spec (``columns_of``)."""
    return Pages(book, book_entries(spec, columns_of(spec, book)))


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
        raise BookError.of("KD760", message, span=spec.span("losses"), help=why_nothing(spec))
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
    spec: Spec, book: Book, models: Mapping[str, nn.Module]
) -> tuple[Spec, dict[str, nn.Module]]:
    """The spec that takes values of a book from the batch, if they are its own.

    Args:
        spec: a checked spec.
        book: what holds the values.
        models: modules at hand. Those of teachers are compared with what the book was made of.

    Returns:
        The spec (``with_book``), and the modules of the models that it has left.

    Raises:
        BookError: KD760 or KD763, with what the spec or a teacher has otherwise than the book.
    """
    columns = columns_of(spec, book)
    references = [column.name for column in columns]
    side = teachers_side(spec, references)
    given = {name: net for name, net in models.items() if name in side.models}
    book.check(described(spec, references) | weights(side, given))
    found = with_book(spec, columns)
    gone = spec.models.keys() - found.models.keys()
    return found, {name: net for name, net in models.items() if name not in gone}
