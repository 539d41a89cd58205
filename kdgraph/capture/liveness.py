"""A frozen model with its dropout on: what is random in training stays, statistics stand still."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kdgraph.capture.record import call_module, positional_names
from kdgraph.capture.twin import twin
from kdgraph.capture.world import example, quiet, untouched_random_state

_SPECTRAL = ("_u", "weight_u")  # vectors of a power iteration that goes on in train mode


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


def still(module: nn.Module, inputs: Mapping[str, Tensor]) -> str | None:
    """Puts in eval mode also what changes its buffers when the model runs.

    Found by one run on copies, since layers of the model's own may keep statistics by any name.

    Returns:
        A buffer that changes nevertheless, or None.
    """
    for path in _changed(module, inputs):
        module.get_submodule(path.rpartition(".")[0]).training = False
    return next(iter(_changed(module, inputs)), None)


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
