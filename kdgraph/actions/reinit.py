"""Reinit: layers start anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from kdgraph.actions.base import Action
from kdgraph.spec.entry import Paths, register_action

if TYPE_CHECKING:
    from torch import nn

    from kdgraph.actions._world import World


@register_action
class Reinit(Action):
    """Gives the layers in ``modules`` the random values that their classes start with.

    With ``types: [Conv2d, BatchNorm2d]`` only layers of these classes, else all; a layer that has
    parameters but no ``reset_parameters`` is refused. ``statistics: keep`` leaves the running means
    and variances of batch norms as they are, and sets only their factors to 1 and shifts to 0.

    What ``freeze`` holds stays as it is, and is refused where nothing else is named.
    """

    use: Literal["reinit"] = "reinit"
    modules: Paths
    types: Annotated[tuple[str, ...], Field(strict=False)] = ()
    statistics: Literal["reset", "keep"] = "reset"

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        layers, frozen = self._layers(world)
        if not world.skeleton:  # which draws no random numbers
            for layer in layers:
                self._reset(layer)
        count = sum(p.numel() for layer in layers for p in layer.parameters(recurse=False))
        number = f"{len(layers)} layer{'s' * (len(layers) > 1)}"
        rest = f"; {frozen} frozen stay as they are" if frozen else ""
        return [f"{', '.join(self.modules)}: {number} with {count:,} parameters start anew{rest}"]

    def _layers(self, world: World) -> tuple[list[nn.Module], int]:
        """Every layer that has something to reset, and can; the number of those left out."""
        from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

        every = world.find(self.modules, self.types, inside=True)
        layers = [f for f in every if not isinstance(f.module, ParametrizationList)]
        named = [f for f in layers if _has_values(f.module) or is_parametrized(f.module)]
        held = _held(world)
        found = [f for f in named if not held.intersection(_things(f.module))]
        if named and not found:
            world.wrong("all layers here are frozen", "`unfreeze` comes first")
        for f in found:
            if is_parametrized(f.module):
                world.wrong(f"{f.name!r} computes its weights", "reinit before they are quantised")
            if _reset_of(f.module) is None:
                world.wrong(
                    f"{f.name!r} has parameters of its own, but no method reset_parameters",
                    "name layers inside of it, or choose layers by `types`",
                )
        if not found:
            world.wrong("no module here has parameters or running statistics of its own")
        return [f.module for f in found], len(named) - len(found)

    def _reset(self, layer: nn.Module) -> None:
        import torch

        kept = _statistics(layer) if self.statistics == "keep" else {}
        _reset_of(layer)()
        with torch.no_grad():
            for name, value in kept.items():
                layer.get_buffer(name).copy_(value)


def _things(module: nn.Module) -> list[int]:
    """A layer and the parameters that it holds itself, by their ids."""
    return [id(module), *(id(p) for p in module.parameters(recurse=False))]


def _held(world: World) -> set[int]:
    """What is frozen, also where it is tied to something elsewhere."""
    from kdgraph.actions._frozen import is_frozen

    every = (m for net in world.nets.values() for m in net.modules())
    return {thing for m in every if is_frozen(m) for thing in _things(m)}


def _has_values(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False)) or bool(_statistics(module))


def _reset_of(module: nn.Module) -> Any:
    """What resets a module's own parameters; ``MultiheadAttention`` has it as a private one."""
    return getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))


def _statistics(module: nn.Module) -> dict[str, Any]:
    names = ("running_mean", "running_var", "num_batches_tracked")
    found = {name: getattr(module, name, None) for name in names}
    return {name: value.clone() for name, value in found.items() if value is not None}
