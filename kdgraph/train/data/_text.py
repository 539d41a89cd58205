"""Windows of text: bytes and the bytes that follow them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from kdgraph.train.data._split import Split

IGNORED = -100  # the label of a place behind the end of a document


class Windows(Split):
    """Documents in pieces of ``length`` bytes: ``tokens`` [L] and, one place on, ``label`` [L].

    The pieces of a document follow each other without a gap and never reach into the next one:
    behind its end ``tokens`` are 0 and labels -100. Texts are held once, as bytes, or as the
    numbers that a subclass has for them.
    """

    def __init__(self, text: Tensor, start: Tensor, stop: Tensor, length: int) -> None:
        self.text = text
        self.start, self.stop = start, stop
        self.length = length

    @classmethod
    def of(cls, documents: Iterable[bytes], length: int) -> Self:
        """The pieces of some documents; one without a byte to predict gives none."""
        held = [d for d in documents if len(d) > 1]
        text = torch.empty(0, dtype=torch.uint8)
        if held:
            text = torch.frombuffer(bytearray(b"".join(held)), dtype=torch.uint8)
        return cls(text, *cls._pieces(map(len, held), length), length)

    @staticmethod
    def _pieces(sizes: Iterable[int], length: int) -> tuple[Tensor, Tensor]:
        """Where each piece begins, and where its document ends."""
        start: list[int] = []
        stop: list[int] = []
        end = 0
        for size in sizes:
            begin, end = end, end + size
            pieces = range(begin, end - 1, length)
            start += pieces
            stop += [end] * len(pieces)
        return torch.tensor(start, dtype=torch.int64), torch.tensor(stop, dtype=torch.int64)

    @property
    def columns(self) -> tuple[str, ...]:
        return ("tokens", "label")

    def __len__(self) -> int:
        return len(self.start)

    def rows(self, indices: Sequence[int]) -> dict[str, Tensor]:
        which = torch.as_tensor(indices)
        place = self.start[which].unsqueeze(1) + torch.arange(self.length + 1)
        inside = place < self.stop[which].unsqueeze(1)
        values = self.text[place.clamp_max(len(self.text) - 1)].long()
        return {
            "tokens": values[:, :-1].where(inside[:, :-1], 0),
            "label": values[:, 1:].where(inside[:, 1:], IGNORED),
        }

    def held(self) -> Mapping[str, Tensor]:
        return {"text": self.text, "start": self.start, "stop": self.stop}

    def subset(self, indices: Tensor) -> Self:
        return type(self)(self.text, self.start[indices], self.stop[indices], self.length)
