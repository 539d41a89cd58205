"""Prune: neurons that are never active are taken out of the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from kdgraph.actions.base import Action
from kdgraph.spec.entry import Paths, register_action
from kdgraph.spec.types import Count

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from kdgraph.actions._world import Found, World


@register_action
class Prune(Action):
    """Removes the neurons of a Linear, or the channels of a Conv, that are inactive.

    One pass over the training data in eval mode gives a statistic ``r_j`` of each neuron's
    ``|a|`` behind the activation that follows the layer: its ``max``, its ``mean``, or its
    ``rate``, the share of samples (and positions) on which it is not 0. Neurons with ``r_j >
    eps`` are kept; at least ``min_keep`` are, the most active ones. With them go the layer's
    rows, the entries of batch norms and depthwise convolutions behind it, the columns of the
    layers that read it, and the moments of the optimiser. A neuron that is 0 on all data changes
    no output when it goes.

    ``fold_mean: true`` adds to the bias of the next layers what they read of removed neurons on
    average, which is all of it where a neuron is constant.

    Refused, with the reason, where the neurons reach an addition, a concatenation or anything
    whose shape would not fit any more. Nothing is changed then.

    The pruning during training of Sener, Akbas 2022 (10.29109/gujsc.1141648); the statistics and
    ``eps`` are a reconstruction.
    """

    rebuilds: ClassVar[bool] = True

    use: Literal["prune"] = "prune"
    module: Paths
    statistic: Literal["max", "mean", "rate"] = "max"
    eps: Annotated[float, Field(ge=0)] = 1e-3
    min_keep: Count = 1
    fold_mean: bool = False

    def decide(self, world: World) -> dict[str, Any]:
        """The neurons to keep, by layer; none for a layer that keeps all."""
        from kdgraph.actions._activity import measure
        from kdgraph.actions._pruning import plan

        layers = self._layers(world)
        flows = {found.name: plan(world, found, fold=self.fold_mean) for found in layers}
        if world.skeleton:
            return {}
        if world.batches is None:
            world.wrong(
                "`prune` needs training data to see which neurons are inactive",
                help="`kdgraph train` has it; in a loop of your own, set `step.stages.batches` to "
                "a function that gives the batches",
            )
        decided: dict[str, Any] = {}
        for name, flow in flows.items():
            active, means = measure(flow, world.batches, self.statistic, means=self.fold_mean)
            keep = self._kept(active)
            if len(keep) < flow.width:
                decided[name] = {"width": flow.width, "keep": keep, "means": means}
        return decided

    def apply(self, world: World, decided: Mapping[str, Any]) -> list[str]:
        from kdgraph.actions._pruning import cut, plan, size

        lines = []
        for found in self._layers(world) if decided else ():
            if (what := decided.get(found.name)) is None:
                continue
            flow = plan(world, found, fold=self.fold_mean)
            if flow.width != what["width"]:
                world.wrong(f"{found.name!r} has {flow.width} neurons, not {what['width']}")
            before = size(world, found.model)
            cut(world, flow, what["keep"], what["means"])
            after = size(world, found.model)
            kind = "neurons" if type(found.module).__name__ == "Linear" else "channels"
            changes = [f"{b:,} -> {after[unit]:,} {unit}" for unit, b in before.items()]
            lines.append(
                f"{found.name}: {flow.width} -> {len(what['keep'])} {kind}, "
                f"{found.model}: {', '.join(changes)}"
            )
        return lines

    def _layers(self, world: World) -> list[Found]:
        """The layers that the patterns name; of several modules, those that have neurons."""
        from torch import nn
        from torch.nn.modules.conv import _ConvNd

        found = world.find(self.module)
        return [f for f in found if isinstance(f.module, nn.Linear | _ConvNd)] or found

    def _kept(self, active: Tensor) -> Tensor:
        kept = ~(active <= self.eps)  # nan stays
        if int(kept.sum()) < self.min_keep:
            kept[active.argsort(descending=True, stable=True)[: self.min_keep]] = True
        return kept.nonzero().flatten()


def fit_widths(model: nn.Module, weights: str | Path | Mapping[str, Tensor]) -> None:
    """Loads the weights of a pruned network into one as its source builds it.

    ``fit_widths(resnet, "runs/kddp/student.safetensors")`` gives the layers of ``resnet`` the
    widths that are in the file, and then its values.

    Args:
        model: changed in place, narrower or wider.
        weights: a ``.safetensors`` or ``.pt`` file, or a state dict.

    Raises:
        ModelError: KD415 the file cannot be read; KD416 it is of another network.
        RuntimeError: a state dict is of another network.
    """
    from kdgraph.actions import _widths

    _widths.fit_widths(model, weights)
