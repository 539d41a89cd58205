"""Select classes: a teacher's logits for the student's classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, show
from kdgraph.spec.types import Count, Whole

if TYPE_CHECKING:
    from torch import Tensor, nn


@register_signal
class SelectClasses(Signal):
    """The logits of some ``classes``, in the order written, which is that of the student.

    A number stands for the first so many: for the tokens that there are, where the head of a
    language model was padded to a rounder number.

    A softmax over them is the teacher's distribution given that the answer is one of them:
    ``p_k / sum(p_j for j in classes)``. Logits are [B, K], [B, L, K] or [B, K, H, W].
    """

    use: Literal["select_classes"] = "select_classes"
    of: Ref
    classes: Annotated[
        Count | Annotated[tuple[Whole, ...], Field(min_length=1, strict=False)],
        Field(examples=[[2, 0, 3]]),
    ]

    @property
    def written(self) -> tuple[int, ...]:
        """The classes one by one, in their order."""
        return tuple(range(self.classes)) if isinstance(self.classes, int) else self.classes

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if isinstance(self.classes, tuple) and len(set(self.classes)) < len(self.classes):
            twice = next(c for c in self.classes if self.classes.count(c) > 1)
            raise PydanticCustomError("repeated_class", "class {c} is listed twice", {"c": twice})
        return self

    def shape(self, *, of: Shape) -> Shape:
        at = class_dim(of)
        if isinstance(self.classes, int):
            if self.classes > of[at]:
                raise ShapeMismatch(f"{show(of)} has {of[at]} classes, not {self.classes}")
            return (*of[:at], self.classes, *of[at + 1 :])
        if max(self.classes) >= of[at]:
            raise ShapeMismatch(
                f"class {max(self.classes)} is not among the {of[at]} of {show(of)}, counted from 0"
            )
        return (*of[:at], len(self.classes), *of[at + 1 :])

    def forward(self, *, of: Tensor) -> Tensor:
        if isinstance(self.classes, int):
            return of.narrow(class_dim(tuple(of.shape)), 0, self.classes)
        result: Tensor = self.module().to(of.device)(of=of)
        return result

    def module(self) -> nn.Module:
        from kdgraph.signals import _select

        if isinstance(self.classes, int):
            return super().module()

        return _select.SelectClasses(self.classes)
