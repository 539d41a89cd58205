"""From a spec to a module: the whole flow on one page."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kdgraph.book import Book
from kdgraph.builder import Builder
from kdgraph.errors import Diagnostic, KDGraphError, refuse
from kdgraph.graph.ranks import world_size
from kdgraph.networks import build_networks
from kdgraph.passes.base import Pass
from kdgraph.passes.pipeline import ACROSS, pipeline
from kdgraph.runtime.built import Built
from kdgraph.runtime.module import DistillModule
from kdgraph.runtime.report import Report
from kdgraph.runtime.stages import Stages
from kdgraph.spec.files import check_weights
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import stage_of
from kdgraph.spec.read import diagnose, load_spec
from kdgraph.teachers import in_place_of_teachers, open_book, pages
from kdgraph.visual import Drawing, bundle
from kdgraph.visual.advice import advise_of_plan

Source = str | Path | Mapping[str, Any] | Spec


def compile(
    spec: Source,
    *,
    models: Mapping[str, nn.Module] | None = None,
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    without: Collection[str] = (),
    also: Collection[str] = (),
    book: Book | str | Path | None = None,
) -> DistillModule:
    """Compiles a spec into the module that a trainer steps.

    Args:
        spec: a path, YAML text, a mapping of the same form, or a ``Spec``.
        models: modules to use instead of what the spec's ``source`` names. The student is
            trained in place; models that are not trained are frozen and set to eval, but for what
            ``dropout: true`` keeps random.
        trust: Python modules that ``python/`` sources may come from.
        set: overrides like ``losses.soft.tau=2``.
        without: optional passes to leave out, by name.
        also: optional passes to run that are off unless asked for, by name.
        book: of what teachers say, or its folder: values that it holds are batch entries
            (``step.book(ids, view)`` gives them), and their teachers are not built. Modules of
            such teachers among ``models`` are only compared with those that the book was made of.

    Raises:
        KDGraphError: with every mistake found, each with its place in the spec.
    """
    start = time.perf_counter()
    checked = load_spec(spec, set=set) if not isinstance(spec, Spec) else spec
    given, rows = dict(models or {}), None
    if book is not None:
        rows = pages(checked, open_book(book))
        checked, given = in_place_of_teachers(checked, rows.book, given)
    refuse(check_weights(checked, given=given))
    nets = build_networks(checked, given, trust)
    also = [also] if isinstance(also, str) else [*also]
    also += [ACROSS] if world_size() > 1 else []
    builder = Builder(nets, pipeline(without, also), start)

    stages: Stages | None = None
    if checked.stages:
        stages = Stages(checked, nets, builder.build, builder.parts)
        stages.move(next(stages.legs()))
    built = builder.build(checked) if stages is None else stages.built()
    # no closure: a copy of the step has to plan anew over its own networks
    share = partial(_shared, builder, checked, stages, pipeline(without, [*also, ACROSS]))
    return DistillModule(built, nets, stages, book=rows, shown=bundle, share=share)


def _shared(builder: Builder, spec: Spec, stages: Stages | None, passes: Sequence[Pass]) -> Built:
    """A step planned once more, to share batches with other processes."""
    builder.order = passes
    return builder.build(spec) if stages is None else stages.rebuilt()


def check(
    spec: Source,
    *,
    models: Mapping[str, nn.Module] | None = None,
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    shapes: bool = True,
) -> list[Diagnostic]:
    """Everything wrong with a spec, and warnings; loads no weights and computes nothing.

    Of what is unwise (KD6xx) it tells what the plans show; ``kdgraph explain`` tells all.
    ``shapes=False`` stops after the text and its references, which needs no torch models.
    """
    try:
        checked, found = (spec, []) if isinstance(spec, Spec) else diagnose(spec, set=set)
        if checked is None:
            return found
        found = [*found, *check_weights(checked, given=models or {})]
        if shapes:
            reports = plans(checked, models=models, trust=trust)
            found += dict.fromkeys(d for report in reports for d in advise_of_plan(report))
    except KDGraphError as error:
        return [*found, *error.diagnostics]
    return found


def plan(
    spec: Source,
    *,
    models: Mapping[str, nn.Module] | None = None,
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    without: Collection[str] = (),
    also: Collection[str] = (),
    stage: str | None = None,
    book: Book | str | Path | None = None,
) -> Report:
    """The compiled graph without the weights: what ``check``, ``explain`` and ``draw`` read.

    Args are those of ``compile``, and:
        stage: which, ``STAGE`` or ``STAGE.PHASE``; left out: the first, if there are any.

    Raises:
        KDGraphError: as ``compile``.
    """
    found = plans(
        spec, models=models, trust=trust, set=set, without=without, also=also,
        stage=stage, book=book,
    )  # fmt: skip
    return next(found)


def plans(
    spec: Source,
    *,
    models: Mapping[str, nn.Module] | None = None,
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    without: Collection[str] = (),
    also: Collection[str] = (),
    stage: str | None = None,
    book: Book | str | Path | None = None,
) -> Iterator[Report]:
    """The plan of every stage, one after the other, or of one; Args are those of ``plan``.

    With each report the networks are as they are in its stage; once the next is asked for, they
    may be others. After the last, the actions behind it are looked at as well.

    Raises:
        KDGraphError: as ``compile``, for any stage.
    """
    start = time.perf_counter()
    checked = load_spec(spec, set=set) if not isinstance(spec, Spec) else spec
    given = dict(models or {})
    if book is not None:
        checked, given = in_place_of_teachers(checked, open_book(book), given)
    if stage is not None:
        stage_of(checked, stage)
    nets = build_networks(checked, given, trust, skeleton=True)
    builder = Builder(nets, pipeline(without, also), start, skeleton=True)
    for _, report in builder.plans(checked, None if stage is None else [stage]):
        yield report


def draw(
    what: Source | DistillModule,
    *,
    depth: int = 0,
    models: Mapping[str, nn.Module] | None = None,
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    without: Collection[str] = (),
    also: Collection[str] = (),
    stage: str | None = None,
    book: Book | str | Path | None = None,
) -> Drawing:
    """The picture of a spec, or of a compiled step as it is now; a notebook shows it.

    ``kdgraph.draw(spec).save("graph.html")`` writes a page with every stage; ``.svg``, ``.png``,
    ``.dot`` and ``.mmd`` show one. What to draw is a spec, to which Args apply as to ``plan``, or
    a step; ``depth`` is that of pictures that do not unfold: 0 draws one box from tap to tap,
    N > 0 one for each module N levels deep.

    Raises:
        KDGraphError: as ``plan``, when the picture is made.
    """
    if isinstance(what, DistillModule):
        step = what
        return Drawing(lambda: [step.report], depth)
    spec = what
    return Drawing(
        lambda: plans(
            spec, models=models, trust=trust, set=set, without=without, also=also,
            stage=stage, book=book,
        ),
        depth,
    )  # fmt: skip
