"""A convolution whose virtual blocks of channels are attended to."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kdgraph.actions._frozen import freeze_along

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class LogRows(nn.Module):
    """``log softmax(A / tau)`` over the blocks of inputs, one row for each block of outputs.

    Args:
        like: the weight that is attended to.
        outputs: blocks of outputs, M.
        inputs: blocks of inputs, N.
        tau: the temperature.
    """

    def __init__(self, like: Tensor, outputs: int, inputs: int, tau: float) -> None:
        super().__init__()
        self.tau = tau
        even = torch.zeros(outputs, inputs, dtype=like.dtype, device=like.device)
        self.logits = nn.Parameter(even, like.requires_grad)

    def forward(self) -> Tensor:
        """[M, N]; each row of its ``exp`` adds up to 1."""
        return (self.logits / self.tau).log_softmax(1)

    def extra_repr(self) -> str:
        """Sizes and temperature."""
        return f"{self.logits.shape[0]} x {self.logits.shape[1]}, tau={self.tau:g}"


class VirtualAttention(nn.Module):
    """``Y_m = sum_n a_mn (W_mn * F_n)``: one convolution, with the kernels ``a_mn W_mn``.

    Where the convolution has kernels for no more than one block of inputs, all blocks share
    them: ``Y_m = W_m * sum_n a_mn F_n``.

    Args:
        conv: without groups; its weight, as it is, is trained on.
        outputs: blocks of outputs, M.
        inputs: blocks of inputs, N.
        block: channels in a block of inputs.
        tau: temperature of the rows.
        gain: multiplies the rows by N, so that equal attention changes nothing.
    """

    def __init__(
        self, conv: Convolution, outputs: int, inputs: int, block: int, *, tau: float, gain: bool
    ) -> None:
        super().__init__()
        self.conv = conv
        self.block, self.gain = block, float(inputs) if gain else 1.0
        self.log_rows = LogRows(conv.weight, outputs, inputs, tau)
        freeze_along(self.log_rows, "logits", conv, "weight")
        self.training = conv.training

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_out, ...] of maps [B, C_in, ...], as the convolution."""
        result: Tensor = self.conv._conv_forward(x, self.kernel(self.log_rows()), self.conv.bias)
        return result

    def kernel(self, log_rows: Tensor) -> Tensor:
        """[C_out, C_in, ...] of rows [M, N]."""
        size = self.conv.kernel_size
        outputs, inputs = self.log_rows.logits.shape
        own = self.conv.weight.reshape(
            outputs, -1, self.conv.in_channels // self.block, self.block, *size
        )
        share = log_rows.exp().reshape(outputs, 1, inputs, 1, *(1 for _ in size))
        return (self.gain * share * own).flatten(2, 3).flatten(0, 1)

    def folded(self) -> nn.Module:
        """The plain convolution that gives the same."""
        inputs = self.log_rows.logits.shape[1]
        with torch.no_grad():
            kernel = self.kernel(self.log_rows())
        plain = copy.copy(self.conv)
        plain._parameters = dict(self.conv._parameters)
        plain.in_channels = self.block * inputs
        plain.weight = nn.Parameter(kernel, self.conv.weight.requires_grad)
        return plain
