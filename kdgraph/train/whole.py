"""The networks of a step in one piece, though each process may have no more than its shards."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from kdgraph.runtime.module import DistillModule
from kdgraph.train.ranks import world


class Whole:
    """What processes that train one step do together so that each has all of it.

    Args:
        step: compiled; sharded, if at all, after ``before_sharding``.
    """

    def __init__(self, step: DistillModule) -> None:
        self._step = step
        self._copies: dict[str, nn.Module] = {}

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The networks that are trained; where they are sharded, as ``gather`` found them."""
        return self._copies or dict(self._step.models.items())

    def before_sharding(self) -> None:
        """Keeps a copy of each network as it is, for its weights once they are gathered."""
        self._copies = {name: copy.deepcopy(net) for name, net in self._step.models.items()}

    def gather(self) -> None:
        """Brings the copies up to date, where the networks are sharded; all processes do."""
        for name, net in self._copies.items():
            state = self._step.models[name].state_dict()
            net.load_state_dict({key: _gathered(value) for key, value in state.items()})

    def agree(self) -> None:
        """Gives all processes the buffers of the first: statistics are of the rows of each."""
        if world() > 1:
            for buffer in self._step.buffers():
                distributed.broadcast(buffer, 0)

    def unshard(self) -> None:
        """Lets every process run networks outside of the step."""
        if isinstance(self._step, FSDPModule):
            self._step.unshard()

    def reshard(self) -> None:
        """Leaves each process its shards again."""
        if isinstance(self._step, FSDPModule):
            self._step.reshard()


def _gathered(value: Tensor) -> Tensor:
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value
