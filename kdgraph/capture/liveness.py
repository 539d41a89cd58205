"""What of training stays on in a frozen model: its dropout, or the statistics of its batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdgraph.capture.record import call_module, positional_names
from kdgraph.capture.twin import twin
from kdgraph.capture.world import example, quiet, untouched_random_state, worlds

_SPECTRAL = ("_u", "weight_u")  # vectors of a power iteration that goes on in train mode


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped there
    """Notes whether an operator that draws random numbers, or updates statistics, runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped there
        self.draws = self.updates = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {a.name: a.default_value for a in func._schema.arguments}
        given |= {**dict(zip(given, args, strict=False)), **(kwargs or {})}
        if torch.Tag.nondeterministic_seeded in func.tags:
            # an attention that is told to drop nothing draws nothing
            self.draws |= given.get("dropout_p") != 0
        # a batch norm does not say in its schema that it writes, nor does a fake one write
        self.updates |= bool(given.get("training")) and given.get("running_mean") is not None
        return func(*args, **(kwargs or {}))


def keep_dropout(module: nn.Module) -> None:
    """Puts a model in train mode, and each layer in it that has running statistics in eval mode.

    So dropout works in any form: as a module, as ``F.dropout(training=self.training)``, as
    stochastic depth.
    """
    module.train()
    for part in module.modules():
        normalises = isinstance(part, nn.modules.batchnorm._NormBase)
        if normalises or any(b.startswith("running_") or b in _SPECTRAL for b in part._buffers):
            part.training = False  # not what is inside: a norm may hold an activation, a dropout


def by_batch(module: nn.Module) -> nn.Module | None:
    """A model on the same weights whose batch norms use the statistics of each batch, in any mode.

    It keeps no running ones, so that none move; those of the original are left as they are. None
    where there is no batch norm.
    """
    copy = twin(module)
    norms = [m for m in copy.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return copy if norms else None


def still(module: nn.Module, inputs: Mapping[str, Tensor]) -> str | None:
    """Puts in eval mode also what changes its buffers when the model runs.

    Found by one run on copies, since layers of the model's own may keep statistics by any name.

    Returns:
        A buffer that changes nevertheless, or None.
    """
    for path in _changed(module, inputs):
        module.get_submodule(path.rpartition(".")[0]).training = False
    return next(iter(_changed(module, inputs)), None)


def is_random(module: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
    """Whether a model draws random numbers as it stands; taken for granted if it does not run."""
    for world in worlds(module, inputs):
        log = Watch()
        try:
            with quiet(), world.running(), log:
                call_module(world.model(), world.inputs, positional_names(module, world.inputs))
        except Exception:  # code that asks for values, on fake tensors
            continue
        return log.draws
    return True


def _changed(module: nn.Module, inputs: Mapping[str, Tensor]) -> list[str]:
    """The buffers that a run writes to, by value: a batch norm does not say that it writes."""
    before = dict(module.named_buffers())
    if any(t.is_meta for t in (*module.parameters(), *before.values())):
        return []  # no values to look at
    copy = twin(module, lambda t: t if isinstance(t, nn.Parameter) else t.detach().clone())
    with quiet(), untouched_random_state(), torch.no_grad():
        given = {name: _numbers(example(value)) for name, value in inputs.items()}
        try:
            call_module(copy, given, positional_names(module, given))
        except Exception:  # the capture says why it does not run
            return []
    after = dict(copy.named_buffers())
    return [name for name, value in before.items() if not torch.equal(after[name], value)]


def _numbers(value: Tensor) -> Tensor:
    """Something else than zeros, which might leave a mean where it is."""
    return value.uniform_(-1, 1) if value.is_floating_point() else value
