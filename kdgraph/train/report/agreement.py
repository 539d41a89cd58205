"""How often student and teacher give the same class."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdgraph.errors import KDGraphError
from kdgraph.runtime.module import DistillModule
from kdgraph.spec.language import Spec
from kdgraph.train.ranks import of_all
from kdgraph.train.score import Score, find_score


class Agreement:
    """The share of validation places, samples or tokens or pixels, of the same class.

    A teacher whose weights never change is run over the validation data once; its classes are
    kept. Others (a snapshot, a model that learns too) are run at every validation. Places whose
    label is ignored do not count.

    Args:
        step: holds the teachers.
        spec: of the whole run.
        score: what the student is scored on.

    Attributes:
        declined: why it is not known, by teacher.
    """

    def __init__(self, step: DistillModule, spec: Spec, score: Score) -> None:
        self._step, self._spec, self._score = step, spec, score
        self.declined: dict[str, str] = {}
        self._scores: dict[str, Score] = {}
        self._known: dict[str, list[Tensor]] = {}
        self._moved: dict[str, nn.Module] = {}
        self._same: dict[str, Tensor] = {}
        self._count = 0
        others = [n for n in spec.networks if n != score.model and spec.models[n].taps]
        if score.classes is None or score.decoder is not None:
            what = "no classes are predicted" if score.classes is None else "texts are compared"
            self.declined = dict.fromkeys(others, what)
            return
        for name in others:
            self._prepare(name)

    def _prepare(self, name: str) -> None:
        try:
            found = find_score(self._spec, name)
        except KDGraphError as error:
            self.declined[name] = error.diagnostics[0].message
        else:
            self._scores[name] = found

    def add(self, prediction: Tensor, batch: Mapping[str, Tensor], index: int) -> None:
        """Counts a batch of the validation data in.

        Args:
            prediction: of the student, classes second.
            batch: the batch.
            index: its number.
        """
        if not self._scores:
            return
        truth, mine = batch[self._score.target], prediction.argmax(1)
        if index == 0:
            self._keep_of_size(len(mine))
        counted = mine == mine
        if truth.shape == mine.shape:
            counted = truth != self._score.ignore_index
        self._count += int(counted.sum())
        for name in list(self._scores):
            theirs = self._classes(name, batch, index)
            if theirs is not None and theirs.shape != mine.shape:
                places = f"its output has {list(theirs.shape)} places, not {list(mine.shape)}"
                self._decline(name, places)
            elif theirs is not None:
                same = ((mine == theirs) & counted).sum()
                self._same[name] = self._same[name] + same if name in self._same else same

    def close(self) -> dict[str, float]:
        """``agreement/TEACHER`` over the rows of all processes; then counting starts over."""
        every = of_all((self._count, {name: int(same) for name, same in self._same.items()}))
        count = sum(own for own, _ in every)
        names = [n for n in self._scores if count and all(n in s or not own for own, s in every)]
        found = {f"agreement/{n}": sum(s.get(n, 0) for _, s in every) / count for n in names}
        self._same, self._count, self._moved = {}, 0, {}
        return found

    def leave_out(self, why: str) -> None:
        """Asks no teacher."""
        for name in list(self._scores):
            self._decline(name, why)

    def _keep_of_size(self, rows: int) -> None:
        """Forgets what is known batch by batch, where batches of a stage have another size."""
        for name, known in self._known.items():
            if known and len(known[0]) != rows:
                self._known[name] = []

    def _decline(self, name: str, why: str) -> None:
        self.declined[name] = why
        self._scores.pop(name, None)
        self._same.pop(name, None)

    def _classes(self, name: str, batch: Mapping[str, Tensor], index: int) -> Tensor | None:
        """What a teacher says, from memory where it says the same every time."""
        known = self._known.setdefault(name, [])
        place = batch[self._score.target].device
        if index < len(known):
            return known[index].to(place)
        try:
            found = self._run(name, batch)
        except Exception as error:
            # a teacher may read what validation batches do not hold, refuse their size, or be too
            # large a second time: no training ends for that
            why = str(error) if not isinstance(error, KeyError) else f"there is no {error} to read"
            self._decline(name, why.partition("\n")[0][:200])
            return None
        if self._spec.is_constant(name) and index == len(known):
            known.append(found.to("cpu", _smallest(self._score.classes)))
        return found

    def _run(self, name: str, batch: Mapping[str, Tensor]) -> Tensor:
        net = self._step.report.graph.root.get_submodule(f"models.{name}")
        mine, theirs = (next(iter(m.parameters()), None) for m in (self._step.student, net))
        form = None if mine is None else (mine.device, mine.dtype)
        if theirs is not None and form is not None and (theirs.device, theirs.dtype) != form:
            # where the graph holds it in another form, it was not moved along
            if name not in self._moved:
                self._moved[name] = copy.deepcopy(net).to(*form)
            net = self._moved[name]
        with _evaluating(net), torch.no_grad():
            return self._scores[name].predict(net, batch).argmax(1)


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """In eval mode, each module in its own mode again afterwards; random numbers as before."""
    modes = {module: module.training for module in net.modules()}
    state = torch.get_rng_state()
    try:
        net.eval()
        yield
    finally:
        torch.set_rng_state(state)
        for module, training in modes.items():
            module.training = training


def _smallest(classes: int | None) -> torch.dtype:
    return torch.int16 if classes is not None and classes <= 1 << 15 else torch.int32
