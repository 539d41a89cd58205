"""Resize: another resolution, without parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.adapters.base import Adapter
from kdgraph.spec.entry import register_adapter
from kdgraph.spec.shapes import Shape, fitting_adapters, rank

if TYPE_CHECKING:
    from torch import nn


@register_adapter
class Resize(Adapter):
    """Interpolates a map [B, C, H, W] to the teacher's height and width.

    ``bilinear`` (corners not aligned) suits enlarging; ``area`` is the mean over each cell, so
    that every position counts when shrinking; ``nearest`` repeats or picks single positions.
    """

    use: Literal["resize"] = "resize"
    mode: Literal["bilinear", "nearest", "area"] = "bilinear"

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        fits = fitting_adapters(student, teacher)
        rank("resize works on maps [B, C, H, W]: the student", student, 4, adapters=fits)
        rank("resize takes the size of a map: the teacher", teacher, 4, adapters=fits)
        return (*student[:2], *teacher[2:])

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        from kdgraph.adapters import _modules

        *_, height, width = self.shape(student, teacher)
        return _modules.Resize((height, width), self.mode)
