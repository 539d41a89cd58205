"""What a model is scored on: one of its outputs against one batch entry, by torchmetrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torchmetrics
import torchmetrics.classification
from torch import Tensor, nn

from kdgraph.capture.record import reach
from kdgraph.capture.taps import TapPath, parse_tap
from kdgraph.errors import DataError, Span, near
from kdgraph.spec.language import Spec
from kdgraph.spec.training import Metric, TrainSpec


@dataclass(frozen=True)
class Score:
    """A prediction and its truth.

    Attributes:
        model: name of the model in the spec.
        inputs: what its forward reads, as the spec says.
        tap: where the prediction is in the model's own output.
        target: the batch entry with the truth.
        classes: number of classes, or None where the target is a number.
    """

    model: str
    inputs: Mapping[str, str] | str
    tap: TapPath
    target: str
    classes: int | None

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
        if self.classes is None:
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
    learning = [name for name in spec.models if spec.is_trainable(name)]
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
    return Score(scored, spec.inputs(scored), parsed, target, spec.batch[target].classes)


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


def build_metrics(
    written: tuple[Metric, ...], classes: int | None, span: Span | None = None
) -> dict[str, torchmetrics.Metric]:
    """Metrics by the name that tables call them.

    Raises:
        DataError: KD713 for an unknown name or argument.
    """
    known = _known(classes)
    built: dict[str, torchmetrics.Metric] = {}
    for metric in written:
        cls = known.get(_flat(metric.use))
        if cls is None:
            choices = sorted(_spoken(c, classes) for c in known.values())
            raise DataError.of(
                "KD713",
                f"torchmetrics has no metric {metric.use!r} for "
                + ("labels" if classes else "numbers"),
                span=span,
                help=near(metric.use, choices) or f"among others: {', '.join(choices[:12])}",
            )
        if metric.title in built:
            message = f"two metrics are called {metric.title!r}; give one another `name`"
            raise DataError.of("KD713", message, span=span)
        built[metric.title] = _metric(cls, metric.arguments, classes, span)
    return built


def monitored(settings: TrainSpec) -> str:
    """The metric that decides which weights are best."""
    return settings.monitor or settings.metrics[0].title


def rises(metrics: Mapping[str, torchmetrics.Metric], name: str, span: Span | None = None) -> bool:
    """Whether a larger value of a metric is a better one.

    Raises:
        DataError: KD713 when there is no such metric, or it says nothing of the kind.
    """
    found = getattr(metrics.get(name), "higher_is_better", None)
    if found is None:
        what = "says not whether more is better" if name in metrics else "is not among the metrics"
        raise DataError.of("KD713", f"{name!r} {what}: {', '.join(metrics)}", span=span)
    return bool(found)


def _metric(
    cls: type[torchmetrics.Metric],
    arguments: dict[str, Any],
    classes: int | None,
    span: Span | None,
) -> torchmetrics.Metric:
    own: dict[str, Any] = {}
    if classes:
        own = {"num_classes": classes, "validate_args": False}
        if issubclass(cls, torchmetrics.classification.MulticlassStatScores):
            own["average"] = "micro"  # over samples, which is what "accuracy" says
    try:
        return cls(**(own | arguments))
    except (TypeError, ValueError) as error:
        raise DataError.of("KD713", f"{cls.__name__}: {error}", span=span) from error


def _known(classes: int | None) -> dict[str, type[torchmetrics.Metric]]:
    home = torchmetrics.classification if classes else torchmetrics
    return {
        _flat(name.removeprefix("Multiclass")): value
        for name, value in vars(home).items()
        if isinstance(value, type)
        and issubclass(value, torchmetrics.Metric)
        and name.startswith("Multiclass" if classes else "")
    }


def _flat(name: str) -> str:
    return name.replace("_", "").lower()


def _spoken(cls: type, classes: int | None) -> str:
    """``MulticlassF1Score`` -> ``f1_score``."""
    name = cls.__name__.removeprefix("Multiclass") if classes else cls.__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
