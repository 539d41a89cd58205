"""Words of a file stand in the spec as values and in comments; none may be read as more."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from kdgraph.importers._write import flow
from kdgraph.spec.lines import Lines
from kdgraph.spec.read import load_spec
from kdgraph.spec.text import parse
from kdgraph.spec.tree import plain
from tests.importers.files import Read, config, pair, place, term, weighted

CE = term("CrossEntropyLoss", 1.0, {"input": place("."), "target": {"uses_label": True}})
WORDS = [
    "plain", "no", "null", "1e3", "12", "a: b", "a #b", "{x}", "[x]", "*x", "&x", "!x", "'", '"',
    "-", "- a", "?", "", " a", "a\nmodels: {}", "a\u2028b: c", "\u00e9", "%a", "@a", "a\\b", "~",
    ".5", "a\x85b: c", "\U0001f600",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_text_is_read_back(word: str) -> None:
    value: dict[str, Any] = {word: [word, {"k": word}]}
    text = flow(value)
    assert plain(parse(text, Lines("f.yaml", text)))[0] == value


@pytest.mark.parametrize("word", WORDS)
def test_words_of_a_file_cannot_break_out(read: Read, word: str) -> None:
    criterion = weighted(
        **{f"x{word}": term(f"Loss{word}"), "ce": CE},
        at=term("ATLoss", at_pairs={f"p{word}": pair("a", "b"), "other": pair(f"c{word}", "d")}),
    )
    text = config(criterion).replace(
        "'tiny'", yaml.safe_dump(f"net{word}").split("\n...")[0].strip()
    )
    spec = load_spec(read(text).text)
    assert set(spec.models) <= {"teacher", "student"}
    assert spec.models["student"].source is None
    assert "ce" in spec.losses
