"""Metrics by name: those of torchmetrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torchmetrics
import torchmetrics.classification
import torchmetrics.text
from torchmetrics.text import Perplexity

from kdgraph.errors import DataError, Span, near
from kdgraph.spec.training import Metric, TrainSpec

_OF_LABELS = "Multiclass"  # how the names of metrics over labels begin in torchmetrics


def build_metrics(
    written: tuple[Metric, ...],
    classes: int | None,
    span: Span | None = None,
    *,
    text: bool = False,
) -> dict[str, torchmetrics.Metric]:
    """Metrics by the name that tables call them.

    Args:
        written: what the spec asks for.
        classes: number of classes of the labels, or None for numbers.
        span: where it asks for them.
        text: whether texts are compared, not labels or numbers.

    Raises:
        DataError: KD713 for an unknown name or argument.
    """
    known = _of_text() if text else _known(classes)
    built: dict[str, torchmetrics.Metric] = {}
    for metric in written:
        cls = known.get(_flat(metric.use))
        if cls is None:
            choices = sorted(_spoken(c, classes) for c in known.values())
            raise DataError.of(
                "KD713",
                f"torchmetrics has no metric {metric.use!r} for "
                + ("text" if text else "labels" if classes else "numbers"),
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
    if classes and cls.__name__.startswith(_OF_LABELS):
        own = {"num_classes": classes, "validate_args": False}
        if issubclass(cls, torchmetrics.classification.MulticlassStatScores):
            own["average"] = "micro"  # over samples, which is what "accuracy" says
    try:
        return cls(**(own | arguments))
    except (TypeError, ValueError) as error:
        raise DataError.of("KD713", f"{cls.__name__}: {error}", span=span) from error


def _known(classes: int | None) -> dict[str, type[torchmetrics.Metric]]:
    home, prefix = (torchmetrics.classification, _OF_LABELS) if classes else (torchmetrics, "")
    known = {
        _flat(name.removeprefix(_OF_LABELS)): value
        for name, value in vars(home).items()
        if isinstance(value, type)
        and issubclass(value, torchmetrics.Metric)
        and name.startswith(prefix)
    }
    return {**known, "perplexity": Perplexity} if classes else known


def _of_text() -> dict[str, type[torchmetrics.Metric]]:
    found = {_flat(name): getattr(torchmetrics.text, name) for name in torchmetrics.text.__all__}
    del found["perplexity"]  # of logits
    return found


def _flat(name: str) -> str:
    return name.replace("_", "").lower()


def _spoken(cls: type, classes: int | None) -> str:
    """``MulticlassF1Score`` -> ``f1_score``."""
    name = cls.__name__.removeprefix(_OF_LABELS) if classes else cls.__name__
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
