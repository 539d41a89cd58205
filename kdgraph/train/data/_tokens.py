"""Tokenizers of transformers, and rows of their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from kdgraph.errors import DataError, KDGraphError
from kdgraph.models._installed import place_of
from kdgraph.train.data._text import IGNORED, Windows
from kdgraph.train.data.base import library

_AT_ONCE = 64  # documents that are handed to the tokenizer together


class Tokeniser:
    """A tokenizer of transformers; no code that comes with it is run.

    Args:
        name: a folder, ``package:NAME/folder``, or a model id of the hub.
        folder: where relative paths start from.
        gguf_file: a GGUF file in the folder that holds it.

    Raises:
        DataError: KD710 when it cannot be had.
    """

    def __init__(self, name: str, folder: Path, gguf_file: str | None = None) -> None:
        transformers = library("transformers", "a tokenizer", "hf")
        if gguf_file is not None:
            library("gguf", "a tokenizer in a GGUF file", "llm")
        more = {} if gguf_file is None else {"gguf_file": gguf_file}
        try:
            place = str(folder / name) if (folder / name).is_dir() else place_of(name)
            self._own: Any = transformers.AutoTokenizer.from_pretrained(
                place, trust_remote_code=False, **more
            )
        except KDGraphError as error:
            found = error.diagnostics[0]
            raise DataError.of("KD710", f"tokenizer: {found.message}", help=found.help) from error
        except Exception as error:  # the library raises many kinds, its own and others'
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise DataError.of("KD710", f"the tokenizer {name!r} cannot be read: {said}") from error

    def each(self, texts: Iterable[str]) -> Iterator[Tensor]:
        """The tokens of each text, [N] int32, without special ones."""
        waiting = iter(texts)
        while some := list(islice(waiting, _AT_ONCE)):
            found = self._own(some, add_special_tokens=False, verbose=False)["input_ids"]
            yield from (torch.tensor(ids, dtype=torch.int32) for ids in found)

    def padded(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Texts with the special tokens that a model wants, cut or padded at their end.

        Returns:
            Tokens and mask, each [N, L] int64; the mask is 1 where there is a token.
        """
        found = self._own(list(texts), truncation=True, max_length=length)["input_ids"]
        padding = self._own.pad_token_id  # a decoder's tokenizer often has none
        tokens = torch.full((len(found), length), 0 if padding is None else padding)
        mask = torch.zeros_like(tokens)
        for row, ids in enumerate(found):
            tokens[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), 1
        return tokens, mask


class Pieces(Windows):
    """Documents in pieces of ``length`` tokens, with a mask and positions beside them."""

    @classmethod
    def of_tokens(cls, documents: Iterable[Tensor], length: int) -> Self:
        """The pieces of some documents; one without a token to predict gives none."""
        held = [d for d in documents if len(d) > 1]
        text = torch.cat(held) if held else torch.empty(0, dtype=torch.int32)
        return cls(text, *cls._pieces(map(len, held), length), length)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("tokens", "label", "mask", "position")

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        found = super().rows(indices)
        at = torch.arange(self.length).expand_as(found["tokens"])
        left = self.stop[torch.as_tensor(indices)] - self.start[torch.as_tensor(indices)]
        return found | {"mask": (at < left.unsqueeze(1)).long(), "position": at.clone()}


class Packed(Pieces):
    """Documents one after the other in full rows; positions start at 0 with each.

    ``start`` is where a row begins, and ``ends`` where documents do, so that no label is of
    another document than the token it belongs to.
    """

    ends: Tensor

    @classmethod
    def of_tokens(cls, documents: Iterable[Tensor], length: int) -> Self:
        """Full rows of some documents; what is left over at the end is left out."""
        held = [d for d in documents if len(d) > 1]
        text = torch.cat(held) if held else torch.empty(0, dtype=torch.int32)
        start = torch.arange(len(text) // length) * length
        found = cls(text, start, torch.full_like(start, len(text)), length)
        found.ends = torch.tensor([len(d) for d in held]).cumsum(0)
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        return ("tokens", "label", "position")  # a mask would let documents see each other

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        found = super().rows(indices)
        del found["mask"]
        begin = self.start[torch.as_tensor(indices)].unsqueeze(1)
        place = begin + torch.arange(self.length)
        document = torch.searchsorted(self.ends, place, right=True)
        last = place + 1 == self.ends[document]
        of_document = torch.cat([self.ends.new_zeros(1), self.ends])[document]
        found["label"] = found["label"].where(~last, IGNORED)
        found["position"] = place - of_document.maximum(begin)
        return found

    def held(self) -> Mapping[str, Tensor]:
        return {**super().held(), "ends": self.ends}

    def subset(self, indices: Tensor) -> Self:
        found = super().subset(indices)
        found.ends = self.ends
        return found
