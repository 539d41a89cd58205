"""Auto: the adapter that fits, chosen by the two shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdgraph.adapters.base import Adapter
from kdgraph.adapters.chain import chained
from kdgraph.adapters.conv1x1 import Conv1x1
from kdgraph.adapters.linear import Linear
from kdgraph.adapters.map_to_tokens import MapToTokens
from kdgraph.adapters.pool import Pool
from kdgraph.adapters.resize import Resize
from kdgraph.adapters.tokens_to_map import TokensToMap
from kdgraph.spec.entry import register_adapter
from kdgraph.spec.shapes import Shape, ShapeMismatch, same_batch, show, square_prefix

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["vector", "tokens", "map", "grid"]
_MOST_PREFIX = 8  # class, distillation and register tokens before those of the map


@register_adapter
class Auto(Adapter):
    """Makes the student's shape equal to the teacher's, by the fewest adapters that can.

    =================  ==========================================================================
    student, teacher   adapters
    =================  ==========================================================================
    equal shapes       none
    map, map           ``resize`` where sizes differ (``area`` to shrink), ``conv1x1`` where
                       channels do
    vector, vector     ``linear``; so for tokens of one number, and channels-last maps of one size
    map, vector        ``pool``, then ``linear``; so from tokens
    tokens, map        ``tokens_to_map`` without the prefix tokens (as many as make a square, or
                       the teacher's map), then as for maps
    map, tokens        ``map_to_tokens`` where there are as many positions, then ``linear``
    =================  ==========================================================================

    A rank-4 tensor is taken for channels-last, [B, H, W, C] as in Swin, when H = W and C is more
    than three times that, or when the other side differs from it in the last size alone.
    """

    use: Literal["auto"] = "auto"

    def resolve(self, student: Shape, teacher: Shape) -> Adapter:
        same_batch(student, teacher)
        steps: list[Adapter] = []
        shape = student
        try:
            while shape != teacher:
                steps.append(_next(shape, teacher))
                shape = steps[-1].shape(shape, teacher)
        except ShapeMismatch as why:
            raise ShapeMismatch(
                f"no adapter makes student {show(student)} fit teacher {show(teacher)}: {why}"
            ) from None
        return chained(steps)

    def shape(self, student: Shape, teacher: Shape) -> Shape:
        return self.resolve(student, teacher).shape(student, teacher)

    def build(self, student: Shape, teacher: Shape) -> nn.Module:
        return self.resolve(student, teacher).build(student, teacher)


def _next(student: Shape, teacher: Shape) -> Adapter:
    """The next step; each changes the kind of tensor once or ends a difference for good."""
    have, want = _kind(student, teacher), _kind(teacher, student)
    if have == want:
        return _same_kind(have, student, teacher)
    if have == "vector":
        raise ShapeMismatch("a vector has no positions to compare")
    if have == "grid":
        return TokensToMap()
    if want == "vector":
        return Pool()
    if have == "tokens":
        return _to_map(student, teacher, want)
    positions = teacher[1:-1] if want == "grid" else (teacher[1],)
    if positions == (student[2:] if want == "grid" else (student[2] * student[3],)):
        return MapToTokens()
    raise ShapeMismatch(
        f"a map of {student[2]} x {student[3]} has not one position for each of the teacher's "
        f"{' x '.join(map(str, positions))} tokens; read the teacher through the signal "
        "tokens_to_map"
    )


def _same_kind(kind: Kind, student: Shape, teacher: Shape) -> Adapter:
    if kind != "map":
        if student[1:-1] != teacher[1:-1]:
            raise ShapeMismatch("tokens can be paired one by one only where there are as many")
        return Linear()
    if student[2:] == teacher[2:]:
        return Conv1x1()
    shrinks = student[2] >= teacher[2] and student[3] >= teacher[3]
    return Resize(mode="area") if shrinks else Resize()


def _to_map(student: Shape, teacher: Shape, want: Kind) -> TokensToMap:
    """The layout in which tokens have the teacher's size, else a square one."""
    height, width = teacher[2:] if want == "map" else teacher[1:3]
    prefix = student[1] - height * width
    if 0 <= prefix <= _MOST_PREFIX:
        return TokensToMap(skip=prefix, size=None if height == width else (height, width))
    found = square_prefix(student[1], most=_MOST_PREFIX)
    if found is None:
        raise ShapeMismatch(
            f"{student[1]} tokens are not a square map, with up to {_MOST_PREFIX} others before it"
        )
    return TokensToMap(skip=found)


def _kind(shape: Shape, other: Shape) -> Kind:
    if len(shape) == 4:
        square = shape[1] == shape[2]
        alone = len(other) == 4 and shape[:3] == other[:3] and shape[3] != other[3]
        return "grid" if square and (alone or shape[3] > 3 * shape[1]) else "map"
    kinds: dict[int, Kind] = {2: "vector", 3: "tokens"}
    if len(shape) not in kinds:
        raise ShapeMismatch(f"{show(shape)} is neither a vector, nor tokens, nor a map")
    return kinds[len(shape)]
