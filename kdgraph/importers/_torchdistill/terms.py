"""A term of a criterion, and what the losses need to become edges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from kdgraph.importers._draft import Draft
from kdgraph.importers._tagged import At
from kdgraph.importers._torchdistill.sides import Io, Place, Side
from kdgraph.importers._values import Cannot
from kdgraph.registry import Registry
from kdgraph.spec.entry import LOSSES

Sides = dict[str, Side]


@dataclass
class Term:
    """One loss of torchdistill, with its weight in the sum.

    Attributes:
        name: what the file calls it.
        key: its class.
        at: where it stands.
        kwargs: its arguments by name; None where there are none.
        wrapper: the arguments of its ``SimpleLossWrapper`` or ``DictLossWrapper``, if any.
        weight: its factor in the sum.
        sides: teacher and student of its stage.
        batch_size: rows of a batch; None where it is not written.
        draft: what it goes into.
        whole: whether it reads the models' whole outputs, and names no paths.
        made: names of the edges that it became.
        remarks: what stands above the first of them.
    """

    name: str
    key: str
    at: At
    kwargs: At | None
    wrapper: At | None
    weight: float
    sides: Sides
    batch_size: int | None
    draft: Draft
    whole: bool = False
    made: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def get(self, *names: str) -> At | None:
        """An argument; None where it is not given."""
        return self.kwargs.get(*names) if self.kwargs is not None else None

    def number(self, name: str, default: float) -> float:
        """A number among the arguments."""
        at = self.get(name)
        return at.number() if at is not None else default

    def choice(self, name: str, default: str, *allowed: str) -> str:
        """A word among the arguments.

        Raises:
            Cannot: it is none of ``allowed``.
        """
        at = self.get(name)
        word = at.text() if at is not None else default
        if word not in allowed:
            raise Cannot(f"{name} {word!r} is not one of {', '.join(allowed)}")
        return word

    def classes(self) -> int | None:
        """The number of classes, where a model says it."""
        found = (self.sides[r].network.classes for r in ("student", "teacher") if r in self.sides)
        return next((n for n in found if n is not None), None)

    def side(self, role: str) -> Side:
        """The student's or the teacher's side.

        Raises:
            Cannot: the file has no such model.
        """
        if role not in self.sides:
            raise Cannot(f"there is no {role} here")
        return self.sides[role]

    def place(self, role: str, path: str, io: str | None = None, default: Io = "output") -> Place:
        """The place that the arguments ``path`` and ``io`` name; left out, the whole output."""
        at = self.get(path)
        if at is None:
            if not self.whole:
                why = f"{path} is not written; the model's output is meant here"
                self.remarks.append(self.draft.differs(self.at, self.key, why))
            return self.side(role).place(".")
        return self.side(role).at(at, self.get(io) if io else None, default)

    def logits(self, what: str = "") -> dict[str, str]:
        """Both sides' references, as losses of class scores name them; no adapters between."""
        found = {}
        for role in ("student", "teacher"):
            place = self.place(role, f"{role}_{what}module_path", f"{role}_{what}module_io")
            found[role] = self.bare(place)
        return found

    def bare(self, place: Place) -> str:
        """The reference of a place that no added module stands behind."""
        if place.added is not None:
            raise Cannot(f"it reads the added module {place.added.name} by itself")
        return place.ref

    def joined(self, student: Place, teacher: Place) -> dict[str, str]:
        """The keys of an edge between two places: a link where a module was added."""
        if teacher.added is not None:
            raise Cannot("modules that are trained stand on the student's side of a link only")
        if student.added is None:
            return {"student": student.ref, "teacher": teacher.ref}
        added = student.added
        value = {"student": student.ref, "teacher": teacher.ref, "adapter": added.adapter}
        return {"link": self.draft.link(added.name, value, list(added.remarks))}

    def edge(
        self, use: str, sides: dict[str, str], *, weight: float = 1.0, part: str = "", **more: Any
    ) -> None:
        """Adds an edge that counts ``weight`` times what the term does; None means a default.

        Raises:
            Cannot: the edge does not take one of the values.
        """
        value = {"use": use, **sides, **{k: v for k, v in more.items() if v is not None}}
        value["weight"] = tidy(self.weight * weight)
        if (why := refused(LOSSES, value)) is not None:
            raise Cannot(why)
        name = f"{self.name}_{part}" if part else self.name
        self.made.append(self.draft.edge(name, value, self.remarks))
        self.remarks = []

    def differs(self, why: str) -> None:
        """Says that the edge that comes next does not give torchdistill's number."""
        self.remarks.append(self.draft.differs(self.at, f"the number of {self.key}", why))

    def pairs(self, name: str) -> list[tuple[str, Place, Place, float]]:
        """Name (empty of an only one), student, teacher and factor of each pair of an argument."""
        at = self.get(name)
        if at is None:
            raise Cannot(f"it has no {name}")
        found = []
        written = at.items()
        for key, pair in written:
            places = []
            for role in ("student", "teacher"):
                half = pair.need(role)
                places.append(self.side(role).at(half.need("path"), half.get("io")))
            factor = pair.get("weight", "factor")
            part = key if len(written) > 1 else ""
            number = factor.number() if factor is not None else 1.0
            found.append((part, places[0], places[1], number))
        return found


def tidy(number: float) -> float | int:
    """A product without the dust of floating point; whole numbers without a point."""
    found = float(f"{number:.12g}")
    return int(found) if found.is_integer() and abs(found) < 1e15 else found


def refused(registry: Registry[Any], value: dict[str, Any]) -> str | None:
    """Why an entry of the vocabulary does not take a value; None where it does."""
    try:
        registry.get(value["use"]).model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{value['use']} does not take {where or 'this'}: {first['input']!r:.60}"
    return None


Write = Callable[[Term], None]
TERMS: dict[str, Write] = {}
NOT_HERE: dict[str, str] = {}  # classes without an edge, and why


def writes(*keys: str) -> Callable[[Write], Write]:
    """Marks a function that writes the edges of these classes."""

    def mark(write: Write) -> Write:
        TERMS.update(dict.fromkeys(keys, write))
        return write

    return mark
