"""Where a run is in the stages of its spec. A spec without any is one stage by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdgraph.spec.language import Spec
from kdgraph.spec.legs import at_stage
from kdgraph.spec.stages import StageSpec
from kdgraph.spec.training import TrainSpec
from kdgraph.train.data._load import steps_per_epoch
from kdgraph.train.data.base import DataSet


class Course:
    """The stages of a run and the present one.

    Args:
        spec: with its ``train`` block.
        data: as the spec describes it.
        rows: of training data.

    Attributes:
        at: number of the present stage.
        passed: epochs of the stages before it.
        begun: steps of the optimiser before it.
    """

    def __init__(self, spec: Spec, data: DataSet, rows: int) -> None:
        self._spec, self._data, self._rows = spec, data, rows
        self.at = self.passed = self.begun = 0

    @property
    def stage(self) -> StageSpec | None:
        """The present stage; None in a spec without stages."""
        return self._spec.stages[self.at] if self._spec.stages else None

    @property
    def is_last(self) -> bool:
        """Whether no stage follows."""
        return self.at >= len(self._spec.stages) - 1

    @property
    def settings(self) -> TrainSpec:
        """The ``train`` block as it is in the present stage."""
        return self._settings(self.at)

    @property
    def data(self) -> DataSet:
        """The data with the batch size of the present stage."""
        return self._sized(self.at)

    @property
    def batches(self) -> int:
        """Batches in an epoch of the present stage."""
        return steps_per_epoch(self._rows, self.data.batch_size)

    def steps(self, at: int | None = None) -> int:
        """Steps of the optimiser in a stage at its full length; left out: the present one."""
        at = self.at if at is None else at
        settings, size = self._settings(at), self._sized(at).batch_size
        return settings.epochs * -(-steps_per_epoch(self._rows, size) // settings.accumulate)

    def rows(self) -> list[int]:
        """Rows of a training batch, of all processes together, in each stage."""
        stages = range(max(1, len(self._spec.stages)))
        return [min(self._sized(at).batch_size, self._rows) for at in stages]

    def total_steps(self) -> int:
        """Steps of the optimiser in the whole run, if no stage ends early."""
        return sum(self.steps(at) for at in range(max(1, len(self._spec.stages))))

    def leg(self, epoch: int, iteration: int) -> str | None:
        """Whose turn it is at an epoch of the stage and a step of the run; None without stages."""
        stage = self.stage
        return None if stage is None else stage.leg_at(epoch, iteration - self.begun)

    def ends_round(self, epochs: int) -> bool:
        """Whether every phase has had its turn after so many epochs of the stage."""
        return self.stage is None or epochs % self.stage.round == 0

    def advance(self, epochs: int, iteration: int) -> None:
        """Goes to the next stage, ``epochs`` of the present one and ``iteration`` steps done."""
        self.at, self.passed, self.begun = self.at + 1, self.passed + epochs, iteration

    def state(self) -> dict[str, int]:
        """For a checkpoint."""
        return {"at": self.at, "passed": self.passed, "begun": self.begun}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self.at, self.passed, self.begun = (state[key] for key in ("at", "passed", "begun"))

    def _settings(self, at: int) -> TrainSpec:
        spec = self._spec
        found = at_stage(spec, spec.stages[at].legs[0]).train if spec.stages else spec.train
        assert found is not None
        return found

    def _sized(self, at: int) -> DataSet:
        stage = self._spec.stages[at] if self._spec.stages else None
        if stage is None or stage.batch_size is None:
            return self._data
        return self._data.model_copy(update={"batch_size": stage.batch_size})
