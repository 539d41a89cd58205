"""``text/NAME``: a small language model, and a labeller of each place of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdgraph.models.base import Source, register_source

if TYPE_CHECKING:
    from torch import nn


@register_source
class TextSource(Source):
    """kdgraph's own small networks for text.

    ``transformer`` predicts the next token from those before it. ``args``: ``vocabulary``
    (default 256, the bytes), ``width`` (64), ``depth`` (2), ``heads`` (4), ``length`` (128, the
    most tokens it can read) and ``dropout`` (0). There are no pretrained weights.

    ``lstm`` gives each place one of ``classes`` (8), from all of the text. Its other ``args``:
    ``vocabulary`` (256), ``width`` (32, of each direction), ``depth`` (1), ``embedding`` (16) and
    ``dropout`` (0).
    """

    prefix = "text"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        if name not in self.names():
            raise self.unknown(name)
        from kdgraph.models.nets.text import TextLSTM, TextTransformer

        return TextLSTM(**args) if name == "lstm" else TextTransformer(**args)

    def names(self) -> list[str]:
        return ["lstm", "transformer"]
