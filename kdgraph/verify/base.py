"""What a check of ``kdgraph verify`` is, and what it finds."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.errors import KDGraphError
from kdgraph.registry import Registry

if TYPE_CHECKING:
    from kdgraph.verify._subject import Subject

Status = Literal["ok", "differs", "failed", "not applicable"]


@dataclass(frozen=True)
class Gap:
    """The largest difference between two computations of the same numbers.

    Attributes:
        absolute: the largest there is.
        relative: the largest there is, each to the largest entry of the tensor that it is in;
            tensors with less than a hundredth of the largest entry of all count as if they had
            that. Infinite where something is no number.
        at: what has the largest relative one: an edge or a parameter; empty where there is none.
    """

    absolute: float
    relative: float
    at: str

    def as_dict(self) -> dict[str, Any]:
        """For ``--format json``, which has no infinite numbers."""
        numbers = {"absolute": self.absolute, "relative": self.relative}
        finite = {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        return {**finite, "at": self.at}


@dataclass(frozen=True)
class Finding:
    """What a check has compared.

    Attributes:
        compared: what with what, in a few words.
        gaps: by what they are of: ``loss``, ``gradients``.
        tolerance: the largest relative difference that is allowed; 0 where all bits are equal.
        notes: what was left out of the comparison, or made equal before it.
    """

    compared: str
    gaps: Mapping[str, Gap]
    tolerance: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """The outcome of one check.

    Attributes:
        check: its name.
        status: ``failed`` where it could not be run to its end.
        compared: what with what; what it would compare, where it did not.
        gaps: as in ``Finding``.
        tolerance: as in ``Finding``; None without a comparison.
        notes: as in ``Finding``.
        why: there is no comparison.
        seconds: that it took.
    """

    check: str
    status: Status
    compared: str
    gaps: Mapping[str, Gap]
    tolerance: float | None
    notes: tuple[str, ...]
    why: str | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For ``--format json``."""
        gaps = {of: gap.as_dict() for of, gap in self.gaps.items()}
        return {**vars(self), "gaps": gaps, "notes": list(self.notes)}


class NotApplicable(Exception):
    """Why a check says nothing of this spec, or cannot run on this machine."""


Run = Callable[["Subject"], Finding]


@dataclass(frozen=True)
class Check:
    """A registered check.

    Attributes:
        name: what it is about.
        run: compares.
    """

    name: str
    run: Run

    @property
    def summary(self) -> str:
        """What has to be equal."""
        return (sys.modules[self.run.__module__].__doc__ or "").partition("\n")[0].rstrip(".")


CHECKS: Registry[Check] = Registry("check", "kdgraph.verify")


def register_check(name: str) -> Callable[[Run], Run]:
    """Makes a function known as a check; the first line of its file says what has to be equal."""

    def register(run: Run) -> Run:
        CHECKS.add(name, Check(name, run))
        return run

    return register


def one_sentence(error: Exception) -> str:
    """What an error says, without its place and without the way it came."""
    if isinstance(error, KDGraphError):
        return error.diagnostics[0].message
    lines = str(error).strip().splitlines() or ["without a word"]
    return f"{type(error).__name__}: {lines[0][:_LONGEST]}"


_LONGEST = 300
