"""``text/transformer``: a small language model."""

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
    """

    prefix = "text"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        if name not in self.names():
            raise self.unknown(name)
        from kdgraph.models.nets.text import TextTransformer

        return TextTransformer(**args)

    def names(self) -> list[str]:
        return ["transformer"]
