"""``tree/NAME``: students whose blocks form a tree that can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kdgraph.models.base import Source, register_source

if TYPE_CHECKING:
    from torch import nn


@register_source
class TreeSource(Source):
    """The hierarchical student of KDExplainer, with a head for each class.

    ``args``: ``num_classes`` (default 10), ``in_channels`` (default 3), ``form`` (``ce``, ``nce``
    or ``binary``: how a logit comes from a head), ``width``, a factor on channels and hidden
    units, ``pool`` (default 7: the side of the maps that heads read) and ``blocks`` (default 2, 4,
    8: in each level). There are no pretrained weights.
    """

    prefix = "tree"

    def build(self, name: str, args: Mapping[str, Any]) -> nn.Module:
        if name not in self.names():
            raise self.unknown(name)
        from kdgraph.models.nets.tree import Tree

        return Tree(**args)

    def names(self) -> list[str]:
        return ["kdexplainer"]
