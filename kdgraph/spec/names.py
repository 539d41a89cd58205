"""What the names of a spec stand for."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from kdgraph.errors import Diagnostic, Span, near
from kdgraph.spec.diagnose import as_name
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import actions, levels, targets
from kdgraph.spec.reserved import why_not
from kdgraph.spec.tree import Key, Keys, Places
from kdgraph.spec.types import NAME, SIDES

Broken = Collection[tuple[Key, Key]]
_WHAT = {
    "batch": "a batch entry",
    "models": "a model",
    "links": "a link",
    "signals": "a signal",
}


class Names:
    """What the names of a spec stand for."""

    def __init__(self, spec: Spec, places: Places, broken: Broken) -> None:
        self._spec = spec
        self._places = places
        self._broken = broken
        self._all = {section: dict.fromkeys(getattr(spec, section)) for section in _WHAT}
        self._all["losses"] = dict.fromkeys(spec.losses)
        for section, name in broken:  # as it may be referred to once it is mended
            if NAME.fullmatch(as_name(name)):
                self._all[str(section)].setdefault(as_name(name))

    def doubles(self) -> Iterator[Diagnostic]:
        """Names used for two things."""
        first: dict[str, str] = {}
        for section, what in _WHAT.items():
            for name in self._all[section]:
                if name in first:
                    message = f"{name!r} is already the name of {first[name]}"
                    help = f"give the {what.partition(' ')[2]} another name"
                    yield Diagnostic("KD203", message, self._places.key((section, name)), help)
                first.setdefault(name, what)

    def reserved(self) -> Iterator[Diagnostic]:
        """Names that the step, which is Python and torch, cannot have."""
        for section, names in self._all.items():
            for name in names:
                if (why := why_not(section, name)) is not None:
                    message = f"{name!r} {why}, so nothing can have it as its name"
                    place = self._places.key((section, name))
                    yield Diagnostic("KD209", message, place, f"write `{name}_`, say")

    def batch(self, keys: Keys, ref: str) -> Diagnostic | None:
        """A model's input must be a batch entry."""
        if ref in (entries := self._all["batch"]):
            return None
        return self._error(keys, f"the batch has no entry {ref!r}", _near_or_all(ref, entries))

    def resolve(self, keys: Keys, ref: str) -> Diagnostic | None:
        """What is wrong with a reference, if anything."""
        owner, dot, part = ref.partition(".")
        entry = not dot and owner in self._all["batch"]  # it may be taught by, not be taught
        if keys[0] == "links" and (
            owner in self._all["links"] or (entry and keys[-1] == "student")
        ):
            return self._error(keys, f"a link joins taps or signals, not {ref!r}", None)
        if keys[-1] == "link" and owner not in (links := self._all["links"]):
            return self._error(keys, f"there is no link {owner!r}", _near_or_all(owner, links))
        if not dot:
            return self._bare(keys, owner)
        if owner in self._all["models"]:
            return self._tap(keys, owner, part)
        if owner in self._all["links"]:
            if part in SIDES:
                return None
            return self._error(
                keys, f"a link has no {part!r}", near(part, SIDES) or "`student` or `teacher`"
            )
        if owner in self._all["signals"] or owner in self._all["batch"]:
            return self._error(keys, f"{owner!r} has no parts; write just {owner!r}", None)
        help = _near_or_all(owner, [*self._all["models"], *self._all["links"]])
        return self._error(keys, f"there is no model or link {owner!r}", help)

    def _bare(self, keys: Keys, name: str) -> Diagnostic | None:
        signals, batch = self._all["signals"], self._all["batch"]
        if name in signals or name in batch:
            return None
        if name in self._all["models"]:
            taps = ", ".join(f"{name}.{t}" for t in self._taps(name)[:4])
            return self._error(keys, f"{name!r} is a model; name one of its taps", taps or None)
        if name in self._all["links"]:
            help = f"{name}.student or {name}.teacher"
            return self._error(keys, f"{name!r} is a link; name one of its sides", help)
        found = _near_or_all(name, [*signals, *batch])
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
        for keys, level in levels(self._spec):
            for section, key, what in (
                ("losses", "losses", "loss"),
                ("models", "trainable", "model"),
            ):
                for name in getattr(level, key):
                    place = self._places.key((*keys, key, name))
                    yield from self._known(section, what, name, place)
        for at, stage in enumerate(self._spec.stages):
            for inner, action in actions(stage):
                for field, model in targets(action):
                    place = self._places.value(("stages", at, *inner, *field))
                    yield from self._known("models", "model", model, place)

    def _known(
        self, section: str, what: str, name: str, place: Span | None
    ) -> Iterator[Diagnostic]:
        if name not in (choices := self._all[section]):
            yield Diagnostic("KD202", f"there is no {what} {name!r}", place, near(name, choices))

    def _error(self, keys: Keys, message: str, help: str | None) -> Diagnostic:
        return Diagnostic("KD202", message, self._places.value(keys), help)


def _near_or_all(name: str, choices: Collection[str]) -> str | None:
    """A near match, or what there is; nothing among hundreds, where looking takes long."""
    if not choices or len(choices) > 200:
        return None
    more = ", ..." if len(choices) > 8 else ""
    return near(name, choices) or f"there is {', '.join(list(choices)[:8])}{more}"
