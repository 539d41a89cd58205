"""Names that a spec refers to: every one must lead somewhere, and to one thing only."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from kdgraph.errors import Diagnostic, near
from kdgraph.spec.diagnose import as_name
from kdgraph.spec.language import Spec
from kdgraph.spec.tree import Key, Keys, Places

Broken = Collection[tuple[Key, Key]]
SIDES = ("student", "teacher")


def check_references(spec: Spec, places: Places, *, broken: Broken = ()) -> list[Diagnostic]:
    """Every name that leads nowhere, in any order.

    Args:
        spec: what is checked.
        places: where its values were written.
        broken: (section, name) of entries left out of ``spec`` because they have errors of
            their own; a reference to one of them is fine.
    """
    names = _Names(spec, places, broken)
    found = list(names.doubles())
    found += [d for keys, ref in _inputs(spec) if (d := names.batch(keys, ref))]
    found += [d for keys, ref in _references(spec) if (d := names.resolve(keys, ref))]
    found += names.stages()
    found += _cycles(spec, places)
    if not broken and not any(spec.is_trainable(m) for m in spec.models):
        help = "write `trainable: true` in one, or name it `student`"
        found.append(Diagnostic("KD205", "no model is trainable", places.key(("models",)), help))
    return found


def unused(spec: Spec, places: Places) -> list[Diagnostic]:
    """Warnings for models, taps, links and signals that nothing reads."""
    read = {ref for _, ref in _references(spec)}
    owners = {ref.partition(".")[0] for ref in read}
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


def not_yet(spec: Spec) -> list[Diagnostic]:
    """Parts of the language that are checked, but that this version cannot compile."""
    if not spec.stages:
        return []
    message = "stages are checked, but this version does not run them"
    return [Diagnostic("KD190", message, spec.span("stages"), "leave `stages` out")]


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
    for at, stage in enumerate(spec.stages):
        for name, weight in stage.losses.items():
            if isinstance(weight, str):
                yield ("stages", at, "losses", name), weight


def _inputs(spec: Spec) -> Iterator[tuple[Keys, str]]:
    for name, model in spec.models.items():
        if isinstance(model.input, str):
            yield ("models", name, "input"), model.input
        elif model.input is not None:
            yield from ((("models", name, "input", a), ref) for a, ref in model.input.items())


class _Names:
    """What the names of a spec stand for."""

    def __init__(self, spec: Spec, places: Places, broken: Broken) -> None:
        self._spec = spec
        self._places = places
        self._broken = broken

    def _all(self, section: str) -> list[str]:
        """The names of a section, those of broken entries too."""
        left_out = [str(n) for s, n in self._broken if s == section]
        names = [*getattr(self._spec, section), *left_out]
        return names + [as_name(n) for n in left_out if as_name(n) not in names]

    def doubles(self) -> Iterator[Diagnostic]:
        """Names used for two things."""
        first: dict[str, str] = {}
        for section, what in _WHAT.items():
            for name in self._all(section):
                if name in first:
                    message = f"{name!r} is already the name of {first[name]}"
                    help = f"give the {what.partition(' ')[2]} another name"
                    yield Diagnostic("KD203", message, self._places.key((section, name)), help)
                first.setdefault(name, what)

    def batch(self, keys: Keys, ref: str) -> Diagnostic | None:
        """A model's input must be a batch entry."""
        if ref in (entries := self._all("batch")):
            return None
        return self._error(keys, f"the batch has no entry {ref!r}", _near_or_all(ref, entries))

    def resolve(self, keys: Keys, ref: str) -> Diagnostic | None:
        """What is wrong with a reference, if anything."""
        owner, dot, part = ref.partition(".")
        if keys[0] == "links" and (
            owner in self._all("links") or (not dot and owner in self._all("batch"))
        ):
            return self._error(keys, f"a link joins taps or signals, not {ref!r}", None)
        if keys[-1] == "link" and owner not in (links := self._all("links")):
            return self._error(keys, f"there is no link {owner!r}", _near_or_all(owner, links))
        if not dot:
            return self._bare(keys, owner)
        if owner in self._all("models"):
            return self._tap(keys, owner, part)
        if owner in self._all("links"):
            if part in SIDES:
                return None
            return self._error(
                keys, f"a link has no {part!r}", near(part, SIDES) or "`student` or `teacher`"
            )
        if owner in [*self._all("signals"), *self._all("batch")]:
            return self._error(keys, f"{owner!r} has no parts; write just {owner!r}", None)
        choices = [*self._all("models"), *self._all("links")]
        help = _near_or_all(owner, choices)
        return self._error(keys, f"there is no model or link {owner!r}", help)

    def _bare(self, keys: Keys, name: str) -> Diagnostic | None:
        choices = [*self._all("signals"), *self._all("batch")]
        if name in choices:
            return None
        if name in self._all("models"):
            taps = ", ".join(f"{name}.{t}" for t in self._taps(name)[:4])
            return self._error(keys, f"{name!r} is a model; name one of its taps", taps or None)
        if name in self._all("links"):
            help = f"{name}.student or {name}.teacher"
            return self._error(keys, f"{name!r} is a link; name one of its sides", help)
        found = _near_or_all(name, choices)
        return self._error(keys, f"there is no signal or batch entry {name!r}", found)

    def _taps(self, model: str) -> list[str]:
        return list(self._spec.models[model].taps) if model in self._spec.models else []

    def _tap(self, keys: Keys, model: str, tap: str) -> Diagnostic | None:
        if ("models", model) in self._broken or tap in (taps := self._taps(model)):
            return None
        help = near(tap, taps) or (
            f"its taps are {', '.join(taps)}" if taps else f"write it under models.{model}.taps"
        )
        return self._error(keys, f"model {model!r} has no tap {tap!r}", help)

    def stages(self) -> Iterator[Diagnostic]:
        """Stages may only speak of losses and models that there are."""
        for at, stage in enumerate(self._spec.stages):
            for section, key, what in (
                ("losses", "losses", "loss"),
                ("models", "trainable", "model"),
            ):
                choices = self._all(section)
                for name in getattr(stage, key):
                    if name not in choices:
                        place = self._places.key(("stages", at, key, name))
                        message = f"there is no {what} {name!r}"
                        yield Diagnostic("KD202", message, place, near(name, choices))

    def _error(self, keys: Keys, message: str, help: str | None) -> Diagnostic:
        return Diagnostic("KD202", message, self._places.value(keys), help)


def _near_or_all(name: str, choices: list[str]) -> str | None:
    if (meant := near(name, choices)) is not None or not choices:
        return meant
    more = ", ..." if len(choices) > 8 else ""
    return f"there is {', '.join(choices[:8])}{more}"


_WHAT = {
    "batch": "a batch entry",
    "models": "a model",
    "links": "a link",
    "signals": "a signal",
}


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
                what = "signals and links" if any(n in spec.links for n in circle) else "signals"
                message = f"{what} go in a circle: {' -> '.join(circle)}"
                yield Diagnostic("KD204", message, places.key((section, name)))
            elif name not in done:
                path.append(name)
                turns.append(iter(needs[name]))
