"""Requantize: the steps between levels follow the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from kdgraph.actions.base import Action
from kdgraph.spec.entry import Paths, register_action

if TYPE_CHECKING:
    from kdgraph.actions._world import World


@register_action
class Requantize(Action):
    """Fits the steps of quantised layers in ``modules`` again, to the weights as they are now.

    ``{use: requantize, modules: student, every: 1}`` under ``during`` does so after every epoch;
    without it each layer keeps the step that ``quantize`` gave it. Bits stay.
    """

    use: Literal["requantize"] = "requantize"
    modules: Paths

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        from kdgraph.actions._fake_quantize import best_step, fit, quantizer, shadow

        found = [f.module for f in world.find(self.modules, inside=True)]
        quantised = [(m, q) for m in found if (q := quantizer(m)) is not None]
        if not quantised:
            world.wrong("no layer here is quantised", "`quantize` comes first")
        if not world.skeleton:
            for module, now in quantised:
                fit(module, now.bits, best_step(shadow(module), now.bits))
        return [f"{', '.join(self.modules)}: {len(quantised)} steps fitted anew"]
