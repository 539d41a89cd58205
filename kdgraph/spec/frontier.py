"""What a book can hold: the values that depend on a row and on constant models, and on no more."""

from __future__ import annotations

from collections.abc import Iterator

from kdgraph.errors import Diagnostic, Span
from kdgraph.spec.book import StoreSpec
from kdgraph.spec.entry import Entry, use_name
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import levels
from kdgraph.spec.names import Names
from kdgraph.spec.steer import Schedule
from kdgraph.spec.tree import Keys, Places

_OF_ORDER = ("hard_label", "ranking", "consistency")  # losses that any number on top leaves alone


def stored(spec: Spec) -> dict[str, StoreSpec]:
    """What the book of a spec holds, by reference, in the order in which it is read.

    As the ``book`` block says; where it names nothing, the frontier: each value that can be kept
    and that something reads which cannot.
    """
    if spec.book is not None and spec.book.store:
        return dict(spec.book.store)
    found: dict[str, StoreSpec] = {}
    seen: set[str] = set()
    waiting = list(readers(spec))
    while waiting:
        ref = _behind_link(spec, waiting.pop(0))
        if ref in seen:
            continue
        seen.add(ref)
        if taught(spec, ref) and unfit(spec, ref) is None:
            found[ref] = StoreSpec()
        elif ref in spec.signals:
            waiting += [of for _, of in spec.signals[ref].references()]
    return found


def why_nothing(spec: Spec) -> str | None:
    """Why the first value of a model behind the edges, if there is one, is none for a book."""
    told = ((ref, unfit(spec, ref)) for ref in readers(spec) if _of_frozen(spec, ref))
    return next((f"{ref!r} {why}" for ref, why in told if why is not None), None)


def unfit(spec: Spec, ref: str) -> str | None:
    """Why the value of a reference is not the same whenever a row comes up again; None if it is.

    The answer completes "it ...". Names that lead nowhere are fit: they are errors of their own.
    """
    reasons = (_unfit(spec, name) for name in _behind(spec, ref))
    return next((why for why in reasons if why is not None), None)


def _unfit(spec: Spec, ref: str) -> str | None:
    """The same of a single signal or tap, whatever stands behind it."""
    if (signal := spec.signals.get(ref)) is not None:
        if not signal.by_row():
            return f"depends on other rows of the batch, too ({signal.use})"
        if moving := _moving(signal):
            return f"moves with training, by the schedule of '{ref}.{moving}'"
        return None
    owner = ref.partition(".")[0]
    if owner in spec.links:
        return f"goes through the adapter of link {owner!r}, which is trained"
    if owner not in spec.models or (network := spec.models.get(spec.network(owner))) is None:
        return None
    if not spec.is_constant(owner):
        return f"depends on {owner!r}, which changes in training"
    if network.dropout:
        return f"depends on {owner!r}, which draws random numbers (`dropout: true`)"
    if network.batch_statistics:
        return f"depends on {owner!r}, which has `batch_statistics: true`"
    if spec.models[owner].passes:
        return f"depends on {owner!r}, which is several tensors, one for each pass"
    return None


def _of_frozen(spec: Spec, ref: str) -> bool:
    """Whether a model that is no student stands behind a reference."""
    owners = {name.partition(".")[0] for name in _behind(spec, _behind_link(spec, ref))}
    return any(not spec.is_trainable(name) for name in owners & spec.models.keys())


def taught(spec: Spec, ref: str) -> bool:
    """Whether a model stands behind a reference, and not the batch alone."""
    return any(name.partition(".")[0] in spec.models for name in _behind(spec, ref))


def _behind(spec: Spec, ref: str) -> Iterator[str]:
    """A reference and all that its signals are made of, each once."""
    seen: set[str] = set()
    waiting = [ref]  # no recursion: a spec may hold thousands of signals in a row, or a circle
    while waiting:
        name = _behind_link(spec, waiting.pop())
        if name not in seen:
            seen.add(name)
            yield name
            if name in spec.signals:
                waiting += [of for _, of in spec.signals[name].references()]


def check_book(spec: Spec, places: Places, names: Names) -> Iterator[Diagnostic]:
    """KD202 for what is not there to be kept, KD217 for what cannot be kept."""
    for ref in spec.book.store if spec.book else ():
        keys: Keys = ("book", "store", ref)
        place = places.key(keys)
        if (wrong := names.resolve(keys, ref)) is not None:
            yield Diagnostic(wrong.code, wrong.message, place, wrong.help)
            continue
        owner = ref.partition(".")[0]
        if owner in spec.links:
            message = f"a book keeps taps and signals; {ref!r} is the side of a link"
            side = getattr(spec.links[owner], ref.partition(".")[2])
            yield Diagnostic("KD217", message, place, f"write `{side}`, which it pairs")
        elif not taught(spec, ref):
            message = f"{ref!r} depends on no model, so there is nothing to keep"
            yield Diagnostic("KD217", message, place, "leave it out")
        elif (why := unfit(spec, ref)) is not None:
            help = "keep what it is made of" if ref in spec.signals else "leave it out"
            yield Diagnostic("KD217", f"a book cannot hold {ref!r}: it {why}", place, help)
        elif spec.book is not None and spec.book.store[ref].top_k is not None:
            yield from _not_as_logits(spec, ref, places.key((*keys, "top_k")) or place)


def _not_as_logits(spec: Spec, ref: str, place: Span | None) -> Iterator[Diagnostic]:
    """Losses that would take what is left of logits for all of them.

    Log-probabilities are logits less one number of each row, which makes no difference where a
    loss takes a softmax of them or looks at their order alone; to a distance it does.
    """
    for name, loss in spec.losses.items():
        reads = {_behind_link(spec, of) for _, of in loss.references()}
        if ref not in reads or of_logits(loss):
            continue
        message = (
            f"loss {name!r} ({loss.use}) takes the values of {ref!r} as they are, but `top_k` "
        )
        message += "keeps log-probabilities of some classes alone"
        yield Diagnostic("KD217", message, place, "keep it dense: `dtype: float16`, say")


def of_logits(loss: Entry | type[Entry]) -> bool:
    """Whether it makes probabilities of what it reads of a teacher, or looks at its order alone."""
    use = loss.use if isinstance(loss, Entry) else use_name(loss)
    return getattr(loss, "teaches_as", None) == "logits" or use in _OF_ORDER


def readers(spec: Spec) -> Iterator[str]:
    """What the edges and the weights of stages read."""
    for loss in spec.losses.values():
        yield from (ref for _, ref in loss.references())
    for _, level in levels(spec):
        yield from (weight for weight in level.losses.values() if isinstance(weight, str))


def _behind_link(spec: Spec, ref: str) -> str:
    """The tap or signal that the teacher side of a link is; other references as they are."""
    for _ in spec.links:  # a link may join another's sides
        owner, _, side = ref.partition(".")
        if owner not in spec.links or side != "teacher":
            break
        ref = spec.links[owner].teacher
    return ref


def _moving(entry: Entry) -> str | None:
    """The first steered number of an entry that follows a schedule."""
    return next((f for f in entry.steer_fields() if isinstance(getattr(entry, f), Schedule)), None)
