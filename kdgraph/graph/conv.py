"""A convolution with the addition and the activation behind it, as one module of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = tuple[Callable[[Tensor], Tensor], str, tuple[float, ...], str]

# name to the plain function, and to oneDNN's word for it, its numbers and its variant
ACTIVATIONS: dict[str, Activation] = {
    "none": (lambda x: x, "none", (), ""),
    "relu": (functional.relu, "relu", (), ""),
    "relu6": (functional.relu6, "hardtanh", (0.0, 6.0), ""),
    "silu": (functional.silu, "swish", (), ""),
    "hardswish": (functional.hardswish, "hardswish", (), ""),
    "gelu": (functional.gelu, "gelu", (), "none"),
}


def channels_last(value: Tensor) -> Tensor:
    """``value`` [B, C, H, W] with its channels side by side in memory."""
    return value.contiguous(memory_format=torch.channels_last)


def trained_channels_last(value: Tensor) -> Tensor:
    """``channels_last`` of what a trained model reads, where that is known to pay."""
    return channels_last(value) if _pays(value) else value


def trained_contiguous(value: Tensor) -> Tensor:
    """``value`` with its rows side by side again, where ``trained_channels_last`` did anything."""
    return value.contiguous() if _pays(value) else value


def _pays(value: Tensor) -> bool:
    """Whether channels last were measured to pay in training: float32 on a CPU, not compiled."""
    return (
        not torch.compiler.is_compiling()
        and value.device.type == "cpu"
        and value.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


class FusedConv2d(nn.Module):
    """``activation(conv2d(x) + other)`` of a frozen model, [B, C, H, W] to [B, D, H', W'].

    On a CPU in float32, with no gradient asked for, oneDNN computes the whole of it in one go
    over weights packed on first use; anywhere else it is plain torch. The packed copy is part of
    no state and is made anew once the weight was changed or moved.

    Args:
        weight: [D, C / groups, K, L].
        bias: [D].
        stride, padding, dilation: one number each for height and width.
        groups: groups of channels.
        activation: a name in ``ACTIVATIONS``; with an addition only ``none`` and ``relu``.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        activation: str = "none",
    ) -> None:
        super().__init__()
        self.register_buffer("weight", channels_last(weight))
        self.register_buffer("bias", bias)
        self.stride, self.padding, self.dilation = list(stride), list(padding), list(dilation)
        self.groups, self.activation = groups, activation
        self._packed: tuple[Tensor, int] | None = None

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """``other`` is of the shape of the result and is added before the activation."""
        if not torch.compiler.is_compiling() and self._packs(x, other) and _plain_data(x, other):
            return self._at_once(channels_last(x), other)
        options = (self.stride, self.padding, self.dilation, self.groups)
        y = functional.conv2d(x, self.weight, self.bias, *options)
        return ACTIVATIONS[self.activation][0](y if other is None else y + other)

    def _packs(self, x: Tensor, other: Tensor | None) -> bool:
        """Whether oneDNN takes this weight and these inputs.

        The addition of maps of a single pixel or channel, whose layout is anybody's guess, is
        refused by the oneDNN of torch 2.11.
        """
        mkldnn: Any = torch.backends.mkldnn
        return (
            self.weight.device.type == x.device.type == "cpu"
            and self.weight.dtype == x.dtype == torch.float32
            and x.numel() > 0
            and (other is None or (other.shape[1] > 1 and other.shape[2:].numel() > 1))
            and bool(mkldnn.is_available() and mkldnn.enabled)
        )

    def _at_once(self, x: Tensor, other: Tensor | None) -> Tensor:
        ops: Any = torch.ops.mkldnn
        weight, options = self._weight(x), (self.padding, self.stride, self.dilation, self.groups)
        _, name, numbers, variant = ACTIVATIONS[self.activation]
        layer = (weight, self.bias, *options)
        result: Tensor
        if other is None:
            result = ops._convolution_pointwise(x, *layer, name, list(numbers), variant)
        else:
            after = None if name == "none" else name
            result = ops._convolution_pointwise.binary(
                x, channels_last(other), *layer, "add", 1.0, after, [], ""
            )
        return result

    def _weight(self, x: Tensor) -> Tensor:
        """The weight in oneDNN's own order."""
        version = 0 if self.weight.is_inference() else self.weight._version
        if self._packed is None or self._packed[1] != version:
            options = (self.padding, self.stride, self.dilation, self.groups)
            pack: Any = torch.ops.mkldnn._reorder_convolution_weight
            self._packed = (pack(self.weight, *options, list(x.shape)), version)
        return self._packed[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedConv2d:
        self._packed = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # untyped there
        return self

    def __getstate__(self) -> dict[str, Any]:
        # a packed tensor can be neither copied nor pickled
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        """What ``print`` says of it."""
        out, inside, *kernel = self.weight.shape
        return (
            f"{inside * self.groups}, {out}, kernel_size={tuple(kernel)}, "
            f"stride={tuple(self.stride)}, groups={self.groups}, activation={self.activation}"
        )


def _plain_data(x: Tensor, other: Tensor | None) -> bool:
    """Whether these are mere numbers: nothing traces, differentiates, transforms or casts them."""
    given = (x,) if other is None else (x, other)
    return (
        all(type(t) in (Tensor, nn.Parameter) for t in given)
        and (other is None or other.dtype == x.dtype)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in given))
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
    )
