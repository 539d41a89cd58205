"""Shapes without torch: what shape rules speak of."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = tuple[int, ...]


class ShapeMismatch(Exception):
    """Tensors do not fit an entry. ``adapters`` names the ones that would make them fit.

    ``signal NAME`` is a signal that would, and ``loss NAME`` a loss that takes them as they are.
    """

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


def rank(what: str, shape: Shape, *allowed: int, adapters: Sequence[str] = ()) -> None:
    """Requires a number of dimensions out of ``allowed``; suggests ``adapters``."""
    if len(shape) not in allowed:
        wanted = " or ".join(str(a) for a in allowed)
        message = f"{what} must have {wanted} dimensions, not {show(shape)}"
        raise ShapeMismatch(message, adapters=adapters)


def same_batch(student: Shape, teacher: Shape) -> None:
    """Requires equal first dimensions."""
    if student[:1] != teacher[:1]:
        raise ShapeMismatch(
            f"student {show(student)} and teacher {show(teacher)} must have the same batch size"
        )


def class_dim(shape: Shape) -> int:
    """Where classes or channels are: last in [B, K] and [B, L, D], second in maps [B, C, H, W]."""
    return 1 if len(shape) >= 4 else len(shape) - 1


def check_positions(mask: Shape, of: Shape) -> None:
    """Requires a mask of shape [B], or of the positions of features: [B, L] or [B, H, W]."""
    at = class_dim(of)
    positions = of[:at] + of[at + 1 :]
    if len(of) < 2 or not mask or mask != positions[: len(mask)]:
        raise ShapeMismatch(f"mask {show(mask)} fits none of the positions of {show(of)}")


def differences(student: Shape, teacher: Shape) -> tuple[bool, bool]:
    """Whether channels differ, and whether positions do (pixels, or the number of tokens)."""
    s, t = class_dim(student), class_dim(teacher)
    wide = student[s] != teacher[t]
    return wide, student[1:s] + student[s + 1 :] != teacher[1:t] + teacher[t + 1 :]


def fitting_adapters(
    student: Shape, teacher: Shape, *, channels: bool = True, positions: bool = True
) -> tuple[str, ...]:
    """The adapters that make ``channels`` and ``positions`` equal; none where none can."""
    ranks = (len(student), len(teacher))
    if not {2, 3, 4}.issuperset(ranks) or student[0] != teacher[0]:
        return ()
    wide, large = differences(student, teacher)
    wide, large = wide and channels, large and positions
    if large and ranks in {(2, 3), (2, 4), (3, 3)}:
        return ()
    if wide and large:
        return ("auto",)
    if wide:
        return ("conv1x1" if len(student) == 4 else "linear",)
    forms = {(4, 4): "resize", (3, 4): "tokens_to_map", (4, 3): "map_to_tokens"}
    return (forms.get(ranks, "pool"),) if large else ()


def grid(tokens: int, skip: int, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the map that a row of tokens stands for.

    Args:
        tokens: how many there are, the first ``skip`` of them (class, registers) not part of it.
        skip: tokens before the map's.
        size: height and width, for maps that are not square.

    Raises:
        ShapeMismatch: when the tokens left do not fill ``size``, or no square.
    """
    left = tokens - skip
    side = math.isqrt(max(left, 0))
    height, width = size or (side, side)
    if left > 0 and height * width == left:
        return height, width
    what = f"{tokens} tokens" if skip == 0 else f"{tokens} tokens without the first {skip}"
    if size is not None:
        raise ShapeMismatch(f"{what} do not fill a map of {height} x {width}")
    prefix = square_prefix(tokens)
    hint = (
        "" if prefix is None else f"; 'skip: {prefix}' leaves {math.isqrt(tokens - prefix)} squared"
    )
    raise ShapeMismatch(f"{what} are not a square map{hint}")


def square_prefix(tokens: int, most: int = 8) -> int | None:
    """The least number of prefix tokens, up to ``most``, that leaves a square; None without one."""
    return next(
        (p for p in range(min(most + 1, tokens - 1)) if math.isqrt(tokens - p) ** 2 == tokens - p),
        None,
    )
