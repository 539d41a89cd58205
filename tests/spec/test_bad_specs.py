"""Specs with mistakes, each a file, and what is said about it, word by word, beside it.

``KDGRAPH_UPDATE=1 pytest tests/spec/test_bad_specs.py`` writes the files anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdgraph.spec.read import diagnose

FOLDER = Path(__file__).parent / "bad"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_says_what_is_wrong(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    spec, found = diagnose(file.name)
    said = "\n".join(str(d) for d in found) + "\n"
    expected = file.with_suffix(".expected")
    if os.environ.get("KDGRAPH_UPDATE"):
        expected.write_text(said, encoding="utf-8")
    assert spec is None
    assert said == expected.read_text(encoding="utf-8")


def test_there_are_many() -> None:
    assert len(FILES) >= 40
    assert {f.stem for f in FILES} == {f.stem for f in FOLDER.glob("*.expected")}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_no_foreign_words(file: Path) -> None:
    said = file.with_suffix(".expected").read_text(encoding="utf-8")
    foreign = (
        "pydantic",
        "Input should",
        "http",
        "validation",
        "NoneType",
        "Spec",
        "Entry",
        "dict",
    )
    assert not [word for word in foreign if word in said]
