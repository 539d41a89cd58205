"""Text in the tokens of a model: Python's standard library, or files of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdgraph.spec.data import register_data
from kdgraph.train.data.text import Text

if TYPE_CHECKING:
    from kdgraph.train.data._text import Windows


@register_data
class Tokens(Text):
    """``tokens``: next-token prediction, for language models with a tokenizer of their own.

    The text, and how it is split, are those of ``text``; ``length`` counts tokens. Columns:
    ``tokens`` [L], ``label`` [L], the tokens one place on, ``mask`` [L], 1 where there is a token
    (what transformers calls an attention mask), and ``position`` [L], counted from 0. A row is a
    piece of one document. Behind its end tokens and mask are 0 and labels -100.

    With ``packed: true`` rows are full and there is no mask: documents follow each other, positions
    start at 0 with each, and the last token of a document has no label. A model that is given
    ``position`` as its ``position_ids``, and no attention mask, attends within documents alone.
    """

    use: Literal["tokens"] = "tokens"  # type: ignore[assignment]

    tokenizer: str
    """A folder, ``package:NAME/folder`` of an installed package, or a model id of the hub."""

    gguf_file: str | None = None
    """Reads the tokenizer from this GGUF file in the folder."""

    packed: bool = False
    """Fills rows with several documents."""

    def _cutter(self, folder: Path) -> Callable[[Iterable[bytes]], Windows]:
        from kdgraph.train.data._tokens import Packed, Pieces, Tokeniser

        tokeniser = Tokeniser(self.tokenizer, folder, self.gguf_file)
        kind = Packed if self.packed else Pieces

        def cut(documents: Iterable[bytes]) -> Windows:
            return kind.of_tokens(tokeniser.each(d.decode() for d in documents), self.length)

        return cut
