"""Windows of text: bytes and the bytes that follow them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from kdgraph.train.data._split import Split

IGNORED = -100  # the label of a place behind the end of a document


class Windows(Split):
    """Documents in pieces of ``length`` bytes: ``tokens`` [L] and, one place on, ``label`` [L].

    The pieces of a document follow each other without a gap and never reach into the next one:
    behind its end ``tokens`` are 0 and labels -100. Texts are held once, as bytes.
    """

    def __init__(self, text: Tensor, start: Tensor, stop: Tensor, length: int) -> None:
        self.text = text
        self.start, self.stop = start, stop
        self.length = length

    @classmethod
    def of(cls, documents: Iterable[bytes], length: int) -> Windows:
        """The pieces of some documents; one without a byte to predict gives none."""
        held = [d for d in documents if len(d) > 1]
        text = torch.empty(0, dtype=torch.uint8)
        if held:
            text = torch.frombuffer(bytearray(b"".join(held)), dtype=torch.uint8)
        start: list[int] = []
        stop: list[int] = []
        end = 0
        for document in held:
            begin, end = end, end + len(document)
            pieces = range(begin, end - 1, length)
            start += pieces
            stop += [end] * len(pieces)
        first, last = (torch.tensor(at, dtype=torch.int64) for at in (start, stop))
        return cls(text, first, last, length)

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

    def subset(self, indices: Tensor) -> Windows:
        return Windows(self.text, self.start[indices], self.stop[indices], self.length)
