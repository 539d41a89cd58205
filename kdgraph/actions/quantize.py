"""Quantize: a model is trained with weights of few levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdgraph.actions.base import Action
from kdgraph.spec.entry import Paths, ReadPaths, register_action
from kdgraph.spec.types import Positive

if TYPE_CHECKING:
    from kdgraph.actions._world import World


@register_action
class Quantize(Action):
    """Convolutions and linear layers in ``modules`` compute with weights of ``2**bits - 1`` levels.

    ``sign(w) delta min(floor(|w| / delta + 1/2), 2**(bits - 1) - 1)``, with one bit ``delta`` or
    ``-delta``: Shin, Boo, Sung 2020 (arXiv 1909.01688). What is trained, and saved in checkpoints,
    is w, the float weight: the gradient goes straight through to it, and optimisers go on with it.
    The saved student holds the quantised weights. Biases and normalisation stay float, and so does
    whatever ``keep`` names, commonly the first layer and the last.

    ``delta`` is a step for each layer: ``l2`` the one with the least squared error of the weights
    as they are now, found exactly; or a number. ``requantize`` fits the steps again later. On
    layers that are quantised already it changes bits and steps. A frozen model may be quantised as
    well.
    """

    use: Literal["quantize"] = "quantize"
    rebuilds: ClassVar[bool] = True
    modules: Paths
    keep: ReadPaths | None = None
    bits: Annotated[int, Field(ge=1, le=8)] = 2
    delta: Literal["l2"] | Positive = "l2"

    def decide(self, world: World) -> dict[str, Any]:
        from kdgraph.actions._fake_quantize import best_step, layers, shadow

        found = layers(world, self.modules, self.keep)
        if world.skeleton or self.delta != "l2":
            value = 1.0 if self.delta == "l2" else self.delta
            return {"delta": {f.name: value for f in found}}
        return {"delta": {f.name: best_step(shadow(f.module), self.bits) for f in found}}

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        from kdgraph.actions._fake_quantize import fit, layers, shadow

        found = layers(world, self.modules, self.keep)
        count = 0
        for f in found:
            fit(f.module, self.bits, decided["delta"][f.name])
            count += shadow(f.module).numel()
        levels = 2 if self.bits == 1 else 2**self.bits - 1
        number = f"{len(found)} layer{'s' * (len(found) > 1)} with {count:,} weights"
        return [f"{', '.join(self.modules)}: {number} of {levels} levels"]
