"""``speech/NAME``: small acoustic models that read log-mel frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdgraph.models.base import Source, register_source

if TYPE_CHECKING:
    from torch import nn

_BLOCKS = {"conv2": 2, "conv4": 4, "conv8": 8, "conv16": 16}


@register_source
class SpeechSource(Source):
    """kdgraph's own convolutional acoustic models, with logits [B, F, V] for CTC.

    ``forward`` reads ``features`` [B, T, M] and ``frames`` [B], how many of them count. ``args``:
    ``mels`` (M, default 40), ``num_classes`` (V with the blank, default 29), ``width`` (default
    64), ``stride`` (default 2; F = ceil(T / stride)) and ``dropout`` (default 0.1). There are no
    pretrained weights.
    """

    prefix = "speech"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        if name not in self.names():
            raise self.unknown(name)
        from kdgraph.models.nets.speech import SpeechConvNet

        return SpeechConvNet(_BLOCKS[name], **args)

    def names(self) -> list[str]:
        return list(_BLOCKS)
