from __future__ import annotations

import pytest

from kdgraph.errors import SpecError
from kdgraph.importers._tagged import read_tagged
from kdgraph.importers._values import Opaque


def value(text: str) -> object:
    return read_tagged(f"a: {text}\n", "f.yaml").need("a").read()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("!join [a, '/', 3, True]", "a/3True"),
        ("!join [!join [a, b], c]", "abc"),
        ("!pathjoin [a, b/, c]", "a/b/c"),
        ("!expanduser '~/x'", "~/x"),
        ("!!float 1", 1),
        ("!!str 1", "1"),
        ("!!python/name:os.mkdir", Opaque("!!python/name:os.mkdir")),
        ("!import_get {key: a.B}", Opaque("!import_get", "a.B")),
        ("!getattr [!import_get {key: a.B}, C]", Opaque("!getattr", "a.B.C")),
        ("!join [!import_get {key: a.B}]", Opaque("!join")),
        ("!import_call", Opaque("!import_call")),
    ],
)
def test_what_tags_mean(text: str, meant: object) -> None:
    assert value(text) == meant


def read_all(text: str) -> None:
    for at in read_tagged(text, "f.yaml").inner():
        at.read()


def bomb(tag: str) -> str:
    """Nine levels of ten aliases each: 10**9 values, if they were written out."""
    rows = ["a0: &a0 !join [x, x]"]
    rows += [f"a{n}: &a{n} {tag} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (bomb("!join"), "KD102"),
        (bomb(""), "KD102"),
        ("a: " + "x" * 5000, "KD102"),
        ("? " + "x" * 5000 + "\n: 1", "KD102"),
        ("a: &a " + "x" * 1000 + "\nb: !join [*a, *a]", "KD102"),
        ("a: " + "[" * 100 + "]" * 100, "KD102"),
        ("a: &a [*a]", "KD108"),
        ("", "KD106"),
        ("a: !!int 1e999", "KD107"),
        ("a: 1\na: 2", "KD104"),
    ],
)
def test_hostile_text_is_one_error(text: str, code: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_all(text)
    assert caught.value.diagnostics[0].code == code
