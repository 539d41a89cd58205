"""Load: weights from a file, or of another model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from kdgraph.actions.base import Action
from kdgraph.spec.entry import Paths, ReadPaths, register_action

if TYPE_CHECKING:
    from kdgraph.actions._world import Found, World


@register_action
class Load(Action):
    """Copies weights into ``module``, a model or a part of one: all of them fit, or none is copied.

    Either ``weights`` names a file, ``.safetensors`` or a ``.pt`` of tensors, its path relative to
    the spec; or ``of`` names another model or a part of it (``of: teacher.layer1``). Names and
    shapes must be equal; running statistics come along.
    """

    use: Literal["load"] = "load"
    module: Paths
    weights: str | None = None
    of: ReadPaths | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.weights is None) == (self.of is None):
            raise PydanticCustomError("load_source", "give either 'weights' or 'of'")
        return self

    def decide(self, world: World) -> dict[str, Any]:
        from kdgraph.spec.files import WEIGHTS

        _one(world, self.module)
        if self.of is not None:
            _one(world, self.of)
        elif self.weights is not None:
            path = world.spec.folder / self.weights
            if path.suffix not in WEIGHTS:
                world.wrong(f"{str(path)!r} is no weights file: {', '.join(WEIGHTS)}")
            if not path.is_file():
                world.wrong(f"there is no weights file {str(path)!r}")
        return {}

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        from kdgraph.errors import ActionError, Diagnostic, ModelError
        from kdgraph.models.weights import load_tensors, load_weights

        into = _one(world, self.module)
        said = ", ".join(self.of or (str(self.weights),))
        try:
            if self.of is not None:
                load_tensors(into.module, _one(world, self.of).module.state_dict(), said)
            elif not world.skeleton:
                load_weights(into.module, world.spec.folder / said)
        except ModelError as error:
            raise ActionError(
                Diagnostic(d.code, d.message, world.span, d.help) for d in error.diagnostics
            ) from error
        return [f"{into.name}: weights of {said}"]


def _one(world: World, patterns: tuple[str, ...]) -> Found:
    """The only module that patterns name."""
    found = world.find(patterns)
    if len(found) > 1:
        names = ", ".join(f.name for f in found[:3])
        world.wrong(f"{', '.join(patterns)!r} is not one module but {len(found)}: {names}, ...")
    return found[0]
