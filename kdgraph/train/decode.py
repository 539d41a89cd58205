"""From logits of frames to text, for metrics that compare text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from kdgraph.errors import DataError
from kdgraph.losses.ctc import CTC
from kdgraph.signals.base import Signal
from kdgraph.spec.language import Spec
from kdgraph.spec.steer import Schedule
from kdgraph.spec.training import Decode


@dataclass(frozen=True)
class Decoder:
    """Greedy CTC decoding: the best class of each frame, repeats joined, blanks left out.

    Attributes:
        spec: whose batch entries and signals give the lengths.
        edge: the edge that says which class is the blank, and what the lengths are.
        symbols: what each other class is written as.
    """

    spec: Spec
    edge: CTC
    symbols: Mapping[int, str]

    def read(self, logits: Tensor, batch: Mapping[str, Tensor]) -> list[str]:
        """The text of each utterance, from logits [B, F, V]."""
        lengths = _lengths(self.spec, self.edge.input_lengths, batch)
        best = logits.argmax(2).tolist()
        return [self._joined(row[:length]) for row, length in zip(best, lengths, strict=True)]

    def truth(self, batch: Mapping[str, Tensor]) -> list[str]:
        """The text of each target [B, S]."""
        lengths = _lengths(self.spec, self.edge.target_lengths, batch)
        labels = batch[self.edge.target].tolist()
        return ["".join(self.symbols.get(k, "") for k in row[:length])
                for row, length in zip(labels, lengths, strict=True)]  # fmt: skip

    def _joined(self, row: list[int]) -> str:
        new = [k for at, k in enumerate(row) if at == 0 or k != row[at - 1]]
        return "".join(self.symbols.get(k, "") for k in new)


def find_decoder(spec: Spec, target: str) -> Decoder | None:
    """What ``evaluate`` asks for, by the edge ``ctc`` on the target; None where it does not.

    Raises:
        DataError: KD714 when there is no such edge, when its lengths do not come from the batch
            alone, or when the symbols are not one for each class.
    """
    written: Decode | None = spec.train.evaluate.decode if spec.train else None
    if written is None:
        return None
    place = spec.span("train", "evaluate", "decode")
    edge = next(
        (e for e in spec.losses.values() if isinstance(e, CTC) and e.target == target), None
    )
    if edge is None:
        raise DataError.of(
            "KD714",
            f"`decode` takes blank and lengths from an edge `ctc` with the target {target!r}, "
            "and there is none",
            span=place,
        )
    for ref in (edge.input_lengths, edge.target_lengths):
        if not _from_batch(spec, ref):
            message = f"{ref!r} has to come from the batch alone: no other model runs here, "
            message += "and no schedule"
            raise DataError.of("KD714", message, span=place)
    classes = spec.batch[target].classes
    if classes is not None and len(written.symbols) != classes - 1:
        raise DataError.of(
            "KD714",
            f"{len(written.symbols)} symbols for {classes} classes, one of them the blank",
            span=place,
        )
    # the blank has none
    numbers = (k if k < edge.blank else k + 1 for k in range(len(written.symbols)))
    return Decoder(spec, edge, dict(zip(numbers, written.symbols, strict=True)))


def _from_batch(spec: Spec, ref: str) -> bool:
    if (signal := spec.signals.get(ref)) is None:
        return ref in spec.batch
    if any(isinstance(getattr(signal, field), Schedule) for field in signal.steer_fields()):
        return False
    return all(_from_batch(spec, inner) for _, inner in signal.references())


def _lengths(spec: Spec, ref: str, batch: Mapping[str, Tensor]) -> list[int]:
    """What ``ctc`` takes as lengths, which cuts fractions off."""
    lengths: list[int] = _of_batch(spec, ref, batch).long().tolist()
    return lengths


def _of_batch(spec: Spec, ref: str, batch: Mapping[str, Tensor]) -> Tensor:
    """A batch entry, or a signal over batch entries and numbers."""
    if ref in spec.batch:
        return batch[ref]
    signal = cast(Signal, spec.signals[ref])
    inputs: dict[str, Any] = {}
    for field in (*signal.ref_fields(), *signal.steer_fields()):
        value = getattr(signal, field)
        if isinstance(value, str):
            inputs[field] = _of_batch(spec, value, batch)
        elif isinstance(value, tuple):
            inputs[field] = [_of_batch(spec, inner, batch) for inner in value]
        elif value is not None:
            inputs[field] = value
    return signal.forward(**inputs)
