"""Identity: the student tensor already fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.adapters.base import Adapter
from kdgraph.spec.entry import register_adapter
from kdgraph.spec.shapes import Shape

if TYPE_CHECKING:
    from torch import nn


@register_adapter
class Identity(Adapter):
    """Leaves the student tensor as it is, whatever the shapes; relation losses want this."""

    use: Literal["identity"] = "identity"

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        return student

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        from torch import nn

        return nn.Identity()
