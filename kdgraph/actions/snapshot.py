"""Snapshot: the frozen copy of a trained model is brought up to date."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.actions.base import Action
from kdgraph.errors import near
from kdgraph.spec.entry import ModelName, register_action

if TYPE_CHECKING:
    from kdgraph.actions._world import World


@register_action
class Snapshot(Action):
    """Copies the present weights of trained models into models with ``snapshot_of``.

    ``model`` is the copy; left out, all of them are taken. As ``{use: snapshot, when: best}`` under
    ``during`` it keeps the weights that were best so far.
    """

    use: Literal["snapshot"] = "snapshot"
    model: ModelName | None = None

    def decide(self, world: World) -> dict[str, Any]:
        known = [n for n, m in world.spec.models.items() if m.snapshot_of is not None]
        if not known:
            world.wrong("no model has `snapshot_of`", "write `past: {snapshot_of: student}`")
        if self.model is not None and self.model not in known:
            help = near(self.model, known) or f"there is {', '.join(known)}"
            world.wrong(f"model {self.model!r} is no snapshot", help)
        return {}

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        from kdgraph.actions._snapshots import copy_values

        told = []
        for name, model in world.spec.models.items():
            if model.snapshot_of is None or self.model not in (None, name):
                continue
            copy_values(world.nets[model.snapshot_of], world.nets[name])
            told.append(f"{name}: taken of {model.snapshot_of}")
        return told
