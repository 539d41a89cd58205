"""What a loss is: a pure function from tensors to one number, with a rule for their shapes.

Fixed parameters are read from ``self``; tensors (``Ref`` fields) and steered numbers
(``Steer`` fields) arrive as arguments of the same name, because they may change each step.

Features come in three forms, told apart by their number of dimensions: **vectors** [B, D],
**tokens** [B, L, D] and **maps** [B, C, H, W] (or [B, C, T, H, W]). Logits likewise, with K
classes in the place of D or C. Channels-last maps are turned by ``tokens_to_map`` first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from kdgraph.losses._work import Work
from kdgraph.spec.entry import LossEntry, Ref
from kdgraph.spec.shapes import (
    Shape,
    ShapeMismatch,
    class_dim,
    differences,
    fitting_adapters,
    rank,
    same_batch,
    show,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

TeachesAs = Literal["logits", "probabilities"]
VECTORS, TOKENS, MAPS = (2,), (3,), (4, 5)


class Loss(LossEntry):
    """A loss over whole tensors (a relation, a correlation): ``forward`` returns a 0-dim tensor.

    Inputs come as float32 or float64, never half precision, with autocast off. The methods take
    ``Any`` here so that each loss can name its own tensors, by keyword.

    Attributes:
        integers: fields, besides labels, for which a batch entry has to be of an integer type.
        of_features: the student's side are features, which need not have a channel for each class.
        teaches_as: of a loss over classes, what it takes the teacher's side for: logits, of which
            it makes probabilities itself at its temperature, or probabilities as they are.
    """

    _form: ClassVar[str] = "plain"
    integers: ClassVar[tuple[str, ...]] = ()
    of_features: ClassVar[bool] = False
    teaches_as: ClassVar[TeachesAs | None] = None

    def shapes(self, *_: Any, **shapes: Any) -> None:
        """Raises ``ShapeMismatch`` where the tensors do not fit; given by field name."""
        raise NotImplementedError  # every registered loss defines it

    def forward(self, *_: Any, **inputs: Any) -> Any:
        """The unweighted value, a 0-dim tensor."""
        raise NotImplementedError  # every registered loss defines it

    def across_batch(self, student: Shape) -> bool:
        """Whether rows of the batch are compared with each other, so that one says nothing."""
        return False

    def parameters(self, *_: Any, **shapes: Any) -> dict[str, Tensor]:
        """Start values of what the loss learns itself, by name, from the shapes of its tensors.

        They are trained and saved with the student, and arrive as arguments of that name.
        """
        return {}

    def parts(self, *_: Any, **inputs: Any) -> dict[str, partial[Any]]:
        """What is computed of one tensor alone, by the field whose place the result takes.

        ``{"student": partial(similarities, student)}`` says that ``forward`` (or ``rows``) is
        given ``similarities(student)`` for ``student``. The functions belong to a module, take
        tensors and constants, and are marked with ``part``; where several edges have an equal
        one, it is computed once. The inputs are handed on and never looked at: tensors when the
        loss runs, nodes when the graph is made.
        """
        return {}

    def forms(self, *_: Any, **shapes: Any) -> dict[str, Work]:
        """Ways to compute the same number at these shapes, ``plain`` among them.

        Empty where there is only the plain one. ``self._form`` names the one to use.
        """
        return {}

    def why_plain(self, *_: Any, **shapes: Any) -> str | None:
        """Why there is no other form at these shapes, for a loss where one might be expected."""
        return None

    def in_form(self, form: str) -> Self:
        """The same loss, computed another way."""
        other = self.model_copy()
        # no private attribute of pydantic, which torch.compile cannot read
        other.__dict__["_form"] = form
        return other

    def closed_form(self, *_: Any, **inputs: Any) -> tuple[Tensor, Callable[[Tensor], None]]:
        """The value and its gradient, from softmaxes that edges over the same logits share.

        For losses over logits, and only where that is worth it. ``student`` and ``teacher``
        arrive as ``Logits`` (see ``_closed.py``): ``student.at(tau)`` has the logarithm and the
        probabilities at a temperature, [N, K] with one row per sample, token or pixel, which no
        one may change. All else arrives as for ``forward``, less ``mask`` and ``row_weight``.

        Returns:
            The value, 0-dim, or [N] for a ``RowLoss``; and a function from the gradient of that
            value, in its shape, that adds the student's by ``student.add`` or
            ``student.at(tau).add``. By the time it is called, steered numbers may have moved and
            probabilities are let go of: it holds what it needs, but never the value.

        Infinite logits need no care where the value is then infinite or nan: ``forward`` is used
        for them.
        """
        raise NotImplementedError  # has_closed_form tells

    @classmethod
    def has_closed_form(cls) -> bool:
        """Whether ``closed_form`` is defined, and no subclass has changed the loss since."""
        mro = cls.__mro__
        first = {
            name: next(i for i, c in enumerate(mro) if name in vars(c))
            for name in ("closed_form", "forward", "rows")
            if hasattr(cls, name)
        }
        at = first.pop("closed_form")
        return mro[at] is not Loss and at <= min(first.values())

    def module(self, **shapes: Shape) -> nn.Module:
        """The module that sits in the graph, for tensors of these shapes."""
        from kdgraph.losses._module import LossModule

        return LossModule(self, self.parameters(**shapes))


class RowLoss(Loss):
    """A loss with one value per row (sample, token, pixel), reduced in one explicit way.

    ``reduction: mean`` is the sum over the rows that count, divided by their number;
    ``batchmean`` divides by the number of samples with a row that counts instead; ``sum`` does
    not divide. Gains a ``mask`` ([B] or the shape of the rows; 0 or false leaves a row out of
    sum and number, a fraction counts it by that much) and a per-sample or per-row ``weight`` (a
    signal of the same shapes, which changes the sum alone). With no row left the value is 0.
    """

    mask: Ref | None = None
    reduction: Literal["mean", "sum", "batchmean"] = "mean"

    def rows(self, *_: Any, **inputs: Any) -> Tensor:
        """One unweighted value per row, [B] or [B, ...]."""
        raise NotImplementedError  # every registered row loss defines it

    def counted(self, *_: Any, **inputs: Any) -> Tensor | None:
        """Which rows count by the loss's own rule (an ignored label, say); None means all.

        Of ``student`` and ``teacher`` no more may be looked at than their type and their number
        of dimensions, here and in ``share``: rows are also counted before any model has run.
        """
        return None

    def share(self, *_: Any, **inputs: Any) -> Tensor | None:
        """How much each row adds to the number that ``mean`` divides by; None means 1."""
        return None

    def number(self, rows: int, *, mask: Tensor | None = None, **inputs: Any) -> Tensor | int:
        """What ``reduction`` divides by, up to a factor that is the same in every batch.

        Args:
            rows: how many there are, or how many samples where each has as many rows.
            mask: as for ``forward``.
            inputs: as for ``forward``; see ``counted``.
        """
        if self.reduction == "sum":
            return 1
        keep, share = self.counted(**inputs), self.share(**inputs)
        factors = [f for f in (mask, keep) if f is not None]
        if self.reduction == "mean" and share is not None:
            factors.append(share)
        if not factors:
            return rows
        widest = max(factors, key=lambda factor: factor.dim())
        each = over_rows(factors[0], widest)
        for factor in factors[1:]:
            each = each * over_rows(factor, widest)
        if self.reduction == "batchmean":
            return each.reshape(len(each), -1).amax(1).sum()
        # a mask of samples counts each of their rows, of which another batch may have more
        return each.sum() * max(rows // each.numel(), 1)

    def forward(
        self, *, mask: Tensor | None = None, row_weight: Tensor | None = None, **inputs: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The value; with ``row_weight`` the pair of the plain and the weighted value."""
        return self.reduced(self.rows(**inputs), mask=mask, row_weight=row_weight, **inputs)

    def reduced(
        self,
        rows: Tensor,
        *,
        mask: Tensor | None = None,
        row_weight: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What ``forward`` makes of the rows."""
        keep, share = self.counted(**inputs), self.share(**inputs)
        if mask is not None:
            mask = over_rows(mask, rows)
            keep = mask if keep is None else mask * keep
        plain = self.reduce(rows, keep, share)
        if row_weight is None:
            return plain
        weight = over_rows(row_weight, rows).to(rows.dtype)
        # where: a row of weight 0 may be infinite
        return plain, self.reduce((rows * weight).where(weight != 0, 0), keep, share)

    def reduce(
        self, rows: Tensor, keep: Tensor | None = None, share: Tensor | None = None
    ) -> Tensor:
        """One number from the rows, by ``reduction``."""
        if keep is not None:
            keep = keep.expand_as(rows).to(rows.dtype)
            # where, not a product alone: a row left out may hold inf or nan
            rows = rows.where(keep != 0, 0) * keep
        if self.reduction == "sum":
            return rows.sum()
        if self.reduction == "batchmean":
            number = None if keep is None else keep.reshape(len(rows), -1).amax(1).sum()
            return rows.sum() / (len(rows) if number is None else _at_least_some(number))
        each = keep if share is None else share if keep is None else keep * share
        return rows.mean() if each is None else rows.sum() / _at_least_some(each.sum())


def _at_least_some(number: Tensor) -> Tensor:
    """Nothing divided by 1 in the place of 0 is 0."""
    return number.where(number > 0, 1)


def over_rows(value: Tensor, rows: Tensor) -> Tensor:
    """Lines a per-sample or per-row tensor up with ``rows`` from the left."""
    return value.reshape(*value.shape, *([1] * (rows.dim() - value.dim())))


def per_sample(value: Tensor | float, like: Tensor) -> Tensor | float:
    """A steered number against ``like`` [B, ...]: a per-sample [B] gains trailing dimensions."""
    if isinstance(value, int | float) or value.dim() == 0:
        return value
    return over_rows(value, like)


def without_channels(shape: Shape) -> Shape:
    """[B], [B, L] or [B, H, W]: what is left when channels or classes are summed over."""
    at = class_dim(shape)
    return shape[:at] + shape[at + 1 :]


def check_mask(mask: Shape | None, rows: Shape) -> None:
    """Requires a mask of shape [B] or of the shape of the rows (or anything between)."""
    if mask is not None and (not mask or mask != rows[: len(mask)]):
        raise ShapeMismatch(f"mask {show(mask)} fits neither [B] nor the rows {show(rows)}")


def same_classes(student: Shape, teacher: Shape) -> None:
    """Requires logits of equal shape.

    Raises:
        ShapeMismatch: suggests ``select_classes`` for another number of classes and
            ``resize`` for another resolution.
    """
    for side, shape in (("student", student), ("teacher", teacher)):
        rank(f"{side} logits", shape, *VECTORS, *TOKENS, *MAPS)
    if student == teacher:
        return
    both = f"student logits {show(student)} and teacher logits {show(teacher)}"
    if len(student) == len(teacher) and student[:1] == teacher[:1]:
        if student[class_dim(student)] != teacher[class_dim(student)]:
            ways = ("signal select_classes",) + ("loss uld",) * (len(student) in TOKENS)
            raise ShapeMismatch(f"{both} differ in their number of classes", adapters=ways)
        fix = ("resize",) if len(student) == 4 else ()
        raise ShapeMismatch(f"{both} differ in size", adapters=fix)
    raise ShapeMismatch(f"{both} must have equal shapes")


def same_samples(student: Shape, teacher: Shape) -> None:
    """Requires features of any form for the same number of samples."""
    rank("student", student, *VECTORS, *TOKENS, *MAPS)
    rank("teacher", teacher, *VECTORS, *TOKENS, *MAPS)
    same_batch(student, teacher)


def same_features(
    student: Shape, teacher: Shape, *ranks: int, channels: bool = True, positions: bool = True
) -> None:
    """Requires features that agree in ``channels`` and in ``positions`` (pixels or tokens).

    Args:
        student: [B, D], [B, L, D] or [B, C, H, W].
        teacher: like the student, with its own sizes.
        ranks: the numbers of dimensions that the loss takes.
        channels: whether the numbers of channels must be equal.
        positions: whether the sizes of the maps, or the numbers of tokens, must be equal.

    Raises:
        ShapeMismatch: suggests the adapter that changes what differs, where there is one.
    """
    for side, shape in (("student", student), ("teacher", teacher)):
        rank(side, shape, *ranks)
    same_batch(student, teacher)
    wide, large = differences(student, teacher)
    if not (wide and channels) and not (large and positions):
        return
    what = [w for w, equal in (("channels", channels), ("positions", positions)) if equal]
    raise ShapeMismatch(
        f"student {show(student)} and teacher {show(teacher)} must have equal {' and '.join(what)}",
        adapters=fitting_adapters(student, teacher, channels=channels, positions=positions),
    )
