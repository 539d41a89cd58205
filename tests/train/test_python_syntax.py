"""Highlighting as data: each byte of source and what Python's tokeniser says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kdgraph
from kdgraph.train.data._syntax import KINDS, Highlighted, kinds
from kdgraph.train.data.base import Splits
from kdgraph.train.data.python_syntax import PythonSyntax

SHORT = " #dsnkNo"  # one letter for each of KINDS


def told(source: str) -> str:
    found = kinds(source.encode())
    assert found is not None
    return "".join(SHORT[kind] for kind in found)


def test_every_kind() -> None:
    assert len(SHORT) == len(KINDS)
    source = 'def f(x):  # why\n    """What."""\n    return x + 1.5 if x else "a\\n"\n'
    kind = "kkk NoNoo  #####     ddddddddddd     kkkkkk N o nnn kk N kkkk sssss "
    assert told(source) == kind


def test_a_string_is_a_docstring_where_a_statement_starts() -> None:
    assert told('"a"\n') == "ddd "
    assert told('# c\n\n"a"\n') == "###  ddd "
    assert told('x = ("a"\n"b")\n') == "N o osss ssso "


def test_strings_over_several_lines() -> None:
    assert told('x = """a\nb"""\n') == "N o " + "s" * 9 + " "


def test_what_is_no_python_in_ascii_is_left_out() -> None:
    for source in ('x = "é"\n', "x = (\n", "  x\n y\n", 'x = """\n'):
        assert kinds(source.encode()) is None


def test_rows_are_pieces_with_their_kinds() -> None:
    texts = [b"abc = 1\n", b"if x: y\n"]
    marked = [(text, kind) for text in texts if (kind := kinds(text)) is not None]
    split = Highlighted.of(marked, 6)
    batch = split.rows(range(len(split)))
    assert ["".join(map(chr, row)) for row in batch["tokens"].tolist()] == [
        "abc = ", "1\n\0\0\0\0", "if x: ", "y\n\0\0\0\0",
    ]  # fmt: skip
    rows = ["".join(SHORT[k] if k >= 0 else "." for k in row) for row in batch["label"].tolist()]
    assert rows == ["NNN o ", "n ....", "kk No ", "N ...."]
    assert {v.dtype for v in batch.values()} == {torch.int64}
    part = split.subset(torch.tensor([3, 0])).rows([0])
    assert torch.equal(part["label"], batch["label"][3:])


@pytest.fixture(scope="module")
def library() -> Splits:
    return PythonSyntax(files=8, held_out=50, length=32).load(Path())


def test_the_standard_library_is_always_at_hand(library: Splits) -> None:
    assert library.test is not None
    parts = (library.train, library.val, library.test)
    batches = [part.rows(range(len(part))) for part in parts]
    for batch in batches:
        known = batch["label"] != -100
        assert batch["tokens"].shape == batch["label"].shape
        assert batch["label"].max() < len(KINDS)
        assert (batch["tokens"][~known] == 0).all()
    assert [len(part) for part in parts[1:]] == [50, 50]
    rows = [{bytes(row.tolist()) for row in batch["tokens"]} for batch in batches]
    assert len(rows[0] & (rows[1] | rows[2])) < 5  # a line of blanks, say
    again = PythonSyntax(files=8, held_out=50, length=32).load(Path())
    assert torch.equal(again.train.rows([7])["tokens"], library.train.rows([7])["tokens"])
    other = PythonSyntax(files=8, held_out=50, length=32, split_seed=1).load(Path())
    assert not torch.equal(other.train.rows([7])["tokens"], library.train.rows([7])["tokens"])


def test_without_source_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdgraph.train.data.python_syntax.library", lambda: iter(()))
    with pytest.raises(kdgraph.KDGraphError, match=r"KD710.*not installed"):
        PythonSyntax().load(Path())
