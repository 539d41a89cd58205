"""Several calls of one network: what they read, how they run as one, what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar, get_origin

from kdgraph.errors import Diagnostic, near
from kdgraph.spec.entry import SIGNALS, Entry
from kdgraph.spec.language import ModelSpec, Spec
from kdgraph.spec.names import Broken
from kdgraph.spec.tree import Keys, Places

E = TypeVar("E", bound=Entry)
Inputs = Mapping[str, str] | str
OWN_KEYS = ("input", "taps", "same_as")  # what a model that is another call may have


@dataclass(frozen=True)
class Together:
    """The calls of one network, as one run over their batches put together.

    Attributes:
        models: the models that call it, the one with the network first.
        batches: what each batch is read from: argument to entry, or the only entry's name.
        places: the batch of each call; a repeated one is called ``MODEL@1``, ``MODEL@2``, ...
    """

    models: tuple[str, ...]
    batches: tuple[Inputs, ...]
    places: Mapping[str, int]

    @property
    def several(self) -> bool:
        """Whether there is more than one call, on however many batches."""
        return len(self.places) > 1

    def entries(self, argument: str) -> list[str]:
        """The batch entries that an argument reads, one for each batch."""
        return [b if isinstance(b, str) else b[argument] for b in self.batches]


def together(spec: Spec, network: str) -> Together:
    """How the calls of a network run as one."""
    models = (network, *(m for m, written in spec.models.items() if written.same_as == network))
    alike = not spec.is_trainable(network) and not spec.models[network].dropout
    batches: list[Inputs] = []
    places: dict[str, int] = {}
    for model in models:
        inputs, passes = spec.inputs(model), spec.models[model].passes
        for number in range(1, (passes or 1) + 1):
            call = f"{model}@{number}" if passes else model
            if alike and not passes and inputs in batches:
                places[call] = batches.index(inputs)
            else:
                places[call] = len(batches)
                batches.append(inputs)
    return Together(models, tuple(batches), places)


def expanded(spec: Spec, references: Iterable[str]) -> list[str]:
    """References to tensors: a tap of repeated calls stands for ``TAP@1``, ``TAP@2``, ..."""
    return [
        f"{ref}@{n}" if passes > 1 else ref
        for ref in references
        for passes in [_passes(spec, ref)]
        for n in range(1, passes + 1)
    ]


def spread(spec: Spec, entry: E) -> E:
    """A signal or loss whose lists of references name every tensor."""
    lists = {f: v for f in entry.ref_fields() if isinstance(v := getattr(entry, f), tuple)}
    wide = {field: tuple(expanded(spec, refs)) for field, refs in lists.items()}
    return entry.model_copy(update=wide) if wide != lists else entry


def _passes(spec: Spec, reference: str) -> int:
    model, dot, _ = reference.partition(".")
    written = spec.models[model].passes if dot and model in spec.models else None
    return written or 1


def plain(tensor: str) -> str:
    """The reference that a tensor belongs to: ``teacher.logits`` of ``teacher.logits@2``."""
    return tensor.partition("@")[0]


def check_calls(
    spec: Spec, places: Places, references: Iterable[tuple[Keys, str]], broken: Broken = ()
) -> Iterator[Diagnostic]:
    """Everything wrong with ``same_as`` and ``passes``.

    Args:
        spec: what is checked.
        places: where its values were written.
        references: all of the spec, under the keys they were written at.
        broken: (section, name) of entries left out of ``spec``; to be another call of one is fine.
    """
    for name, model in spec.models.items():
        if model.same_as is not None and ("models", model.same_as) not in broken:
            yield from _call(spec, places, name, model.same_as)
        copied = spec.models.get(model.snapshot_of or "")
        if copied is not None and copied.same_as is not None:
            message = f"model {name!r} is a snapshot of {model.snapshot_of!r}, "
            message += "which has no network of its own"
            place = places.value(("models", name, "snapshot_of"))
            yield Diagnostic("KD213", message, place, f"write `snapshot_of: {copied.same_as}`")
    for network in spec.networks:
        yield from _batches(spec, places, network)
    yield from _single(spec, places, references)


def _call(spec: Spec, places: Places, name: str, network: str) -> Iterator[Diagnostic]:
    """Another call names a model with a network, and says nothing about the network."""
    place = places.value(("models", name, "same_as"))
    known = [n for n in spec.networks if n != name]
    base = spec.models.get(network)
    if base is None:
        help = near(network, known) or (f"there is {', '.join(known)}" if known else None)
        yield Diagnostic("KD202", f"there is no model {network!r}", place, help)
        return
    if base.same_as is not None:
        further = base.same_as if base.same_as in known else None
        help = f"write `same_as: {further}`" if further else None
        message = f"model {network!r} has no network of its own: it is `same_as` {base.same_as!r}"
        yield Diagnostic("KD213", message, place, help)
        return
    for key in ModelSpec.model_fields:
        if key in spec.models[name].model_fields_set and key not in OWN_KEYS:
            message = f"model {name!r} is another call of {network!r}, so it cannot have `{key}`"
            help = f"write it under {network!r}, or leave it out"
            yield Diagnostic("KD213", message, places.key(("models", name, key)), help)
    arguments = _arguments(spec.inputs(network))
    if _arguments(spec.inputs(name)) != arguments:
        form = "ENTRY"
        if arguments is not None:
            form = f"{{{', '.join(f'{a}: ENTRY' for a in arguments)}}}"
        message = f"model {name!r} does not read the arguments that {network!r} reads"
        place = places.key(("models", name, "input"))
        yield Diagnostic("KD213", message, place, f"write `input: {form}`")


def _arguments(inputs: Inputs) -> list[str] | None:
    return None if isinstance(inputs, str) else sorted(inputs)


def _batches(spec: Spec, places: Places, network: str) -> Iterator[Diagnostic]:
    """Batches that are put together: equal but for their rows, whose number is free."""
    calls = together(spec, network)
    forms = {str(_arguments(batch)) for batch in calls.batches}
    if len(calls.batches) < 2 or len(forms) > 1:
        return
    for argument in _arguments(calls.batches[0]) or [""]:
        entries = list(dict.fromkeys(calls.entries(argument)))
        if any(entry not in spec.batch for entry in entries):
            return  # an error of its own
        first = spec.batch[entries[0]]
        for name in entries:
            entry = spec.batch[name]
            if not isinstance(entry.shape[0], str):
                message = f"{name!r} has {entry.shape[0]} rows, but calls of one network are put "
                message += "together, so their number must be free"
                help = "write a letter such as B as its first size"
            elif (entry.shape, entry.dtype) != (first.shape, first.dtype):
                message = f"{name!r} and {entries[0]!r} are read by calls of one network, "
                message += f"{network!r}, so they must have equal shapes and types"
                help = None
            else:
                continue
            yield Diagnostic("KD214", message, places.value(("batch", name, "shape")), help)


def _single(
    spec: Spec, places: Places, references: Iterable[tuple[Keys, str]]
) -> Iterator[Diagnostic]:
    """References to repeated calls where one tensor is meant."""
    for keys, ref in references:
        passes = _passes(spec, ref)
        if passes > 1 and not isinstance(keys[-1], int):
            takers = ", ".join(n for n, signal in SIGNALS.items() if _takes_lists(signal))
            message = f"{ref!r} is {passes} tensors, one for each pass"
            help = f"a signal makes one of them: {takers}"
            yield Diagnostic("KD215", message, places.value(keys), help)


def _takes_lists(signal: type[Entry]) -> bool:
    """Whether a signal has a field for several references."""
    fields = signal.model_fields
    return any(get_origin(fields[name].annotation) is tuple for name in signal.ref_fields())
