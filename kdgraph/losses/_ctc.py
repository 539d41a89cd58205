"""Torch's CTC as an operator whose result has a shape that follows from the shapes given.

``aten::_ctc_loss`` sizes what it keeps for the gradient by the longest target of the batch, a
value, so that neither fake tensors nor ``torch.compile`` can see through it. Here that part is
as wide as the targets are padded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.library.custom_op("kdgraph::ctc", mutates_args=())
def negative_log_likelihood(
    log_probs: Tensor, target: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    """``-log p(target)`` [B] of frames [F, B, V] of log-probabilities; 0 where it is infinite.

    Also gives the logarithms of the forward probabilities, [B, F, 2 S + 1], for the gradient.
    """
    nll, alpha = torch._ctc_loss(
        log_probs, target, input_lengths, target_lengths, blank, zero_infinity=True
    )
    missing = 2 * target.shape[1] + 1 - alpha.shape[2]
    return nll.where(nll.isfinite(), 0), F.pad(alpha, (0, missing), value=-float("inf"))


@negative_log_likelihood.register_fake
def _(
    log_probs: Tensor, target: Tensor, input_lengths: Tensor, target_lengths: Tensor, blank: int
) -> tuple[Tensor, Tensor]:
    frames, batch = log_probs.shape[:2]
    return log_probs.new_empty(batch), log_probs.new_empty(batch, frames, 2 * target.shape[1] + 1)


@torch.library.custom_op("kdgraph::ctc_gradient", mutates_args=())
def gradient(
    grad: Tensor, log_probs: Tensor, target: Tensor, input_lengths: Tensor,
    target_lengths: Tensor, nll: Tensor, alpha: Tensor, blank: int,
) -> Tensor:  # fmt: skip
    """The gradient [F, B, V]; 0 for what no alignment can use."""
    longest = 2 * int(target_lengths.max()) + 1
    found: Tensor = torch.ops.aten._ctc_loss_backward.Tensor(
        grad.contiguous(), log_probs, target, input_lengths, target_lengths, nll,
        alpha[:, :, :longest].contiguous(), blank, True,
    )  # fmt: skip
    # 0 stands for an infinite value; a class of probability 0 makes torch subtract inf from inf
    usable = (log_probs > -float("inf")) & (nll != 0).unsqueeze(1)
    return found.where(usable, 0)


@gradient.register_fake
def _(
    grad: Tensor, log_probs: Tensor, target: Tensor, input_lengths: Tensor,
    target_lengths: Tensor, nll: Tensor, alpha: Tensor, blank: int,
) -> Tensor:  # fmt: skip
    return torch.empty_like(log_probs)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.blank = inputs[4]


def _pull(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    log_probs, target, input_lengths, target_lengths, nll, alpha = ctx.saved_tensors
    pulled = gradient(grad, log_probs, target, input_lengths, target_lengths, nll, alpha, ctx.blank)
    return pulled, None, None, None, None


negative_log_likelihood.register_autograd(_pull, setup_context=_keep)
