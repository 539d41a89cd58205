"""Who is trained now, and who waits for the turn of its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from kdgraph.spec.language import Spec
from kdgraph.spec.legs import at_stage, stage_of


class Turns:
    """Freezes networks for the legs that do not train them, and only for those.

    What its owner, or an action, has frozen stays frozen: remembered are the parameters that wait.

    Args:
        spec: with all stages.
        nets: every network by the name of its model.
    """

    def __init__(self, spec: Spec, nets: Mapping[str, nn.Module]) -> None:
        self.spec, self.nets = spec, nets
        self._waiting: dict[str, list[str]] = {}

    def begin(self, leg: str) -> None:
        """Freezes what a leg does not train, and nothing else that was waiting."""
        self.end()
        now = at_stage(self.spec, leg)
        for name, net in self.nets.items():
            if not self.spec.is_moving(name):
                continue
            net.train(now.is_trainable(name))
            if not now.is_trainable(name):
                trained = [n for n, p in net.named_parameters() if p.requires_grad]
                self._waiting[name] = trained
                for n in trained:
                    parameter = net.get_parameter(n)
                    parameter.requires_grad_(False)
                    parameter.grad = None  # else its momentum would go on moving it

    def end(self) -> None:
        """Lets everything be trained that only waits."""
        for name, trained in self._waiting.items():
            for n, parameter in self.nets[name].named_parameters():
                if n in trained:
                    parameter.requires_grad_(True)
        self._waiting.clear()

    def waiting(self, leg: str) -> list[nn.Parameter]:
        """The parameters that are frozen now, and trained in another phase of this stage."""
        turns = [at_stage(self.spec, other) for other in stage_of(self.spec, leg).legs]
        return [
            self.nets[name].get_parameter(n)
            for name, trained in self._waiting.items()
            if any(turn.is_trainable(name) for turn in turns)
            for n in trained
        ]

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter that can be trained now, with the name of its model."""
        for name, net in self.nets.items():
            if self.spec.is_moving(name):
                yield from ((name, p) for p in net.parameters() if p.requires_grad)
