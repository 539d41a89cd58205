"""What is noted of one run on its way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn, optim

from kdgraph.runtime.module import DistillModule, StepOutput
from kdgraph.spec.language import Spec
from kdgraph.train.report.agreement import Agreement
from kdgraph.train.report.numbers import figures, label_edges, rates, weights
from kdgraph.train.report.probe import Probe
from kdgraph.train.report.record import Record
from kdgraph.train.score import Score


class Watch:
    """Looks at each step and each validation of a run, and changes neither.

    Args:
        step: what is trained.
        spec: of the whole run.
        score: what the student is scored on.
        booked: batch entries that a book gives.

    Attributes:
        record: the curves.
        labels: the edges that are of the labels alone.
    """

    def __init__(
        self, step: DistillModule, spec: Spec, score: Score, booked: frozenset[str] = frozenset()
    ) -> None:
        self.record = Record()
        self.labels = label_edges(spec, score.model, score.target, booked)
        self._step = step
        self._weights = {name: edge.weight for name, edge in spec.losses.items()}
        self._booked = bool(booked)
        self._probe = Probe(self.labels)
        self._agreement = Agreement(step, spec, score)
        self._sample: dict[str, float] = {}
        self._widths: dict[str, int] = {}
        self._acts = -1

    def saw_step(self, out: StepOutput, at: int, scale: Callable[[], float]) -> None:
        """Called with each batch, before its backward pass.

        Args:
            out: of the batch.
            at: steps of the optimiser before it.
            scale: tells what losses are multiplied by so that half precision holds gradients.
        """
        step = self._step
        if step.stages is not None:
            self.record.mark(at, step.stages.stage.name)
        if self._probe.is_due(step.spec.leg or "", len(out.losses)):
            now = weights(step, out.losses)
            self._sample |= self._probe.sample(step, out, now, scale())

    def saw_prediction(self, prediction: Tensor, batch: Mapping[str, Tensor], index: int) -> None:
        """Called with each batch of a validation."""
        self._agreement.add(prediction, batch, index)

    def after_step(self, at: int) -> dict[str, float]:
        """What is new after a step of the optimiser, logged or not: samples, widths."""
        found, self._sample = self._sample, {}
        return found | self._changed(at)

    def logged(self, optimizer: optim.Optimizer, losses: Mapping[str, float]) -> dict[str, float]:
        """What else a row of the log holds.

        Args:
            optimizer: knows the learning rates.
            losses: the row so far, ``loss`` and ``loss/EDGE``.
        """
        edges = {n.removeprefix("loss/"): v for n, v in losses.items() if n != "loss"}
        return {**rates(optimizer), **figures(self._step, edges)}

    def after_epoch(self) -> dict[str, float]:
        """What is known once an epoch."""
        return self._agreement.close()

    def note(self, at: int, epoch: float, values: Mapping[str, float], whole: bool = False) -> None:
        """Keeps a row of the log.

        Args:
            at: the step of the optimiser.
            epoch: the same, in epochs of the run.
            values: the row.
            whole: means over an epoch, which are kept apart from values of single steps.
        """
        if whole:
            values = {f"epoch/{n}" if n.startswith("loss") else n: v for n, v in values.items()}
        steps, _ = self.record.curves.get("epoch", ([], []))
        if not steps or steps[-1] != at:
            values = {**values, "epoch": epoch}
        else:
            values = {n: v for n, v in values.items() if n != "epoch"}
        self.record.add(at, values)

    def _changed(self, at: int) -> dict[str, float]:
        """The widths of layers that an action has given another one since the last step.

        All of them are kept, but not logged, where a run with actions begins.
        """
        stages = self._step.stages
        if stages is None or len(stages.log) == self._acts:
            return {}
        self._acts = len(stages.log)
        before, self._widths = self._widths, widths(self._step.models)
        if not before:
            self.record.add(at, {f"width/{name}": width for name, width in self._widths.items()})
            return {}
        now = self._widths.items()
        return {f"width/{name}": float(width) for name, width in now if before.get(name) != width}

    def actions(self) -> list[dict[str, Any]]:
        """What the actions of stages said that they changed, in order."""
        stages = self._step.stages
        return [
            {"stage": done.stage, "place": done.place, "epoch": done.epoch, "did": done.lines}
            for done in (stages.log if stages else [])
            if done.lines
        ]

    def as_dict(self) -> dict[str, Any]:
        """The curves and what could not be found out, for JSON."""
        found = self.record.as_dict()
        widths = [n for n in found["curves"] if n.startswith("width/")]
        for name in widths:  # of layers that never changed there is nothing to tell
            if len(set(found["curves"][name]["values"])) == 1:
                del found["curves"][name]
        return {**found, "notes": [*found["notes"], *self._notes()], "label_edges": self.labels}

    def _notes(self) -> list[str]:
        found = [
            f"gradients of edges{f' in {leg}' if leg else ''}: not known, {why}"
            for leg, why in self._probe.declined.items()
        ]
        if not self.labels:
            found.append("cosines: no edge reads the labels and the student alone")
        given = [n for n in self.labels if isinstance(self._weights[n], str)]
        if given and len(self.labels) > 1:
            found.append("cosines: not known where several edges are of the labels, since a "
                         f"signal gives the weight of {' and '.join(given)}")  # fmt: skip
        if self._booked:
            found.append("agreement: not known of teachers whose place a book takes, since it has "
                         "no rows of the validation data")  # fmt: skip
        return found + [
            f"agreement with {name}: not known, {why}"
            for name, why in self._agreement.declined.items()
        ]

    def leave_out(self, why: str) -> None:
        """Looks at no gradients of edges and at no teacher."""
        self._probe.declined[self._step.spec.leg or ""] = why
        self._agreement.leave_out(why)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"record": self.record.state(), "probe": self._probe.state(),
                "widths": dict(self._widths), "acts": self._acts}  # fmt: skip

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self.record.take_up(state["record"])
        self._probe.take_up(state["probe"])
        self._widths, self._acts = dict(state["widths"]), state["acts"]


def widths(models: nn.ModuleDict) -> dict[str, int]:
    """How many features or channels each linear and convolution of some models gives."""
    return {
        f"{name}.{path}" if path else name: module.weight.shape[0]
        for name, model in models.items()
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
