"""Ungraft: a model's own segments back in the places of grafts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdgraph.actions.base import Action
from kdgraph.spec.entry import Paths, register_action

if TYPE_CHECKING:
    from kdgraph.actions._world import World


@register_action
class Ungraft(Action):
    """Puts back, exactly, the segments that grafts have replaced.

    ``modules`` are grafts, or modules in which all are meant. Scions and adapters keep what they
    have learned, and come back by another ``graft`` in the same places.
    """

    rebuilds: ClassVar[bool] = True

    use: Literal["ungraft"] = "ungraft"
    modules: Paths

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        from kdgraph.actions._grafting import Graft, link_neighbours
        from kdgraph.actions._grafts import example

        found = world.find(self.modules, ("Graft",), inside=True)
        lines = []
        for place in found:
            assert isinstance(place.module, Graft)
            if place.module.grafted:
                place.module.put_back()
                lines.append(f"{place.name}: its own segment again, without {place.module.source}")
        if not lines:
            world.wrong(f"{found[0].name!r} has its own segment already")
        for model in dict.fromkeys(place.model for place in found):
            link_neighbours(world.nets[model], example(world, model))
        return lines
