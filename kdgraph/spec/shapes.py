"""Shapes without torch: what shape rules speak of."""

from __future__ import annotations

from collections.abc import Sequence

Shape = tuple[int, ...]


class ShapeMismatch(Exception):
    """Tensors do not fit an entry. ``adapters`` names the ones that would make them fit."""

    def __init__(self, message: str, *, adapters: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.adapters = tuple(adapters)


def show(shape: Shape) -> str:
    """``[8, 64, 4, 4]``."""
    return "[" + ", ".join(str(s) for s in shape) + "]"


def same(student: Shape, teacher: Shape) -> None:
    """Requires equal shapes.

    Raises:
        ShapeMismatch: otherwise; suggests an adapter, which finds the fitting one by shape.
    """
    if student != teacher:
        raise ShapeMismatch(
            f"student {show(student)} and teacher {show(teacher)} must have equal shapes",
            adapters=("auto",),
        )


def rank(what: str, shape: Shape, *allowed: int) -> None:
    """Requires a number of dimensions out of ``allowed``."""
    if len(shape) not in allowed:
        wanted = " or ".join(str(a) for a in allowed)
        raise ShapeMismatch(f"{what} must have {wanted} dimensions, not {show(shape)}")


def same_batch(student: Shape, teacher: Shape) -> None:
    """Requires equal first dimensions."""
    if student[:1] != teacher[:1]:
        raise ShapeMismatch(
            f"student {show(student)} and teacher {show(teacher)} must have the same batch size"
        )
