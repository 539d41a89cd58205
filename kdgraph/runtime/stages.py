"""Stages of a compiled spec: who is trained, what has been done to the networks, which graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdgraph.actions._snapshots import follow
from kdgraph.actions._world import Batches, Moved, World
from kdgraph.actions.base import Action
from kdgraph.errors import ActionError, InputError
from kdgraph.runtime.built import Built
from kdgraph.runtime.log import Course, Done
from kdgraph.runtime.turns import Turns
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import at_stage, stage_of
from kdgraph.spec.stages import StageSpec


class Stages(nn.Module):
    """Where a module is in its course.

    It has no parameters. Its state is the present leg and the actions done so far, from which a
    fresh module of the same spec becomes alike before any weights are loaded into it.

    Args:
        spec: with all stages.
        nets: every network, changed in place by actions.
        build: compiles the spec of a leg.
        kept: the adapters, signals and losses there are so far (``adapters.mid``).
        skeleton: the networks hold no values.

    Attributes:
        leg: the present one; empty before the first is entered.
        log: what was done, in order.
        visited: the stages entered, in order, each with the length of the log by then.
        moved: parameters that took the place of others, by the actions that were done last.
        fresh: parameters that can be trained since then, and could not before or were not there.
        batches: see ``World``; a trainer fills it in.
    """

    leg: str
    log: list[Done]
    visited: list[tuple[str, int]]
    moved: list[Moved]
    fresh: list[tuple[str, nn.Parameter]]
    batches: Batches | None

    def __init__(
        self,
        spec: Spec,
        nets: Mapping[str, nn.Module],
        build: Callable[[Spec, bool], Built],
        kept: Callable[[], Mapping[str, nn.Module]],
        skeleton: bool = False,
    ) -> None:
        super().__init__()
        # out of nn.Module's sight, to which networks belong elsewhere
        vars(self).update(
            spec=spec, leg="", log=[], visited=[], moved=[], fresh=[], batches=None,
            _turns=Turns(spec, nets), _build=build, _kept=kept, _skeleton=skeleton, _known={},
            _anew=False, _over=False, _applied=[], _seen=set(), _install=None,
        )  # fmt: skip

    spec: Spec
    _build: Callable[[Spec, bool], Built]
    _kept: Callable[[], Mapping[str, nn.Module]]
    _skeleton: bool
    _known: dict[str, Built]
    _turns: Turns
    _anew: bool
    _over: bool
    _applied: list[Callable[[Tensor], Tensor]]
    _seen: set[str]
    _install: Callable[[Built], None] | None

    @property
    def nets(self) -> Mapping[str, nn.Module]:
        """Every network by its model."""
        return self._turns.nets

    @property
    def stage(self) -> StageSpec:
        """The present stage."""
        return stage_of(self.spec, self.leg)

    def attach(self, install: Callable[[Built], None]) -> None:
        """Says who is to run the programs of the leg that is entered."""
        vars(self)["_install"] = install

    def move(self, leg: str) -> None:
        """Does the actions between the present leg and another, and sets who is trained.

        Raises:
            KDGraphError: KD202 for a leg that there is not; what an action refuses.
        """
        new = stage_of(self.spec, leg)
        old = stage_of(self.spec, self.leg) if self.leg else None
        if old == new:
            self._turns.begin(leg)
        else:
            with self._acting(leg):
                if old is not None and not self._over:
                    self._all(old, "after")
                vars(self)["_over"] = True  # not once more, where the next action is refused
                self._all(new, "before")
                vars(self)["_over"] = False
                self.visited.append((new.name, len(self.log)))
        vars(self)["leg"] = leg

    def finish(self) -> None:
        """Does the actions behind the present stage, at the end of the course."""
        with self._acting(self.leg, over=True):
            self._all(stage_of(self.spec, self.leg), "after")

    def after_epoch(self, epochs: int, best: bool) -> bool:
        """Does the actions within the present stage that are due after so many epochs of it.

        Returns:
            Whether any was done.
        """
        stage = stage_of(self.spec, self.leg)
        due = [at for at, action in enumerate(stage.during) if action.due(epochs, best)]
        with self._acting(self.leg):
            for at in due:
                self._do(stage, "during", at, epochs)
        return bool(due)

    def rehearse(self) -> None:
        """Does every action within the present stage once, the earliest first."""
        stage = stage_of(self.spec, self.leg)
        with self._acting(self.leg):
            for at in sorted(range(len(stage.during)), key=lambda at: stage.during[at].start):
                self._do(stage, "during", at, 0)

    @contextmanager
    def _acting(self, leg: str, over: bool = False) -> Iterator[None]:
        """While actions are done no model waits for its turn; notes what can be trained since.

        Where an action is refused, the present leg stays. Something has to be left to be trained,
        unless the course is ``over``.
        """
        self._turns.end()
        self.moved.clear()
        before = {id(p) for _, p in self._turns.trained()}
        done = len(self.log)
        try:
            yield
            replaced = {id(moved.new) for moved in self.moved}
            known = before | replaced
            self.fresh[:] = [(n, p) for n, p in self._turns.trained() if id(p) not in known]
        except BaseException:
            if self.leg:
                self._turns.begin(self.leg)
            raise
        self._turns.begin(leg)
        if len(self.log) > done and not over and not self._can_learn(leg):
            span = self.spec.span("stages", self.spec.stages.index(stage_of(self.spec, leg)))
            message = f"nothing is left to be trained in {leg!r}"
            raise ActionError.of("KD751", message, span=span, help="what was frozen, and where?")

    def _can_learn(self, leg: str) -> bool:
        others = (p for part in self._kept().values() for p in part.parameters())
        links = at_stage(self.spec, leg).links
        waits = (p for p in others if p.requires_grad)
        return bool(links) or any(True for _ in self._turns.trained()) or any(True for _ in waits)

    def waiting(self) -> list[nn.Parameter]:
        """The parameters that are frozen now, and trained in another phase of this stage."""
        return self._turns.waiting(self.leg)

    def built(self) -> Built:
        """The present leg compiled: from before, unless an action has changed networks since.

        With it all other legs of its stage are, so that what they train is there from its start:
        an optimiser and a checkpoint hold the adapters of a phase whose turn is yet to come.
        """
        if anew := self.changed():
            self._known.clear()
        present = self.leg
        for leg in stage_of(self.spec, present).legs:
            if leg not in self._known:
                self._set(leg)
                self._known[leg] = self._moved_along(self._build(at_stage(self.spec, leg), anew))
                anew = False
        if self.leg != present:
            self._set(present)
        found = self._known[present]
        return found._replace(parts={**found.parts, **self._kept()})

    def rebuilt(self) -> Built:
        """The present leg compiled once more, by other passes."""
        self._known.clear()
        return self.built()

    def _set(self, leg: str) -> None:
        self._turns.begin(leg)
        vars(self)["leg"] = leg

    def _moved_along(self, built: Built) -> Built:
        """Lets what is new go where the module has gone, and be of the type it was cast to."""
        for key, part in built.parts.items():
            if key == "steer" or (key in self._kept() and key not in self._seen):
                self._seen.add(key)
                for fn in self._applied:
                    part._apply(fn)  # type: ignore[no-untyped-call]  # untyped there
        return built

    def changed(self) -> bool:
        """Whether an action has rebuilt a network since this was last asked."""
        anew = self._anew
        vars(self)["_anew"] = False
        return anew

    def _all(self, stage: StageSpec, place: str) -> None:
        for at in range(len(getattr(stage, place))):
            self._do(stage, place, at, 0)

    def _do(self, stage: StageSpec, place: str, at: int, epoch: int) -> None:
        action, world = self._action(stage, place, at)
        decided = action.decide(world)
        self._apply_one(Done(stage.name, place, at, epoch, decided, []), action, world)

    def _action(self, stage: StageSpec, place: str, at: int) -> tuple[Action, World]:
        action = getattr(stage, place)[at]
        assert isinstance(action, Action)
        span = self.spec.span("stages", self.spec.stages.index(stage), place, at)
        links = {k.partition(".")[2]: p for k, p in self._kept().items() if k[:8] == "adapters"}
        world = World(self.spec, self.nets, links, self._skeleton, self.batches, span)
        return action, world

    def _apply_one(self, done: Done, action: Action, world: World) -> None:
        with torch.no_grad():
            lines = action.apply(world, done.decided)
            if action.rebuilds and lines:
                lines = [*lines, *follow(world)]
        self.log.append(done._replace(lines=lines))
        self.moved.extend(world.moved)
        if action.rebuilds and lines:
            vars(self)["_anew"] = True

    def get_extra_state(self) -> Tensor:
        """The leg and the log as bytes, uint8 [N], so that any checkpoint can hold them."""
        return Course(self.leg, self.log, self.visited).pack()

    def set_extra_state(self, state: Tensor) -> None:
        """Does again what was done to the networks, and enters the leg.

        Raises:
            InputError: KD704 for a course that this spec does not have.
        """
        leg, log, visited = Course.unpack(state)
        here = [done[:4] for done in self.log]
        if [done[:4] for done in log[: len(here)]] != here:
            message = "the checkpoint is of another course of stages and actions"
            raise InputError.of("KD704", message, help="load it into a freshly compiled module")
        self._turns.end()
        at = len(here)
        for name, until in visited[len(self.visited) :]:
            self._again(log[at:until])
            at = until
            self.visited.append((name, until))
            if self._install is not None:
                self._make(name)
        self._again(log[at:])
        self._set(leg)
        if self._install is not None:
            self._install(self.built())

    def _again(self, log: list[Done]) -> None:
        """Does what was done; what only wrote values is followed by loading them."""
        for done in log:
            stage = next((s for s in self.spec.stages if s.name == done.stage), None)
            if stage is None or done.at >= len(getattr(stage, done.place)):
                raise InputError.of("KD704", f"the spec has no stage {done.stage!r} any more")
            action, world = self._action(stage, done.place, done.at)
            if action.rebuilds:
                self._apply_one(done, action, world)
                self.log[-1] = done
            else:
                self.log.append(done)

    def _make(self, name: str) -> None:
        """Makes the adapters and losses of a stage that was passed, as the checkpoint has them."""
        stage = next(s for s in self.spec.stages if s.name == name)
        for leg in stage.legs:
            spec = at_stage(self.spec, leg)
            parts = [f"adapters.{link}" for link in spec.links]
            parts += [f"losses.{loss}" for loss in spec.losses]
            parts += [f"signals.{signal}" for signal in spec.signals]
            if not self._kept().keys() >= set(parts):
                if anew := self.changed():
                    self._known.clear()
                self._set(leg)
                self._moved_along(self._build(spec, anew))
        self._turns.end()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Stages:
        """Forgets the programs of other legs, whose folded weights would stay behind."""
        self._applied.append(fn)
        for leg in [leg for leg in self._known if leg != self.leg]:
            del self._known[leg]
        return self

    def extra_repr(self) -> str:
        """``labels, of features, labels``."""
        return f"{self.leg}, of {', '.join(self.legs())}"

    def legs(self) -> Iterator[str]:
        """All legs, in their order."""
        return (leg for stage in self.spec.stages for leg in stage.legs)
