"""The ``stages`` block: what each part of training changes. No torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.spec.entry import ACTIONS, ActionEntry
from kdgraph.spec.one_of import OneOf
from kdgraph.spec.steer import Weight
from kdgraph.spec.training import EarlyStop, Optimizer, Scheduler
from kdgraph.spec.types import DOCUMENTED, Count, Name, Strict

Actions = Annotated[
    tuple[Annotated[ActionEntry, OneOf(ACTIONS)], ...], Field(strict=False, default_factory=tuple)
]


class PhaseSpec(Strict):
    """A turn within a stage: its own weights and trained models, for some epochs or steps."""

    model_config = DOCUMENTED

    name: Name
    """What it is called: ``STAGE.PHASE`` in logs and for ``set_stage``."""

    epochs: Count | None = None
    """Passes over the training data in each turn; left out: one, unless there are ``steps``."""

    steps: Count | None = None
    """Steps of the optimiser in each turn."""

    trainable: dict[Name, bool] = {}
    """Models that are trained or frozen in its turns; others as the stage says."""

    losses: dict[Name, Weight] = {}
    """Weights of edges in its turns; 0 takes an edge away, others are as the stage says."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise PydanticCustomError("phase_length", "give either 'epochs' or 'steps', not both")
        return self


class StageSpec(Strict):
    """A part of training with its own losses, trained models, optimiser and length.

    Weights carry over from stage to stage; each has an optimiser of its own, and schedules count
    from its start. With ``phases`` models take turns: each phase trains some while others are
    frozen. A frozen model's moments rest, so it is as if each model had its own optimiser.
    """

    model_config = DOCUMENTED

    name: Name
    """What it is called in logs and for ``set_stage``."""

    epochs: Count | None = None
    """Passes over the training data; left out: those of ``train``."""

    rounds: Count | None = None
    """With phases of epochs: how often all of them have their turn."""

    phases: Annotated[tuple[PhaseSpec, ...], Field(strict=False)] = ()
    """Turns that models take: of ``epochs`` each, ``rounds`` times, or of ``steps`` each."""

    early_stop: EarlyStop | None = None
    """Ends the stage early; left out: as ``train`` says. With rounds it counts rounds."""

    trainable: dict[Name, bool] = {}
    """Models that are trained or frozen here; others as they say themselves."""

    losses: dict[Name, Weight] = {}
    """Weights of edges here; 0 takes an edge out of the graph, others keep their weights."""

    optimizer: Optimizer | None = None
    """Left out: that of ``train``."""

    scheduler: Scheduler | None = None
    """Left out: that of ``train``, over the length of this stage."""

    keep: Literal["last", "best"] | None = None
    """Which weights of the student the stage ends with; left out: as ``train`` says."""

    batch_size: Count | None = None
    """Left out: that of ``data``."""

    before: Actions
    """Actions when the stage begins, in order."""

    during: Actions
    """Actions after epochs of the stage, as their ``every``, ``start`` and ``when`` say."""

    after: Actions
    """Actions when the stage ends, in order."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        by_steps = [phase.steps is not None for phase in self.phases]
        if any(by_steps) and not all(by_steps):
            raise PydanticCustomError("stage_phases", "phases have all 'steps' or all 'epochs'")
        if self.rounds is not None and (not self.phases or any(by_steps)):
            raise PydanticCustomError("stage_rounds", "'rounds' is of phases that have 'epochs'")
        if self.phases and not any(by_steps) and self.rounds is None:
            raise PydanticCustomError("stage_rounds", "phases of epochs need 'rounds'")
        if self.rounds is not None and self.epochs is not None:
            raise PydanticCustomError("stage_rounds", "give either 'epochs' or 'rounds', not both")
        names = [phase.name for phase in self.phases]
        if (double := next((n for n in names if names.count(n) > 1), None)) is not None:
            raise PydanticCustomError(
                "stage_double", "two phases are called '{name}'", {"name": double}
            )
        for action in (*self.before, *self.after):
            if not action.model_fields_set.isdisjoint(("every", "start", "when")):
                raise PydanticCustomError(
                    "action_when", "'every', 'start' and 'when' have a meaning under 'during' only"
                )
        return self

    @property
    def legs(self) -> list[str]:
        """What ``set_stage`` takes: the stage, or its phases as ``STAGE.PHASE``."""
        return [f"{self.name}.{phase.name}" for phase in self.phases] or [self.name]

    def length(self, epochs: int) -> int:
        """Passes over the data, where ``train`` has so many ``epochs``."""
        if self.rounds is not None:
            return self.rounds * self.round
        return self.epochs or epochs

    @property
    def round(self) -> int:
        """Passes over the data after which every phase had its turn; 1 without rounds."""
        return sum(p.epochs or 1 for p in self.phases) if self.rounds is not None else 1

    def leg_at(self, epoch: int, step: int) -> str:
        """Whose turn it is at an epoch and a step of the optimiser of the stage, both from 0."""
        if not self.phases:
            return self.name
        turns = [p.steps or p.epochs or 1 for p in self.phases]
        place = (epoch if self.rounds is not None else step) % sum(turns)
        at = next(i for i in range(len(turns)) if place < sum(turns[: i + 1]))
        return self.legs[at]
