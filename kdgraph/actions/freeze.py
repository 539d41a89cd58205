"""Freeze: parts of a trained model that are not to change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdgraph.actions.base import Action
from kdgraph.spec.entry import Paths, register_action

if TYPE_CHECKING:
    from kdgraph.actions._world import World


@register_action
class Freeze(Action):
    """Parameters of modules, and of all inside of them, are no longer trained.

    They stay bit for bit what they are until ``unfreeze``, in this stage and in later ones. Layers
    with running statistics (batch norms) among them stay in eval mode, so that the statistics
    stay too. A parameter that is tied to one elsewhere is frozen there as well. ``load`` and
    ``set_number`` still give frozen parts the values that they name.
    """

    use: Literal["freeze"] = "freeze"
    rebuilds: ClassVar[bool] = True
    modules: Paths

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        from kdgraph.actions._frozen import freeze_part

        found = [f.module for f in world.find(self.modules, inside=True)]
        for module in found:
            freeze_part(module)
        held = {p for module in found for p in module.parameters(recurse=False)}
        return [f"{', '.join(self.modules)}: {sum(p.numel() for p in held):,} parameters frozen"]
