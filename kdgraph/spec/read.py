"""The door of this package: a file, a text or a mapping in, a checked ``Spec`` out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdgraph.errors import Diagnostic, SpecError, refuse
from kdgraph.spec.diagnose import explain
from kdgraph.spec.findings import without_broken
from kdgraph.spec.language import Spec
from kdgraph.spec.legs import learning, touched
from kdgraph.spec.lines import Lines
from kdgraph.spec.merge import Files, override, top
from kdgraph.spec.references import check_references, unused
from kdgraph.spec.text import parse
from kdgraph.spec.tree import Node, Places, from_python, mapping, plain
from kdgraph.spec.types import SIDES

Source = str | os.PathLike[str] | Mapping[str, Any]


def load_spec(source: Source, set: str | Iterable[str] = ()) -> Spec:
    """Reads and checks a spec.

    Args:
        source: a path, YAML text (a string with a line break), or a mapping.
        set: overrides ``PATH=VALUE``, such as ``losses.soft.tau=2``, or only one; the value is
            YAML, and ``null`` takes a key away.

    Raises:
        SpecError: with every mistake that was found, in the order of the text.
    """
    spec, found = diagnose(source, set)
    refuse(found)
    assert spec is not None
    return spec


def diagnose(source: Source, set: str | Iterable[str] = ()) -> tuple[Spec | None, list[Diagnostic]]:
    """Reads a spec and tells everything there is to say about it, warnings too.

    Returns:
        The spec, or None when there are errors; and the findings in the order of the text.
    """
    try:
        root, file = _tree(source, [set] if isinstance(set, str) else set)
    except SpecError as error:
        return None, list(error.diagnostics)
    data, places = plain(root)
    spec, found = _check(data, places)
    if not any(d.severity == "error" for d in found) and spec is not None:
        _place_links(spec, places)
        spec._file, spec._places = file, places
        spec._learning, spec._moving = learning(spec), touched(spec)
        starts = [m.start_from.model for m in spec.models.values() if m.start_from is not None]
        spec._origins = {name: spec.models[name] for name in starts if name in spec.models}
        return spec, _in_order(found, file)
    return None, _in_order(found, file)


def _tree(source: Source, set: Iterable[str]) -> tuple[Node, str]:
    """The merged tree, and the file that relative paths start from."""
    files = Files()
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if isinstance(source, Mapping):
        file = "<spec>"
        root = files.extend(from_python(source), Path())
    elif not isinstance(path, str):  # a path may be bytes, too
        message = f"a spec is a path, YAML text or a mapping, not {type(source).__name__}"
        raise SpecError([Diagnostic("KD100", message)])
    elif isinstance(source, str) and ("\n" in source or not source.strip()):
        file, text = "<text>", source.removeprefix("\ufeff")
        root = files.extend(top(parse(text, Lines(file, text)), file), Path())
    else:
        file = path
        root = files.load(file)
    for number, text in enumerate(set, start=1):
        root = override(root, text, number)
    return _rebase_weights(root, Path(file).parent), file


def _rebase_weights(root: Node, folder: Path) -> Node:
    """Makes weight paths that another file wrote (or a shell) start from ``folder``."""
    assert isinstance(root.value, dict)
    models = root.value.get("models")
    if models is None or not isinstance(models.value, dict):
        return root
    changed = {}
    for name, model in models.value.items():
        weights = model.value.get("weights") if isinstance(model.value, dict) else None
        if weights is None or weights.span is None or not isinstance(weights.value, str):
            continue
        if (written := Path(weights.span.file).parent) != folder:
            path = Path(os.path.relpath(written, folder)) / weights.value
            assert isinstance(model.value, dict)
            moved = Node(os.path.normpath(path), weights.span)
            changed[name] = mapping({**model.value, "weights": moved}, model.span, model.keys)
    if not changed:
        return root
    models = mapping({**models.value, **changed}, models.span, models.keys)
    return mapping({**root.value, "models": models}, root.span, root.keys)


def _check(data: dict[str, Any], places: Places) -> tuple[Spec | None, list[Diagnostic]]:
    version = data.get("kdgraph")
    if type(version) is int and version != 1:
        message = f"this spec is written in language {version}; this version reads language 1"
        return None, [Diagnostic("KD118", message, places.value(("kdgraph",)))]
    try:
        spec = Spec.model_validate(data)
    except ValidationError as error:
        found = explain(error, data, places)
        return None, found + _references_of_the_rest(data, places, error)
    found = check_references(spec, places)
    return spec, found if found else unused(spec, places)


def _place_links(spec: Spec, places: Places) -> None:
    """A side that a loss reads through ``link`` is written where the link is."""
    for name, loss in spec.losses.items():
        span = places.values.get(("losses", name, "link"))
        if loss.link is not None and span is not None:
            places.values.update({("losses", name, side): span for side in SIDES})


def _references_of_the_rest(
    data: dict[str, Any], places: Places, error: ValidationError
) -> list[Diagnostic]:
    """Reference errors of the entries that are sound by themselves, so that all show at once."""
    sound, broken = without_broken(error, data)
    try:
        return check_references(Spec.model_validate(sound), places, broken=broken)
    except ValidationError:  # what is left is no spec: no batch, no losses
        return []


def _in_order(found: list[Diagnostic], file: str) -> list[Diagnostic]:
    def position(d: Diagnostic) -> tuple[bool, bool, str, int, int]:
        if d.span is None:
            return (True, False, "", 0, 0)
        return (False, d.span.file != file, d.span.file, d.span.line, d.span.column)

    return sorted(dict.fromkeys(found), key=position)
