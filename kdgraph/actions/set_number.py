"""Set number: a number that a model keeps in a buffer moves."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from kdgraph.actions.base import Action
from kdgraph.errors import near
from kdgraph.spec.entry import Paths, register_action

if TYPE_CHECKING:
    from torch import Tensor

    from kdgraph.actions._world import World


@register_action
class SetNumber(Action):
    """Buffers of one number, such as an epoch or a mode that a forward reads, get another value.

    ``numbers`` are buffers by name: ``student.epoch``. ``to`` is the new value (1 and 0 stand for
    true and false). ``by`` is added instead, but no further than to ``until``: under ``during``
    it moves after every epoch, and what ``until`` stops at the last epoch is also what the model
    is scored and saved with.

    The number lies in the model: it is in checkpoints and in saved weights, and nothing is
    compiled anew when it moves.
    """

    use: Literal["set_number"] = "set_number"
    numbers: Paths
    to: float | None = None
    by: float | None = None
    until: float | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.to is None) == (self.by is None):
            raise PydanticCustomError("set_number", "give either 'to' or 'by'")
        if self.until is not None and self.by is None:
            raise PydanticCustomError("set_number", "'until' has a meaning beside 'by' only")
        return self

    def decide(self, world: World) -> dict[str, Any]:
        found = self._numbers(world)
        if world.skeleton:  # it holds no values
            return {}
        return {name: self._next(float(number)) for name, number in found.items()}

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        found = self._numbers(world)
        for name, value in decided.items():
            found[name].fill_(value)
        return [f"{name} is {value:g}" for name, value in decided.items()]

    def _next(self, value: float) -> float:
        if self.by is None:
            return float(self.to or 0)
        moved = value + self.by
        if self.until is None:
            return moved
        return min(moved, self.until) if self.by > 0 else max(moved, self.until)

    def _numbers(self, world: World) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for pattern in self.numbers:
            model, _, path = pattern.partition(".")
            every = {n: b for n, b in world.network(model).named_buffers() if b.dim() == 0}
            fit = {f"{model}.{n}": b for n, b in every.items() if fnmatchcase(n, path)}
            if not fit:
                world.wrong(f"no buffer of one number matches {pattern!r}", near(path, every))
            found |= fit
        return found
