"""Checks of what a trainer hands over: names, shapes and types always, values when asked."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kdgraph.errors import InputError, near
from kdgraph.graph.ranks import world_size
from kdgraph.spec.calls import plain
from kdgraph.spec.language import BatchEntry, Spec
from kdgraph.spec.shapes import show


def check_batch(
    spec: Spec, batch: Mapping[str, Tensor], beside: torch.device | None = None
) -> None:
    """Checks names, shapes, types and places of a batch against the spec.

    Args:
        spec: says what a batch holds.
        batch: entry to tensor.
        beside: where the models are, if that is one kind of device.

    Raises:
        InputError: KD701 missing, KD702 unknown or without names, KD703 not a dense tensor or
            wrong type, KD704 wrong shape or empty, KD709 on another kind of device; each names the
            entry and its line in the spec.
    """
    if not isinstance(batch, Mapping):
        raise not_by_name(spec)
    for name in spec.batch:
        if name not in batch:
            given = ", ".join(sorted(batch)) or "nothing"
            raise InputError.of(
                "KD701", f"the batch has no {name!r}; given: {given}", span=spec.span("batch", name)
            )
    for name in batch:
        if name not in spec.batch:
            known = ", ".join(spec.batch)
            raise InputError.of(
                "KD702",
                f"the spec knows no batch entry {name!r}",
                help=near(name, spec.batch) or f"entries: {known}",
                span=spec.span("batch"),
            )
    letters: dict[str, tuple[int, str]] = {}
    for name, entry in spec.batch.items():
        _check_entry(name, entry, batch[name], spec, letters)
        if beside is not None and (at := batch[name].device).type != beside.type:
            raise InputError.of(
                "KD709",
                f"batch entry {name!r} is on {str(at)!r}, the models are on {str(beside)!r}",
                span=spec.span("batch", name),
                help=f"move it: batch[{name!r}].to({str(beside)!r})",
            )


def not_by_name(spec: Spec) -> InputError:
    """What is said of a batch that is a tuple or a tensor."""
    form = ", ".join(f"{name}=..." for name in spec.batch)
    return InputError.of("KD702", f"a batch is given by name: step({form})")


def _check_entry(
    name: str, entry: BatchEntry, value: object, spec: Spec, letters: dict[str, tuple[int, str]]
) -> None:
    span = spec.span("batch", name)
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise InputError.of(
            "KD703", f"batch entry {name!r} must be a tensor, not {kind}", span=span
        )
    if value.is_nested or value.layout != torch.strided:
        form = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        message = f"batch entry {name!r} must be a dense tensor, not a {form} one"
        raise InputError.of("KD703", message, span=span)
    wanted: torch.dtype = getattr(torch, entry.dtype)
    # any floating type will do for a floating entry: the trainer chooses the precision
    if value.dtype != wanted and not (wanted.is_floating_point and value.dtype.is_floating_point):
        raise InputError.of(
            "KD703",
            f"batch entry {name!r} must be {entry.dtype}, not "
            f"{str(value.dtype).removeprefix('torch.')}",
            span=span,
        )
    shape = tuple(value.shape)
    fits = len(shape) == len(entry.shape) and all(
        isinstance(w, str) or w == s for w, s in zip(entry.shape, shape, strict=True)
    )
    if not fits:
        form = "[" + ", ".join(str(s) for s in entry.shape) + "]"
        raise InputError.of(
            "KD704", f"batch entry {name!r} must have shape {form}, not {show(shape)}", span=span
        )
    if 0 in shape:  # every mean over it would be nan
        message = f"batch entry {name!r} is empty: {show(shape)}"
        raise InputError.of("KD704", message, span=span, help="leave empty batches out")
    for letter, size in zip(entry.shape, shape, strict=True):
        if isinstance(letter, str):
            before, where = letters.setdefault(letter, (size, name))
            if before != size:
                raise InputError.of(
                    "KD704",
                    f"batch entry {name!r} has {letter} = {size}, but {where!r} has {before}",
                    span=span,
                )


def check_values(spec: Spec, batch: Mapping[str, Tensor]) -> None:
    """Checks the values of a batch before they reach any running statistics.

    Integer labels must lie within their declared ``classes``; what a loss ignores
    (``ignore_index``) is fine, and what nothing reads, as in a stage without the labels.

    Raises:
        InputError: KD705 with the entry, the value and the edges that read it; KD706 for nan.
    """
    for name, entry in spec.batch.items():
        if batch[name].is_floating_point() and bool(torch.isnan(batch[name]).any()):
            raise InputError.of(
                "KD706", f"batch entry {name!r} holds nan", span=spec.span("batch", name)
            )
        if entry.classes is None or not batch[name].numel() or batch[name].is_floating_point():
            continue
        labels = batch[name]
        entries = {**spec.signals, **spec.losses}
        readers = {
            reader: getattr(read_by, "ignore_index", None)
            for reader, read_by in entries.items()
            if name in (ref for _, ref in read_by.references())
        }
        if not readers and name not in _inputs(spec):
            continue
        wrong = (labels < 0) | (labels >= entry.classes)
        if len(ignored := set(readers.values())) == 1 and (value := ignored.pop()) is not None:
            wrong &= labels != value
        if bool(wrong.any()):
            edges = ", ".join(repr(reader) for reader in readers) or "models"
            raise InputError.of(
                "KD705",
                f"batch entry {name!r} holds {labels[wrong][0].item()}, outside "
                f"0..{entry.classes - 1} (read by {edges})",
                span=spec.span("batch", name),
            )


def _inputs(spec: Spec) -> set[str]:
    """The batch entries that models read."""
    read = (spec.inputs(model) for model in spec.models)
    return {name for r in read for name in ([r] if isinstance(r, str) else r.values())}


def other_precision(
    spec: Spec, batch: Mapping[str, Tensor], models: torch.dtype | None, error: RuntimeError
) -> InputError | None:
    """KD703 for a step that failed on a batch of other floats than the models; None else.

    Such a batch is fine where autocast or the models themselves see to it, so that only the failure
    tells.

    Args:
        spec: says where the entry stands.
        batch: entry to tensor.
        models: the type of what is trained.
        error: what torch says.
    """
    if models is None or "type" not in str(error):
        return None
    for name, value in batch.items():
        if torch.is_autocast_enabled(value.device.type):
            continue
        if value.is_floating_point() and value.dtype != models:
            given, wanted = (str(t).removeprefix("torch.") for t in (value.dtype, models))
            said = str(error).partition("\n")[0]
            return InputError.of(
                "KD703",
                f"batch entry {name!r} is {given} and the models are {wanted}: {said}",
                span=spec.span("batch", name),
                help=f"batch[{name!r}].to(torch.{wanted}), or run the step under torch.autocast",
            )
    return None


def check_finite(
    spec: Spec, loss: Tensor, losses: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    """Finds where a total that is not finite comes from.

    Raises:
        InputError: KD706 for a tap that holds nan, with the edges that read it; KD707 for the
            first edge whose value is not finite although its inputs are numbers.
    """
    if bool(torch.isfinite(loss)):
        return
    for reference, value in outputs.items():
        if value.is_floating_point() and bool(torch.isnan(value).any()):
            model, tap = plain(reference).split(".", 1)
            edges = ", ".join(repr(e) for e in _readers(spec, plain(reference))) or "no edge"
            raise InputError.of(
                "KD706",
                f"tap {reference!r} holds nan (read by {edges})",
                span=spec.span("models", model, "taps", tap),
            )
    for edge, value in losses.items():
        if not bool(torch.isfinite(value)):
            raise InputError.of(
                "KD707",
                f"edge {edge!r} is {value.item()}, although every tap is a number"
                + (" on this rank" if world_size() > 1 else ""),
                span=spec.span("losses", edge),
            )


def _readers(spec: Spec, reference: str) -> list[str]:
    """Edges that read a tap directly, through a link or through signals."""
    names = {reference}
    names |= {f"{n}.student" for n, x in spec.links.items() if x.student == reference}
    names |= {f"{n}.teacher" for n, x in spec.links.items() if x.teacher == reference}
    for _ in spec.signals:  # signals may read signals; at most that many rounds
        names |= {n for n, s in spec.signals.items() if names & {ref for _, ref in s.references()}}
    return [n for n, loss in spec.losses.items() if names & {ref for _, ref in loss.references()}]
