"""Names that a spec refers to: every one must lead somewhere, and to one thing only."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from kdgraph.errors import Diagnostic
from kdgraph.spec.adapted import check_adapted
from kdgraph.spec.calls import check_calls
from kdgraph.spec.frontier import check_book
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import actions, check_stages, learning, levels, targets, touched
from kdgraph.spec.names import Broken, Names
from kdgraph.spec.roles import check_roles
from kdgraph.spec.tree import Keys, Places, at_most
from kdgraph.spec.types import SIDES


def check_references(spec: Spec, places: Places, *, broken: Broken = ()) -> list[Diagnostic]:
    """Every name that leads nowhere, in any order.

    Args:
        spec: what is checked.
        places: where its values were written.
        broken: (section, name) of entries left out of ``spec`` because they have errors of
            their own; a reference to one of them is fine.
    """
    names = Names(spec, places, broken)
    found = itertools.chain(
        names.doubles(),
        names.reserved(),
        (d for keys, ref in _inputs(spec) if (d := names.batch(keys, ref))),
        (d for keys, ref in _references(spec) if (d := names.resolve(keys, ref))),
        names.stages(),
        _whole_numbers(spec, places),
        _with_itself(spec, places),
        _trained_precision(spec, places),
        check_roles(spec, places, broken),
        check_adapted(spec, places, broken),
        check_calls(spec, places, _references(spec), broken),
        _cycles(spec, places),
        () if broken else _nothing_to_train(spec, places),
        () if broken else check_stages(spec, places),
        () if broken else check_book(spec, places, names),
    )
    return at_most(_once(found))


def _once(found: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
    """Each finding the first time; no more is looked for than is asked for."""
    seen: set[Diagnostic] = set()
    for one in found:
        if one not in seen:
            seen.add(one)
            yield one


def _nothing_to_train(spec: Spec, places: Places) -> Iterator[Diagnostic]:
    if not spec.stages and not any(spec.is_trainable(m) for m in spec.models):
        help = "write `trainable: true` in one, or name it `student`"
        yield Diagnostic("KD205", "no model is trainable", places.key(("models",)), help)


def _whole_numbers(spec: Spec, places: Places) -> Iterator[Diagnostic]:
    """Steered numbers that would be read from labels."""
    for keys, ref in _steered(spec):
        if ref in spec.signals or (entry := spec.batch.get(ref)) is None:
            continue
        whole = entry.dtype.startswith(("int", "uint"))
        if whole or entry.classes is not None:
            held = "class" if entry.classes is not None else "whole"
            what = "weight" if keys[0] == "stages" else keys[-1]
            message = f"{ref!r} holds {held} numbers, not values for {what!r}"
            help = "write a number, a schedule, or the name of a signal or a float batch entry"
            yield Diagnostic("KD206", message, places.value(keys), help)


def _steered(spec: Spec) -> Iterator[tuple[Keys, str]]:
    """References that stand where a number could, with their keys."""
    for section, entries in (("signals", spec.signals), ("losses", spec.losses)):
        for name, entry in entries.items():
            for field in entry.steer_fields():
                if isinstance(value := getattr(entry, field), str):
                    yield (section, name, field), value
    for keys, level in levels(spec):
        for name, weight in level.losses.items():
            if isinstance(weight, str):
                yield (*keys, "losses", name), weight


def _with_itself(spec: Spec, places: Places) -> Iterator[Diagnostic]:
    """Losses that compare a tensor with itself."""
    for name, loss in spec.losses.items():
        student, teacher = (getattr(loss, side, None) for side in SIDES)
        if student is not None and student == teacher:
            message = f"'student' and 'teacher' are both {student!r}"
            help = "name another tap here, or a signal"
            yield Diagnostic("KD207", message, places.value(("losses", name, "teacher")), help)


def _trained_precision(spec: Spec, places: Places) -> Iterator[Diagnostic]:
    """Models whose weights would have to be trained, or changed, in fewer digits."""
    trained, changed = learning(spec), touched(spec)
    for name, model in spec.models.items():
        if model.precision is None:
            continue
        place = places.key(("models", name, "precision"))
        if spec.is_trainable(name) or name in trained:
            where = "" if spec.is_trainable(name) else " in a stage"
            message = f"model {name!r} is trained{where}, so it cannot have `precision`"
            help = "`precision` is for frozen models; a trained one computes in that of the trainer"
            yield Diagnostic("KD208", message, place, help)
        elif name in changed:
            message = f"an action changes model {name!r}, so it cannot have `precision`"
            help = "`precision` is for models whose weights never change"
            yield Diagnostic("KD208", message, place, help)


def unused(spec: Spec, places: Places) -> list[Diagnostic]:
    """Warnings for models, taps, links and signals that nothing reads."""
    read = {ref for _, ref in _references(spec)}
    owners = {ref.partition(".")[0] for ref in read}
    owners |= {m for stage in spec.stages for _, act in actions(stage) for _, m in targets(act)}
    owners |= {m.start_from.model for m in spec.models.values() if m.start_from is not None}
    idle: list[tuple[Keys, str]] = []
    for model, written in spec.models.items():
        if model not in owners:
            idle.append((("models", model), f"model {model!r}"))
            continue
        taps = [t for t in written.taps if f"{model}.{t}" not in read]
        idle += [(("models", model, "taps", tap), f"tap '{model}.{tap}'") for tap in taps]
    idle += [(("links", n), f"link {n!r}") for n in spec.links if n not in owners]
    idle += [(("signals", n), f"signal {n!r}") for n in spec.signals if n not in read]
    return [
        Diagnostic("KD210", f"nothing reads {what}", places.key(keys), severity="warning")
        for keys, what in idle
    ]


def _references(spec: Spec) -> Iterator[tuple[Keys, str]]:
    """Every reference of links, signals and losses, under the keys it was written at."""
    for name, link in spec.links.items():
        for side in SIDES:
            yield ("links", name, side), getattr(link, side)
    for name, signal in spec.signals.items():
        yield from ((("signals", name, *keys), ref) for keys, ref in signal.references())
    for name, loss in spec.losses.items():
        for keys, ref in loss.references():
            hidden = loss.link is not None and keys[0] in SIDES
            yield ("losses", name, *(("link",) if hidden else keys)), ref
    yield from (found for found in _steered(spec) if found[0][0] == "stages")


def _inputs(spec: Spec) -> Iterator[tuple[Keys, str]]:
    for name, model in spec.models.items():
        if isinstance(model.input, str):
            yield ("models", name, "input"), model.input
        elif model.input is not None:
            yield from ((("models", name, "input", a), ref) for a, ref in model.input.items())


def _cycles(spec: Spec, places: Places) -> Iterable[Diagnostic]:
    """Signals and links that need each other; each circle once."""
    others = {*spec.models, *spec.batch}  # a name used twice is an error of its own
    needs: dict[str, list[str]] = {n: [] for n in (*spec.signals, *spec.links) if n not in others}
    for keys, ref in _references(spec):
        user, target = str(keys[1]), ref.partition(".")[0]
        if keys[0] in ("signals", "links") and user in needs and target in needs:
            needs[user].append(target)
    done: set[str] = set()
    for start in needs:
        path: list[str] = []
        turns = [iter([start])]  # an own stack: a spec may hold thousands of signals in a row
        while turns:
            name = next(turns[-1], None)
            if name is None:
                turns.pop()
                if path:
                    done.add(path.pop())
            elif name in path:
                circle = [*path[path.index(name) :], name]
                section = "signals" if name in spec.signals else "links"
                shown = circle if len(circle) <= 12 else [*circle[:10], "...", name]
                what = "signals and links" if any(n in spec.links for n in circle) else "signals"
                message = f"{what} go in a circle: {' -> '.join(shown)}"
                yield Diagnostic("KD204", message, places.key((section, name)))
            elif name not in done:
                path.append(name)
                turns.append(iter(needs[name]))
