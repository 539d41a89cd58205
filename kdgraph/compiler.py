"""From a spec to a module: the whole flow on one page."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kdgraph.book import Book
from kdgraph.capture import Captured
from kdgraph.errors import Diagnostic, KDGraphError
from kdgraph.networks import build_networks, capture_networks, refuse
from kdgraph.passes.base import Context, Pass
from kdgraph.passes.inline_models import inline_models
from kdgraph.passes.manager import run_passes
from kdgraph.passes.pipeline import pipeline
from kdgraph.runtime.built import Built
from kdgraph.runtime.lower import lower
from kdgraph.runtime.module import DistillModule
from kdgraph.runtime.report import Report
from kdgraph.runtime.stages import Stages
from kdgraph.spec.files import check_weights
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import at_stage, stage_of
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
    builder = _Builder(nets, pipeline(without, also), start)
    if not checked.stages:
        return DistillModule(builder.build(checked), nets, book=rows, shown=bundle)
    stages = Stages(checked, nets, builder.build, builder.parts)
    stages.move(next(stages.legs()))
    return DistillModule(stages.built(), nets, stages, book=rows, shown=bundle)


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
    builder = _Builder(nets, pipeline(without, also), start, skeleton=True)
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


@dataclass
class _Builder:
    """Compiles a spec, or its legs one after the other, over the same networks.

    Adapters, signals and losses are kept from leg to leg, so that they train on; captures are kept
    as long as networks are what they were.
    """

    nets: Mapping[str, nn.Module]
    order: Sequence[Pass]
    start: float
    skeleton: bool = False
    kept: dict[str, nn.Module] = field(default_factory=dict)
    captures: dict[str, Captured] = field(default_factory=dict)
    modes: dict[str, bool] = field(default_factory=dict)

    def parts(self) -> dict[str, nn.Module]:
        """What is kept from leg to leg."""
        return self.kept

    def plan(self, spec: Spec, context: Context | None = None) -> Report:
        """What ``spec`` compiles to, without programs."""
        context = context or Context(spec, skeleton=self.skeleton, modules=dict(self.kept))
        known = {
            name
            for name, captured in self.captures.items()
            if not captured.mode_dependent or self.modes[name] == spec.is_trainable(name)
        }
        self.captures |= capture_networks(
            spec, {n: net for n, net in self.nets.items() if n not in known}
        )
        self.modes = {name: spec.is_trainable(name) for name in self.nets}
        captures = {name: self.captures[name] for name in self.nets}
        return _plan(spec, captures, context, self.order, self.start)

    def plans(
        self, spec: Spec, wanted: Collection[str | None] | None = None
    ) -> Iterator[tuple[str | None, Report]]:
        """What each leg compiles to, or each of those ``wanted``, with actions in between."""
        if not spec.stages:
            yield None, self.plan(spec)
            return
        stages = Stages(spec, self.nets, self.build, self.parts, skeleton=True)
        for leg in stages.legs():
            stages.move(leg)
            if stages.changed():
                self.captures.clear()
            if wanted is None or leg in wanted:
                yield leg, self.plan(at_stage(spec, leg))
            if leg == stage_of(spec, leg).legs[-1]:
                stages.rehearse()
        stages.finish()

    def build(self, spec: Spec, anew: bool = False) -> Built:
        """What runs ``spec``; with ``anew`` the networks have changed since the last time."""
        if anew:
            self.captures.clear()
            self.start = time.perf_counter()
        context = Context(spec, modules=dict(self.kept))
        report = self.plan(spec, context)
        program = lower(report.graph)
        programs = {True: program, False: program}
        if any(c.mode_dependent and spec.is_trainable(n) for n, c in report.captures.items()):
            programs[False] = lower(_evaluation(spec, self.nets, context, self.order, report).graph)
        shared = ("adapters.", "signals.", "losses.")
        self.kept |= {k: m for k, m in context.modules.items() if k.startswith(shared)}
        return Built(spec, programs, context.modules, report, context.sources)


def _plan(
    spec: Spec,
    captures: Mapping[str, Captured],
    context: Context,
    order: Sequence[Pass],
    start: float,
) -> Report:
    graph, records = run_passes(inline_models(spec, captures), order, context)
    return Report(spec, captures, tuple(records), graph, time.perf_counter() - start)


def _evaluation(
    spec: Spec,
    nets: Mapping[str, nn.Module],
    context: Context,
    order: Sequence[Pass],
    trained: Report,
) -> Report:
    """The same plan in eval mode, over the same modules.

    Captured again are the trained models whose graph holds in train mode only.
    """
    start = time.perf_counter()
    odd = {
        name: net
        for name, net in nets.items()
        if spec.is_trainable(name) and trained.captures[name].mode_dependent
    }
    modes = {m: m.training for net in nets.values() for m in net.modules()}
    try:
        for name in odd:
            nets[name].eval()  # a frozen model may keep its dropout on
        captures = {**trained.captures, **capture_networks(spec, odd)}
        return _plan(spec, captures, context, order, start)
    finally:
        for module, training in modes.items():
            module.training = training
