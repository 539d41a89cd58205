"""How several processes train one student: DDP, fit for stages and actions, or FSDP2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from kdgraph.errors import DataError
from kdgraph.runtime.sharding import shard
from kdgraph.spec.language import Spec
from kdgraph.train.learner import Learner
from kdgraph.train.optim import trained_parameters
from kdgraph.train.ranks import Place, world

Kind = Literal["ddp", "fsdp2"]


class Replicated(DDPStrategy):
    """DDP over all that is trained in any phase of the present stage.

    A phase leaves some of it without gradients, and so do losses that read no more than a part of
    the student, which only a step tells. DDP looks for what is not used in every step or in none,
    so the first step of a stage, and the first after an action, runs without DDP: its gradients
    are averaged here, and show what DDP has to expect.
    """

    def configure_ddp(self) -> None:
        """Lets every process start from the values of the first; the rest waits for a step."""
        assert self.model is not None
        with torch.no_grad():
            for value in (*self.model.parameters(), *self.model.buffers()):
                distributed.broadcast(value, 0)

    def wrap_anew(self) -> None:
        """Follows what an action has put in the place of parameters, on every process alike."""
        self.model = self.lightning_module
        self.configure_ddp()

    def post_backward(self, closure_loss: Tensor) -> None:
        """After the first step puts DDP around the learner."""
        super().post_backward(closure_loss)
        learner = self.lightning_module
        if not isinstance(learner, Learner) or self.model is not learner:
            return
        parameters = list(trained_parameters(learner.distill).values())
        self._ddp_kwargs["find_unused_parameters"] = not _average_gradients(parameters)
        with _all_learn(parameters):
            super().configure_ddp()


class Sharded(DDPStrategy):
    """FSDP2: each process keeps a part of all weights, gradients and moments.

    Weights of a block are gathered while it runs. It is the strategy of a run without stages, whose
    networks stay what they are.
    """

    def model_to_device(self) -> None:
        """Moves what is trained when it is sharded, so that no device has to hold all of it."""
        if not isinstance(self.model, Learner):
            super().model_to_device()

    def configure_ddp(self) -> None:
        """Shards instead of wrapping."""
        learner = self.model
        assert isinstance(learner, Learner)
        mesh = init_device_mesh(self.root_device.type, (world(),))
        learner.whole.before_sharding()
        learner.watch.leave_out("the student is sharded")
        shard(learner.distill, mesh)
        learner.to(self.root_device)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Keeps gradients where they are while they accumulate."""
        learner = self.lightning_module
        assert isinstance(learner, Learner)
        step = cast(FSDPModule, learner.distill)
        step.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            step.set_requires_gradient_sync(True)


def _average_gradients(parameters: list[nn.Parameter]) -> bool:
    """Averages gradients over processes, and tells whether all parameters have one everywhere."""
    device = parameters[0].device
    have = torch.tensor([p.grad is not None for p in parameters], device=device).int()
    distributed.all_reduce(have)
    for parameter, count in zip(parameters, have.tolist(), strict=True):
        if count:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad /= world()
            distributed.all_reduce(parameter.grad)
    return bool((have == world()).all())


@contextmanager
def _all_learn(parameters: list[nn.Parameter]) -> Iterator[None]:
    """While DDP looks for what to follow, what waits for its phase is trained too."""
    waiting = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in waiting:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in waiting:
            parameter.requires_grad_(False)


def shared_by(place: Place, kind: Kind) -> Mapping[str, Any]:
    """What Lightning's trainer is told so that it is one of several."""
    return {
        "strategy": Sharded() if kind == "fsdp2" else Replicated(),
        "devices": place.here,
        "num_nodes": place.nodes,
        "plugins": [TorchElasticEnvironment()],
        "use_distributed_sampler": False,  # each process reads its part of every batch by itself
    }


def check_strategy(spec: Spec, kind: Kind) -> None:
    """Refuses what cannot be sharded.

    Raises:
        DataError: KD718.
    """
    if kind != "fsdp2":
        return
    help = "leave out `--strategy fsdp2`: ddp does"
    if world() == 1:
        message = "fsdp2 shards a training over several processes, and there is one"
        raise DataError.of("KD718", message, help="start more, by --devices or torchrun")
    if spec.stages:
        message = "fsdp2 cannot follow stages, whose actions and phases change what is trained"
        raise DataError.of("KD718", message, span=spec.span("stages"), help=help)
