"""What is refused of the networks that are handed over instead of built."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import cast

from torch import nn

from kdgraph.errors import Diagnostic, ModelError, near
from kdgraph.spec.language import Spec


def check_given(spec: Spec, given: Mapping[str, nn.Module]) -> None:
    """Refuses what is no model of the spec, and models that are not as they were written.

    Raises:
        ModelError: KD409.
    """
    for name, net in cast(Mapping[str, object], given).items():
        if not isinstance(net, nn.Module):
            kind = type(net).__name__
            raise ModelError.of("KD409", f"model {name!r} must be an nn.Module, not {kind}")
        if name in spec.models and (copied := spec.models[name].snapshot_of) is not None:
            message = f"model {name!r} is a snapshot of {copied!r}; hand over that"
            raise ModelError.of("KD409", message)
        if name in spec.models and (network := spec.network(name)) != name:
            message = f"model {name!r} is another call of {network!r}; hand over that"
            raise ModelError.of("KD409", message)
        if name not in spec.models:
            known = ", ".join(spec.models)
            hint = near(name, spec.models) or f"the spec names {known}"
            raise ModelError.of("KD409", f"the spec has no model {name!r}", help=hint)
        _check_bare(name, net)


def _check_bare(name: str, net: nn.Module) -> None:
    """Refuses what acts when a model is called: a step reads its layers past the wrapper.

    Under DDP, say, gradients would not be averaged, without a word.
    """
    compiled = hasattr(net, "_orig_mod")
    if compiled or isinstance(net, nn.parallel.DistributedDataParallel | nn.DataParallel):
        how = "torch.compile" if compiled else type(net).__name__
        inside = "_orig_mod" if compiled else "module"
        message = f"model {name!r} is wrapped by {how}"
        help = f"hand over what is inside, its `.{inside}`, and wrap the compiled step"
        raise ModelError.of("KD409", message, help=help)
    sharding = sys.modules.get("torch.distributed.tensor")  # seconds to import; there if needed
    if sharding is not None and any(isinstance(p, sharding.DTensor) for p in net.parameters()):
        message = f"model {name!r} is in shards already, and capture needs it whole"
        help = "hand it over before `fully_shard`; kdgraph.runtime.sharding.shard(step) follows"
        raise ModelError.of("KD409", message, help=help)


def shared_parameters(spec: Spec, nets: Mapping[str, nn.Module]) -> list[Diagnostic]:
    """Parameters that a frozen model and a trained one have in common."""
    owner = {p: n for n, net in nets.items() if spec.is_learning(n) for p in net.parameters()}
    found: list[Diagnostic] = []
    for name, net in nets.items():
        shared = {owner[p] for p in net.parameters() if p in owner}
        if not spec.is_learning(name) and shared:
            message = f"model {name!r} is frozen, but has parameters of {sorted(shared)[0]!r}"
            help = "hand over a copy: copy.deepcopy(net)"
            found.append(Diagnostic("KD409", message, spec.span("models", name), help))
    return found
