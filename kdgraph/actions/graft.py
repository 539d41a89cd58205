"""Graft: segments of another network in the place of a model's own, between adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdgraph.actions.base import Action
from kdgraph.spec.entry import (
    ADAPTERS,
    AdapterEntry,
    Paths,
    ReadPaths,
    register_action,
)
from kdgraph.spec.one_of import OneOf

if TYPE_CHECKING:
    from kdgraph.actions._world import Found, World

Around = Annotated[AdapterEntry, OneOf(ADAPTERS, short=True, many="chain")]


@register_action
class Graft(Action):
    """``after(scion(before(x)))`` in the place of a model's own segment.

    Progressive network grafting, Shen et al. 2021 (arXiv 2012.04915). ``at`` names modules of a
    trained model, ``scion`` as many of another model, in the same order; that model is only looked
    at: the grafts are copies. From the first graft on, all else in the model is frozen, as by
    ``freeze``, and what is trained is exactly the scions in place and their adapters.

    The adapters make shapes fit: ``before`` what the segment reads, ``after`` what it gives. By
    default both are chosen by shapes, as in links; they start from kaiming values by fan-out, and
    ``bias: false`` leaves their biases out. The parts can be named: ``student.block3.before``,
    ``student.block3.scion``, ``student.block3.after``.

    ``ungraft`` puts the model's own segment back. Where a scion was grafted before, it comes back
    with its adapters and all that they have learned.

    A saved student is plain: adapters that are linear layers or 1x1 convolutions are merged with
    the next ones where they follow each other, or nothing but a mean over positions is between,
    and go into the scion's first layer where that is exact. A bias in front of a convolution that
    pads with zeros stays outside.
    """

    rebuilds: ClassVar[bool] = True

    use: Literal["graft"] = "graft"
    at: Paths
    scion: ReadPaths
    before: Around = Field(default="auto", validate_default=True)
    after: Around = Field(default="auto", validate_default=True)
    bias: bool = True

    def decide(self, world: World) -> dict[str, Any]:
        import torch

        return {} if world.skeleton else {"seed": int(torch.randint(2**62, ()))}

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        from kdgraph.actions._grafting import freeze_stock, link_neighbours
        from kdgraph.actions._grafts import example, make, put_in

        places, scions = world.find(self.at), world.find(self.scion)
        if len(places) != len(scions):
            world.wrong(f"{len(places)} modules are to be replaced by {len(scions)}")
        self._check(world, places, scions)
        made = [
            make(self, world, place, scion, decided.get("seed", 0) + number)
            for number, (place, scion) in enumerate(zip(places, scions, strict=True))
        ]
        for place, graft in zip(places, made, strict=True):
            put_in(world.nets[place.model], place.module, graft)
        for model in dict.fromkeys(place.model for place in places):
            net = world.nets[model]
            freeze_stock(net)
            link_neighbours(net, example(world, model))
        return [
            f"{place.name}: {graft.source} in its place, {_count(graft)}"
            for place, graft in zip(places, made, strict=True)
        ]

    def _check(self, world: World, places: list[Found], scions: list[Found]) -> None:
        from kdgraph.actions._grafting import Graft as InPlace

        for place, scion in zip(places, scions, strict=True):
            if not place.path:
                world.wrong(f"{place.name!r} is a whole network, not a part of one")
            if not world.spec.is_learning(place.model):
                world.wrong(f"{place.model!r} is never trained, so no graft in it would learn")
            if place.model == scion.model:
                world.wrong(f"{scion.name!r} is of the very network that it is to be grafted into")
            for name, around in world.nets[place.model].named_modules():
                if isinstance(around, InPlace) and place.path.startswith(f"{name}."):
                    world.wrong(f"{place.name!r} is inside of the graft {name!r}")
            known = place.module
            if isinstance(known, InPlace) and known.source != scion.name:
                help = "there is one scion for each place; use another place"
                world.wrong(f"{place.name!r} has had the graft {known.source!r} before", help)


def _count(graft: Any) -> str:
    """What is trained, and what it stands for."""
    adapters = ", ".join(
        f"{side} by {type(module).__name__}"
        for side in ("before", "after")
        if type(module := getattr(graft, side)).__name__ != "Identity"
    )
    own, original = (sum(p.numel() for p in m.parameters()) for m in (graft.scion, graft.original))
    return f"{own:,} parameters for {original:,}" + (f"; adapted {adapters}" if adapters else "")
