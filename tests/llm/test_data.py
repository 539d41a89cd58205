"""Text in the tokens of a model, and pairs of sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from kdgraph.errors import DataError
from kdgraph.train.data._docstrings import pairs
from kdgraph.train.data._tokens import Packed, Pieces, Tokeniser
from kdgraph.train.data.docstrings import Docstrings
from kdgraph.train.data.tokens import Tokens
from kdgraph.train.provenance import content

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three", "four"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of a few words, and some documents."""
    place = tmp_path_factory.mktemp("words")
    tokenizer_in(place)
    return place


def tokenizer_in(place: Path) -> None:
    """Writes a tokenizer of a few words into ``tokenizer``, and documents into ``texts``."""
    own = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    own.pre_tokenizer = Whitespace()
    own.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    PreTrainedTokenizerFast(tokenizer_object=own, **special).save_pretrained(place / "tokenizer")
    (place / "texts").mkdir()
    for i in range(10):
        (place / "texts" / f"{i}.txt").write_text("one two three four " * (i + 3))


def numbers(*sizes: int) -> list[torch.Tensor]:
    """Documents of the tokens 10, 11, ..; 20, 21, .."""
    return [torch.arange(10 * d, 10 * d + size) for d, size in enumerate(sizes, start=1)]


def test_pieces_stay_within_a_document() -> None:
    split = Pieces.of_tokens(numbers(5, 1, 2), 3)
    found = split.rows(range(len(split)))
    assert found["tokens"].tolist() == [[10, 11, 12], [13, 14, 0], [30, 31, 0]]
    assert found["label"].tolist() == [[11, 12, 13], [14, -100, -100], [31, -100, -100]]
    assert found["mask"].tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]
    assert found["position"].tolist() == [[0, 1, 2]] * 3
    assert tuple(found) == split.columns
    assert split.subset(torch.tensor([2])).rows([0])["tokens"].tolist() == [[30, 31, 0]]


def test_packed_rows_are_full_and_no_label_is_of_another_document() -> None:
    split = Packed.of_tokens(numbers(5, 2, 3), 4)
    found = split.rows(range(len(split)))
    assert found["tokens"].tolist() == [[10, 11, 12, 13], [14, 20, 21, 30]]
    assert found["label"].tolist() == [[11, 12, 13, 14], [-100, 21, -100, 31]]
    assert found["position"].tolist() == [[0, 1, 2, 3], [0, 0, 1, 0]]
    assert tuple(found) == split.columns
    again = split.subset(torch.tensor([1])).rows([0])
    assert all(torch.equal(again[name], found[name][1:]) for name in found)


def test_packed_rows_are_told_apart_by_where_documents_end() -> None:
    tokens = torch.arange(12)
    one, other = (Packed.of_tokens(tokens.split(sizes), 4) for sizes in ([5, 7], [6, 6]))
    assert not torch.equal(one.rows([1])["position"], other.rows([1])["position"])
    assert content(one) != content(other)  # by which a book knows whether it is stale
    assert content(one) == content(Packed.of_tokens(tokens.split([5, 7]), 4))


def test_a_spec_reads_files_with_a_tokenizer(folder: Path) -> None:
    splits = Tokens(tokenizer="tokenizer", path="texts", length=3).load(folder)
    found = splits.train.rows([0])
    assert found["tokens"].tolist() == [[4, 5, 6]]  # without the special ones
    assert found["label"].tolist() == [[5, 6, 7]]
    assert splits.note == "split by document, 8 / 1 / 1 for training / validation / test"
    packed = Tokens(tokenizer="tokenizer", path="texts", length=64, packed=True).load(folder)
    assert len(packed.train) < len(splits.train)
    found = packed.train.rows(range(len(packed.train)))
    assert (found["label"][found["label"] != -100] >= 4).all()
    assert (found["position"] == 0).sum() > len(packed.train)


@pytest.mark.parametrize(
    ("name", "said"),
    [("package:no_such_thing", "no Python package 'no_such_thing'"), ("texts", "cannot be read")],
)
def test_a_tokenizer_that_cannot_be_had(folder: Path, name: str, said: str) -> None:
    with pytest.raises(DataError, match=f"KD710.*{said}"):
        Tokens(tokenizer=name, path="texts").load(folder)


def test_sentences_are_padded_and_cut(folder: Path) -> None:
    tokens, mask = Tokeniser("tokenizer", folder).padded(["one", "one two three four"], 4)
    assert tokens.tolist() == [[2, 4, 3, 0], [2, 4, 5, 3]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


def test_a_tokenizer_may_have_no_padding_or_have_it_at_the_left(tmp_path: Path) -> None:
    tokenizer_in(tmp_path)
    own = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tokenizer", padding_side="left")
    own.pad_token = None
    own.save_pretrained(tmp_path / "other")
    config = tmp_path / "other" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "padding_side": "left"}))
    tokens, mask = Tokeniser("other", tmp_path).padded(["two"], 4)
    assert tokens.tolist() == [[2, 5, 3, 0]]
    assert mask.tolist() == [[1, 1, 1, 0]]


SOURCE = '''
def first(a):
    """Adds one to a number.

    More of it.
    """
    return a + 1

def second(a):
    """Too short."""
    return a

class Third:
    """Says nothing but its name, really."""

async def fourth(a):
    "Waits for a while, then ends."
    await a
    return a
'''


def test_pairs_are_a_first_line_and_the_code_below() -> None:
    assert list(pairs(SOURCE)) == [
        ("Adds one to a number.", "def first(a):\n    return a + 1"),
        ("Waits for a while, then ends.", "async def fourth(a):\n    await a\n    return a"),
    ]
    assert list(pairs("def broken(")) == []


def test_the_library_is_split_by_module(folder: Path) -> None:
    data = Docstrings(tokenizer="tokenizer", length=8, files=40)
    splits = data.load(folder)
    found = splits.train.rows(range(len(splits.train)))
    assert set(found) == {"summary", "summary_mask", "code", "code_mask"}
    assert all(v.shape == (len(splits.train), 8) for v in found.values())
    assert splits.test is not None
    assert min(len(splits.train), len(splits.val), len(splits.test)) > 10
    again = data.load(folder).train.rows(range(len(splits.train)))
    assert all(torch.equal(again[name], found[name]) for name in found)
