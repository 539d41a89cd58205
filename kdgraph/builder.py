"""What compiles a spec, or its stages one after the other, over the same networks."""

from __future__ import annotations

import time
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kdgraph.capture import Captured
from kdgraph.networks import capture_networks
from kdgraph.passes.base import Context, Pass
from kdgraph.passes.inline_models import inline_models
from kdgraph.passes.manager import run_passes
from kdgraph.runtime.built import Built
from kdgraph.runtime.lower import lower
from kdgraph.runtime.report import Report
from kdgraph.runtime.stages import Stages
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import at_stage, stage_of


@dataclass
class Builder:
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
    opened: dict[Hashable, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, nn.Module]:
        """What is kept from leg to leg."""
        return self.kept

    def plan(self, spec: Spec, context: Context | None = None) -> Report:
        """What ``spec`` compiles to, without programs."""
        context = context or Context(
            spec, skeleton=self.skeleton, modules=dict(self.kept), opened=self.opened
        )
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
                self.opened.clear()
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
