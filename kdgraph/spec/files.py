"""Files that a spec names: whether they are there. None of them is read."""

from __future__ import annotations

import stat
from collections.abc import Container, Iterator
from pathlib import Path

from kdgraph.errors import Diagnostic, near
from kdgraph.spec.language import Spec

WEIGHTS = (".safetensors", ".pt", ".pth")


def check_weights(spec: Spec, *, given: Container[str] = ()) -> list[Diagnostic]:
    """KD415 for every ``weights`` that is no file, or of a kind that is not read.

    Args:
        spec: a sound spec; its paths start from ``spec.folder``.
        given: models that are handed over as modules, so that nothing is read for them.
    """
    return list(_wrong(spec, given))


def _wrong(spec: Spec, given: Container[str]) -> Iterator[Diagnostic]:
    for name, model in spec.models.items():
        if model.weights is None or name in given:
            continue
        path, place = spec.folder / model.weights, spec.span("models", name, "weights")
        kind = _kind(path)
        if stat.S_ISDIR(kind):
            message, help = f"{str(path)!r} is a folder, not a weights file", _inside(path)
        elif path.suffix not in WEIGHTS:
            message = f"{str(path)!r} is no weights file"
            help = f"its name must end in {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}"
        elif stat.S_ISREG(kind):
            continue
        else:
            message, help = f"there is no weights file {str(path)!r}", _beside(path)
        yield Diagnostic("KD415", message, place, help)


def _kind(path: Path) -> int:
    """What ``stat`` says a path is; 0 for what is not there, or cannot be (a NUL, 300 letters)."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _inside(folder: Path) -> str | None:
    found = _files(folder)
    return f"it holds {', '.join(found[:4])}" if found else None


def _beside(path: Path) -> str | None:
    return near(path.name, _files(path.parent))


def _files(folder: Path) -> list[str]:
    """Names of the weights files in a folder, if it can be looked into."""
    try:
        return sorted(p.name for p in folder.iterdir() if p.suffix in WEIGHTS)
    except (OSError, ValueError):
        return []
