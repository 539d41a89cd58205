"""A spec in the making, and an account of what it was made from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kdgraph.importers._tagged import At
from kdgraph.importers.base import Carried, Left
from kdgraph.spec.reserved import why_not

_TAP = re.compile(r"\w+(\.\w+)*", re.ASCII)


@dataclass
class Line:
    """One entry of a section, and what is said about it above it."""

    value: Any
    remarks: list[str] = field(default_factory=list)


@dataclass
class Model:
    """An entry under ``models``."""

    source: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    input: Any = None
    trainable: bool | None = None
    taps: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def as_value(self) -> dict[str, Any]:
        """The entry; what is left out has its default."""
        parts = {
            "source": self.source,
            "args": self.args or None,
            "weights": self.weights,
            "input": self.input,
            "trainable": self.trainable,
            "taps": self.taps or None,
        }
        return {key: value for key, value in parts.items() if value is not None}


@dataclass
class Draft:
    """The sections of the spec, in order, and the two lists of the report."""

    name: str = "imported"
    header: list[str] = field(default_factory=list)
    batch: dict[str, Line] = field(default_factory=dict)
    models: dict[str, Model] = field(default_factory=dict)
    links: dict[str, Line] = field(default_factory=dict)
    signals: dict[str, Line] = field(default_factory=dict)
    losses: dict[str, Line] = field(default_factory=dict)
    stages: list[Line] = field(default_factory=list)
    data: Line | None = None
    train: Line | None = None
    missing: dict[str, list[str]] = field(default_factory=dict)
    carried: list[Carried] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    lost: list[Left] = field(default_factory=list)  # losses without an edge

    def carry(self, at: At, to: str, *, whole: bool = False) -> None:
        """Notes that ``at`` became something, with ``whole`` all that is inside of it."""
        at.ledger.take(at.path, whole=whole)
        self.carried.append(Carried(at.where, to, at.span))

    def leave(self, at: At, what: str, why: str, section: str | None = None) -> None:
        """Notes that ``at`` and all in it is left out; ``section`` of the spec says so, too."""
        at.ledger.take(at.path, whole=True)
        self.left.append(Left(at.where, what, why, at.span))
        if section == "losses":
            self.lost.append(self.left[-1])
        if section is not None:
            line = f"line {at.span.line}: " if at.span else ""
            self.missing.setdefault(section, []).append(f"{line}{what} is left out: {why}")

    def differs(self, at: At, what: str, why: str) -> str:
        """Notes that ``at`` is carried, but does not mean the same; gives the remark back."""
        self.left.append(Left(at.where, what, why, at.span))
        line = f"line {at.span.line}: " if at.span else ""
        return f"{line}{what}: {why}"

    def settle(self, root: At) -> None:
        """Lists every part of the file that nothing looked at."""
        for at in root.ledger.missed(root):
            self.left.append(Left(at.where, "a key", "this importer does not know it", at.span))

    def prune(self) -> None:
        """Takes away links, signals, taps and models that no edge reads, directly or not."""
        waiting = [line.value for line in self.losses.values()]
        read: set[str] = set()
        while waiting:
            for ref in _texts(waiting.pop()):
                name = ref.partition(".")[0]
                if ref not in read:
                    read |= {ref, name}
                    for section in (self.links, self.signals):
                        waiting += [section[name].value] if name in section else []
        for section in (self.links, self.signals):
            for name in [n for n in section if n not in read]:
                del section[name]
        for name, model in self.models.items():
            model.taps = {t: text for t, text in model.taps.items() if f"{name}.{t}" in read}
        for name in [n for n, m in self.models.items() if not m.taps and n != "student"]:
            del self.models[name]
            self.missing.setdefault("models", []).append(f"{name} is left out: no edge reads it")

    def tap(self, model: str, text: str) -> str:
        """The reference to a tap of a model, which is added where there is none of that text."""
        taps = self.models[model].taps
        for name, known in taps.items():
            if known == text:
                return f"{model}.{name}"
        base = "logits" if text in ("output", "output.logits", "output.out") else text
        name = _free(word(base.replace(":in", "_in").replace("@", "_")), taps)
        taps[name] = text
        return f"{model}.{name}"

    def text(self, ref: str) -> str:
        """The path of the tap that a reference names."""
        model, _, tap = ref.partition(".")
        return self.models[model].taps[tap]

    def link(self, name: str, value: dict[str, Any], remarks: list[str]) -> str:
        """The name of a link of this value, which is added where there is none."""
        known = next((n for n, line in self.links.items() if line.value == value), None)
        if known is not None:
            return known
        made = self.fresh(name, "links")
        self.links[made] = Line(value, remarks)
        return made

    def signal(self, name: str, value: dict[str, Any], *remarks: str) -> str:
        """The name of a signal of this value, which is added where there is none."""
        known = next((n for n, line in self.signals.items() if line.value == value), None)
        if known is not None:
            return known
        made = self.fresh(name, "signals")
        self.signals[made] = Line(value, list(remarks))
        return made

    def edge(self, name: str, value: dict[str, Any], remarks: list[str]) -> str:
        """Adds an edge; its name is ``name`` or like it. An equal one of that name is kept."""
        if name in self.losses and self.losses[name].value == value:
            return name
        made = self.fresh(name, "losses")
        self.losses[made] = Line(value, remarks)
        return made

    def fresh(self, name: str, section: str) -> str:
        """A name like ``name`` that nothing has and everything may have."""
        made = word(name)
        if why_not(section, made) is not None:
            made += "_"
        used = {*self.batch, *self.models, *self.links, *self.signals}
        return _free(made, used | set(self.losses) if section == "losses" else used)


def _texts(value: Any) -> Iterator[str]:
    """Every text that is a value within ``value``."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def word(text: str) -> str:
    """Text as a name: letters, digits and underscores, not a digit first."""
    made = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_") or "part"
    return f"n{made}" if made[0].isdigit() else made


def is_path(text: str) -> bool:
    """Whether text can name a submodule in a tap."""
    return _TAP.fullmatch(text) is not None


def _free(name: str, used: Any) -> str:
    made, number = name, 2
    while made in used:
        made, number = f"{name}_{number}", number + 1
    return made
