"""View: the same samples a second time, changed by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator

from kdgraph.errors import DataError
from kdgraph.spec.one_of import OneOf
from kdgraph.spec.transforms import TRANSFORMS, TransformEntry, register_transform
from kdgraph.spec.types import Name
from kdgraph.train.data.transforms.base import Batch, Scope, Transform

if TYPE_CHECKING:
    from torch import Generator

# Written out, because the schema of "any transform" holds the schema of a view.
_STEP = {"type": "object", "required": ["use"]}
Step = Annotated[TransformEntry, OneOf(TRANSFORMS), WithJsonSchema(_STEP)]


@register_transform
class View(Transform):
    """``view = augment(transforms(of))``: the column ``of`` once more, as the column ``name``.

    It starts from what was read, before ``augment``. First come its own ``transforms``, which
    read and write ``of`` (their ``entry``, where it is left out) and may add no columns; then
    ``augment``, if that is for ``of``, with a draw of its own; ``normalise`` treats it like
    ``of``. Views come before all other transforms of the list.
    """

    use: Literal["view"] = "view"

    of: Name = "image"
    """The column that is copied."""

    name: Name = "view"
    """The column that is added."""

    transforms: Annotated[tuple[Step, ...], Field(strict=False)] = ()
    """What the view goes through before ``augment``."""

    @field_validator("transforms")
    @classmethod
    def _of_this(cls, steps: tuple[Step, ...], info: ValidationInfo) -> tuple[Step, ...]:
        """Steps that do not say which column they change, as changes of ``of``."""
        if "of" not in info.data:  # it is wrong itself
            return steps
        return tuple(
            step.model_copy(update={"entry": info.data["of"]})
            if "entry" in type(step).model_fields.keys() - step.model_fields_set else step
            for step in steps
        )  # fmt: skip

    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    def adds(self) -> tuple[str, ...]:
        return (self.name,)

    def views(self) -> dict[str, str]:
        return {self.name: self.of}

    def moves(self) -> tuple[str, ...]:
        return (self.name,) if any(step.moves() for step in self._steps()) else ()

    def scope(self) -> Scope:
        return "row" if all(step.scope() == "row" for step in self._steps()) else "batch"

    def columns(self, have: tuple[str, ...]) -> tuple[str, ...]:
        for step in self._steps():
            if step.columns(have):
                raise DataError.of("KD711", f"{step.use} adds columns, so no view can hold it")
            if self.of not in step.reads():
                message = f"{step.use} in a view of {self.of!r} reads {', '.join(step.reads())}"
                raise DataError.of("KD711", message, help=f"a view changes {self.of!r} alone")
        return super().columns(have)

    def apply(self, batch: Batch, chance: Generator) -> Batch:
        own = batch
        for step in self._steps():
            own = step.apply(own, chance)
        return {**batch, self.name: own[self.of]}

    def _steps(self) -> list[Transform]:
        return [s for s in self.transforms if isinstance(s, Transform)]
