"""Runs the checks of a spec, one after the other."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdgraph.spec.language import Spec
from kdgraph.spec.read import load_spec
from kdgraph.verify.base import CHECKS, NotApplicable, Row, one_sentence

if TYPE_CHECKING:
    from rich.console import Console

    from kdgraph.verify._subject import Subject


@dataclass(frozen=True)
class Verdict:
    """What all checks say.

    Attributes:
        spec: its name.
        batch: what the checks ran on.
        precision: of those that are about rounding.
        device: where.
        notes: on the batch, the precision, the stage and the weights.
        rows: one for each check.
    """

    spec: str
    batch: str
    precision: str
    device: str
    notes: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def holds(self) -> bool:
        """Whether no check found a difference, or failed."""
        return all(row.status in ("ok", "not applicable") for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """For ``--format json``."""
        rows = [row.as_dict() for row in self.rows]
        return {**vars(self), "notes": list(self.notes), "holds": self.holds, "rows": rows}


def verify(
    spec: str | Path | Mapping[str, Any] | Spec,
    *,
    ranks: int = 2,
    micro: int = 2,
    batch: int | None = None,
    only: Collection[str] = (),
    tolerance: float | None = None,
    double: bool | None = None,
    device: str = "auto",
    trust: Collection[str] = (),
    set: Sequence[str] = (),
    console: Console | None = None,
) -> Verdict:
    """Compares what has to be equal, on the first batch of the training or a random one.

    Args:
        spec: a path, YAML text, a mapping of the same form, or a ``Spec``.
        ranks: processes to compare with one.
        micro: small batches to compare with a large one.
        batch: rows of the batch; left out: as training has.
        only: names of the checks; left out: all of them.
        tolerance: the largest relative difference where numbers are rounded; left out: that of
            the precision. What has to be equal bit for bit is held to that in any case.
        double: in float64; left out: on the CPU. Resuming, books and kernels are float32 always.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        trust: Python modules that ``python/`` models and data may come from.
        set: overrides like ``losses.soft.tau=2``.
        console: where progress is shown; left out: nowhere.

    Raises:
        KDGraphError: where the spec, its data or a model is not what it should be, or a check is
            called otherwise.
    """
    from kdgraph.verify._subject import exact

    checked = load_spec(spec, set=set) if not isinstance(spec, Spec) else spec
    checks = {name: CHECKS.get(name) for name in only} or dict(CHECKS.items())
    with exact(), _shown(console) as show:
        show("preparing")
        subject, origin, notes = _subject(checked, batch, double, device, trust)
        subject = replace(subject, ranks=ranks, micro=micro, tolerance=tolerance)
        rows = []
        for number, name in enumerate(checks, 1):
            show(f"{name} ({number} of {len(checks)})")
            rows.append(_row(name, subject))
    precision = "float64" if subject.double else "float32"
    return Verdict(checked.name, origin, precision, str(subject.device), tuple(notes), tuple(rows))


def _subject(
    spec: Spec, rows: int | None, double: bool | None, device: str, trust: Collection[str]
) -> tuple[Subject, str, list[str]]:
    """What is to be verified, what its batches are, and what there is to say of both."""
    from kdgraph.train.ranks import Place
    from kdgraph.verify import resume
    from kdgraph.verify._batches import tried
    from kdgraph.verify._subject import Subject, networks, what_moves, why_not_double

    place = Place.found(device).device
    found = tried(spec, resume.STEPS, rows, trust)
    wanted = place.type == "cpu" if double is None else double
    subject = Subject(spec, found.batches, networks(spec, trust), trust, place, wanted)
    notes = [*([found.note] if found.note else []), *_of_stages(spec)]
    if wanted and (why := why_not_double(subject)) is not None:
        notes.append(f"in float32: {why}")
        subject = subject.single()
    notes += _of_precision(subject)
    return replace(subject, moving=what_moves(subject)), found.origin, notes


def _of_stages(spec: Spec) -> Iterator[str]:
    """Which of several stages is looked at."""
    if len(spec.stages) > 1 or (spec.stages and spec.stages[0].phases):
        yield f"in {spec.stages[0].legs[0]!r}, the first of {len(spec.stages)} stages"


def _of_precision(subject: Subject) -> Iterator[str]:
    """What of a spec has no meaning in float64."""
    rounded = [name for name, model in subject.spec.models.items() if model.precision]
    if rounded and subject.double:
        yield f"in float64 the `precision` of {', '.join(rounded)} is left out"


def _row(name: str, subject: Subject) -> Row:
    start = time.perf_counter()

    def row(status: Any, compared: str = "", **facts: Any) -> Row:
        told: dict[str, Any] = {"gaps": {}, "tolerance": None, "notes": (), "why": None} | facts
        return Row(name, status, compared, seconds=time.perf_counter() - start, **told)

    check = CHECKS.get(name)
    try:
        found = check.run(subject)
    except NotApplicable as reason:
        return row("not applicable", check.summary, why=str(reason))
    except Exception as error:  # of one check: others may have something to say
        return row("failed", check.summary, why=one_sentence(error))
    off = max(gap.relative for gap in found.gaps.values())
    return row(
        "ok" if off <= found.tolerance else "differs", found.compared,
        gaps=found.gaps, tolerance=found.tolerance, notes=found.notes,
    )  # fmt: skip


@contextmanager
def _shown(console: Console | None) -> Iterator[Any]:
    """Shows what is being done, where there is a terminal."""
    if console is None or not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:
        yield lambda text: status.update(f"verify: {text}")
