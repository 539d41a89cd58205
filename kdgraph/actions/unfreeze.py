"""Unfreeze: what ``freeze`` had frozen is trained again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdgraph.actions.base import Action
from kdgraph.spec.entry import Paths, register_action

if TYPE_CHECKING:
    from kdgraph.actions._world import World


@register_action
class Unfreeze(Action):
    """Takes back ``freeze``, for these modules and all inside of them.

    A model that the stage does not train stays frozen as a whole.
    """

    use: Literal["unfreeze"] = "unfreeze"
    rebuilds: ClassVar[bool] = True
    modules: Paths

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        from kdgraph.actions._frozen import unfreeze_part

        found = world.find(self.modules, inside=True)
        freed = sum(unfreeze_part(f.module, world.nets[f.model].training) for f in found)
        return [f"{', '.join(self.modules)}: {freed:,} parameters trained again"]
