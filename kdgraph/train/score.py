"""What a model is scored on: one of its outputs against one batch entry, by torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature

import torch
import torchmetrics
from torch import Tensor, nn
from torchmetrics.text import Perplexity

from kdgraph.capture.liveness import keep_dropout, still
from kdgraph.capture.record import reach
from kdgraph.capture.taps import TapPath, parse_tap
from kdgraph.errors import DataError, near
from kdgraph.spec.language import Spec
from kdgraph.train.decode import Decoder, find_decoder

IGNORED = -100  # as torch and the losses have it


@dataclass(frozen=True)
class Score:
    """A prediction and its truth.

    Attributes:
        model: name of the model in the spec.
        inputs: what its forward reads, as the spec says.
        tap: where the prediction is in the model's own output.
        target: the batch entry with the truth.
        classes: number of classes, or None where the target is a number.
        ignore_index: the label of places that are not scored.
        decoder: reads text off the prediction and the truth, where texts are compared.
        passes: how often the model is run with its dropout on; None means once, in eval mode.
    """

    model: str
    inputs: Mapping[str, str] | str
    tap: TapPath
    target: str
    classes: int | None
    ignore_index: int = IGNORED
    decoder: Decoder | None = None
    passes: int | None = None

    def ready(self, module: nn.Module, batch: Mapping[str, Tensor]) -> None:
        """Puts a model in the mode in which ``averaged`` runs it, where its statistics stand still.

        What else moves by a run, statistics by another name say, is found on copies of the model
        and of two rows of the batch.
        """
        module.eval()
        if self.passes is not None:
            keep_dropout(module)
            still(module, {name: value[:2] for name, value in self.given(module, batch).items()})

    def given(self, module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a model is run on, by the names of its arguments."""
        inputs = self.inputs
        if isinstance(inputs, str):
            inputs = {next(iter(signature(module.forward).parameters), "input"): inputs}
        return {name: batch[entry] for name, entry in inputs.items()}

    def update(
        self, metric: torchmetrics.Metric, prediction: Tensor, batch: Mapping[str, Tensor]
    ) -> None:
        """Counts a batch in, without the places whose label is to be ignored.

        Args:
            metric: one of ``build_metrics``.
            prediction: what ``predict`` gave.
            batch: the batch.
        """
        if self.decoder is not None:
            metric.update(self.decoder.read(prediction, batch), self.decoder.truth(batch))
            return
        prediction, truth = prediction.float(), batch[self.target]
        if self.classes is not None and truth.shape == prediction[:, 0].shape:
            known = truth != self.ignore_index
            prediction, truth = prediction.movedim(1, -1)[known], truth[known]  # [N, K] and [N]
            if not len(truth):
                return
            if isinstance(metric, Perplexity):  # it takes sequences, so one of all of them
                prediction, truth = prediction.unsqueeze(0), truth.long().unsqueeze(0)
        metric.update(prediction, truth)

    def averaged(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """``predict``; of several passes the logarithm of the mean of their probabilities."""
        if self.passes is None:
            return self.predict(module, batch)
        passes = [self.predict(module, batch).float() for _ in range(self.passes)]
        return torch.stack(passes).log_softmax(2).logsumexp(0) - math.log(self.passes)

    def predict(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Runs the plain model, and reaches for the prediction; classes come second.

        Raises:
            DataError: KD714 when that is no tensor.
        """
        if isinstance(self.inputs, str):
            output = module(batch[self.inputs])
        else:
            output = module(**{name: batch[entry] for name, entry in self.inputs.items()})
        found = reach(output, self.tap)
        if not isinstance(found, Tensor):
            raise DataError.of(
                "KD714",
                f"the output of {self.model!r} is a {type(found).__name__}, not a tensor",
                help="give the model a tap such as `logits: output.logits`",
            )
        if self.classes is None or self.decoder is not None:
            return found
        if found.dim() == 3 and found.shape[:2] == batch[self.target].shape:
            found = found.movedim(2, 1)  # [B, L, K] -> [B, K, L]
        if found.dim() < 2 or found.shape[1] != self.classes:
            raise DataError.of(
                "KD714",
                f"{self.model!r} gives {list(found.shape)}, which is no score for each of the "
                f"{self.classes} classes of {self.target!r}",
            )
        return found


def trained_model(spec: Spec) -> str:
    """The model that is scored: ``student``, or the only one that learns.

    Raises:
        DataError: KD714 when several learn.
    """
    learning = [name for name in spec.networks if spec.is_learning(name)]
    if "student" in learning:
        return "student"
    if len(learning) != 1:
        raise DataError.of(
            "KD714",
            f"several models learn ({', '.join(learning)}); name the one to score `student`",
            span=spec.span("models"),
        )
    return learning[0]


def output_tap(spec: Spec, model: str) -> str | None:
    """Name of the only tap of a model that lies on its own output, if there is just one."""
    taps = spec.models[model].taps
    found = [name for name, path in taps.items() if is_output(parse_tap(path))]
    return found[0] if len(found) == 1 else None


def is_output(tap: TapPath) -> bool:
    """Whether a tap lies on what the model itself returns."""
    return not tap.path and tap.side == "out" and tap.call == 1


def find_score(spec: Spec, model: str | None = None) -> Score:
    """What a spec's student, or another of its models, is scored on.

    Raises:
        DataError: KD714 when it cannot be told from the spec.
    """
    scored = model or trained_model(spec)
    asked = spec.train.evaluate if spec.train else None
    target = _target(spec, asked.target if asked else None)
    place = spec.span("train", "evaluate", "student")
    path = "output"
    if asked is not None and asked.student is not None and scored == trained_model(spec):
        owner, _, tap = asked.student.partition(".")
        taps = spec.models[scored].taps
        if owner != scored or tap not in taps:
            known = [f"{scored}.{name}" for name in taps]
            raise DataError.of(
                "KD714",
                f"{asked.student!r} is not a tap of {scored!r}",
                span=place,
                help=near(asked.student, known) or f"there are {', '.join(known) or 'none'}",
            )
        path = taps[tap]
    elif (only := output_tap(spec, scored)) is not None:
        path = spec.models[scored].taps[only]
    parsed = parse_tap(path)
    if not is_output(parsed):
        raise DataError.of(
            "KD714",
            f"{path!r} is not on the output of {scored!r}, which alone is run for evaluation",
            span=place,
        )
    classes = spec.batch[target].classes
    ignored, decoder = _ignored(spec, target), find_decoder(spec, target)
    passes = asked.passes if asked else None
    if passes is not None and (classes is None or decoder is not None):
        raise DataError.of(
            "KD714",
            "`passes` are averaged over probabilities of classes, which are not scored here",
            span=spec.span("train", "evaluate", "passes"),
        )
    return Score(scored, spec.inputs(scored), parsed, target, classes, ignored, decoder, passes)


def _ignored(spec: Spec, target: str) -> int:
    """The ``ignore_index`` of all that reads the labels; the usual one where nothing has any."""
    found: dict[str, int] = {}
    for part, entries in (("signals", spec.signals), ("losses", spec.losses)):
        for name, entry in entries.items():
            if (
                not hasattr(entry, "ignore_index")
                or target not in dict(entry.references()).values()
            ):
                continue
            found[name] = entry.ignore_index
            if entry.ignore_index != (first := next(iter(found.values()))):
                raise DataError.of(
                    "KD714",
                    f"which labels in {target!r} are not scored? {name!r} ignores "
                    f"{entry.ignore_index}, {next(iter(found))!r} ignores {first}",
                    span=spec.span(part, name, "ignore_index"),
                    help="give all that read the labels the same `ignore_index`",
                )
    return next(iter(found.values()), IGNORED)


def _target(spec: Spec, asked: str | None) -> str:
    if asked is not None:
        if asked not in spec.batch:
            raise DataError.of(
                "KD714",
                f"the batch has no entry {asked!r}",
                span=spec.span("train", "evaluate", "target"),
                help=near(asked, spec.batch),
            )
        return asked
    labels = [name for name, entry in spec.batch.items() if entry.classes]
    if len(labels) != 1:
        raise DataError.of(
            "KD714",
            "which batch entry is the truth? "
            + ("several have `classes`" if labels else "none has `classes`"),
            span=spec.span("batch"),
            help="write `train: {evaluate: {target: NAME}}`",
        )
    return labels[0]
