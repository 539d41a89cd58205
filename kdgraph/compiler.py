"""From a spec to a module: the whole flow on one page."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kdgraph.capture import Captured
from kdgraph.errors import Diagnostic, KDGraphError
from kdgraph.networks import build_networks, capture_networks, refuse
from kdgraph.passes.base import Context, Pass
from kdgraph.passes.inline_models import inline_models
from kdgraph.passes.manager import run_passes
from kdgraph.passes.pipeline import pipeline
from kdgraph.runtime.lower import lower
from kdgraph.runtime.module import DistillModule
from kdgraph.runtime.report import Report
from kdgraph.spec.files import check_weights
from kdgraph.spec.language import Spec
from kdgraph.spec.read import diagnose, load_spec
from kdgraph.spec.references import not_yet

Source = str | Path | Mapping[str, Any] | Spec


def compile(
    spec: Source,
    *,
    models: Mapping[str, nn.Module] | None = None,
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    without: Collection[str] = (),
    also: Collection[str] = (),
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

    Raises:
        KDGraphError: with every mistake found, each with its place in the spec.
    """
    start = time.perf_counter()
    checked = load_spec(spec, set=set) if not isinstance(spec, Spec) else spec
    refuse([*not_yet(checked), *check_weights(checked, given=models or {})])
    nets = build_networks(checked, models or {}, trust)
    context = Context(checked)
    order = pipeline(without, also)
    report = _plan(checked, capture_networks(checked, nets), context, order, start)
    program = lower(report.graph)
    programs = {True: program, False: program}
    if any(c.mode_dependent and checked.is_trainable(n) for n, c in report.captures.items()):
        programs[False] = lower(_evaluation(checked, nets, context, order, report).graph)
    return DistillModule(checked, nets, context.modules, programs, report, context.sources)


def check(
    spec: Source,
    *,
    models: Mapping[str, nn.Module] | None = None,
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    shapes: bool = True,
) -> list[Diagnostic]:
    """Everything wrong with a spec, and warnings; loads no weights and computes nothing.

    ``shapes=False`` stops after the text and its references, which needs no torch models.
    """
    try:
        checked, found = (spec, []) if isinstance(spec, Spec) else diagnose(spec, set=set)
        if checked is None:
            return found
        found = [*found, *not_yet(checked), *check_weights(checked, given=models or {})]
        if shapes:
            plan(checked, models=models, trust=trust)
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
) -> Report:
    """The compiled graph without the weights: what ``check``, ``explain`` and ``draw`` read.

    Raises:
        KDGraphError: as ``compile``.
    """
    start = time.perf_counter()
    checked = load_spec(spec, set=set) if not isinstance(spec, Spec) else spec
    refuse(not_yet(checked))
    nets = build_networks(checked, models or {}, trust, skeleton=True)
    context, order = Context(checked, skeleton=True), pipeline(without, also)
    return _plan(checked, capture_networks(checked, nets), context, order, start)


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
