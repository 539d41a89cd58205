"""Weights of linear layers as int8, by torchao, which is imported on first use only."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from kdgraph.capture.record import one_line
from kdgraph.capture.world import quiet


class NoTorchao(Exception):
    """torchao cannot be imported; the message says why."""


def quantised(module: nn.Module) -> nn.Module:
    """Quantises the linear layers of a module in place, each row of a weight by its own scale.

    Raises:
        NoTorchao: where it is missing or was built for another torch.
    """
    try:
        with quiet():  # it logs about itself while it is imported
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except (ImportError, AttributeError, RuntimeError) as error:
        reason = one_line(error)
        raise NoTorchao(f"torchao, which cannot be imported: {reason}") from error
    with quiet():
        quantize_(nn.Sequential(module), Int8WeightOnlyConfig())
    return module


def quantised_weight(weight: Tensor) -> nn.Parameter:
    """A weight [D, C] of a linear layer as int8, whatever holds it."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    found: Any = quantised(layer).weight
    assert isinstance(found, nn.Parameter)
    return found


def linears(module: nn.Module) -> list[nn.Linear]:
    """The linear layers of a module."""
    return [m for m in module.modules() if isinstance(m, nn.Linear)]


def is_quantised(weight: object) -> bool:
    """Whether a weight is kept as int8."""
    return bool(is_traceable_wrapper_subclass(weight))


def is_linear_weight(node: fx.Node) -> bool:
    """Whether a parameter is read as the weight of linear layers and as nothing else."""
    return bool(node.users) and all(
        user.op == "call_function"
        and (user.target is functional.linear or str(user.target) == "aten.linear.default")
        and user.args[1:2] == (node,)
        and node not in (user.args[0], *user.args[2:])
        for user in node.users
    )
