"""The module of a loss edge that is computed from hidden states and the heads over them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kdgraph.kernels import _linear_flops as _linear_flops  # so that its products are counted
from kdgraph.kernels._chunks import Head
from kdgraph.kernels.base import transformed
from kdgraph.kernels.linear_soft_target import linear_soft_target, linear_sparse_soft_target
from kdgraph.losses._module import LossModule, widen
from kdgraph.losses.base import RowLoss, over_rows, per_sample
from kdgraph.losses.soft_target import SoftTarget
from kdgraph.losses.sparse_soft_target import SparseSoftTarget


class FusedHead(nn.Module):
    """A soft target without logits: ``student`` and ``teacher`` are hidden states.

    ``student_weight``, ``student_bias`` and the teacher's come beside them. In float64, which the
    operators do not have, under the transforms of ``torch.func``, which they do not know, and
    where a temperature or a mask learns, the logits are made and ``plain`` computes the loss.
    """

    def __init__(self, plain: LossModule) -> None:
        super().__init__()
        self.plain = plain

    def forward(self, **inputs: Any) -> Tensor:
        heads = {side: _head(side, inputs) for side in ("student", "teacher") if side in inputs}
        inputs = {field: widen(value) for field, value in inputs.items()}
        wide = any(h.hidden.dtype == torch.float64 for h in heads.values())
        # no operator has a gradient for temperatures, masks or listed values
        steered = any(isinstance(v, Tensor) and v.requires_grad for v in inputs.values())
        if transformed() or wide or steered:
            logits = {side: linear(*head[:3]) for side, head in heads.items()}
            return cast(Tensor, self.plain(**inputs, **logits))
        loss, mask, tau = self.plain.loss, inputs.pop("mask", None), inputs["tau"]
        states = heads["student"].hidden
        with torch.autocast(states.device.type, enabled=False):
            if isinstance(loss, SparseSoftTarget):
                weight = _counts(loss, mask, states)
                if loss.scale:
                    weight = weight * per_sample(tau, weight) ** 2
                value, _ = linear_sparse_soft_target(
                    heads["student"], tail=loss.tail, row_weight=weight, **inputs
                )
                return value
            assert isinstance(loss, SoftTarget)
            classes = min(head.classes for head in heads.values())
            weight = _counts(loss, mask, states)
            weight = weight * loss._factor(per_sample(tau, weight), classes)
            return linear_soft_target(
                heads["student"], heads["teacher"], row_weight=weight, **inputs
            )[0]


def _head(side: str, inputs: dict[str, Any]) -> Head:
    """Takes a head out of the inputs, in the type that its product would be computed in."""
    hidden, weight = inputs.pop(side), inputs.pop(f"{side}_weight")
    device, kind = hidden.device.type, weight.dtype
    if kind != torch.float64 and torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
    return Head(hidden.to(kind), weight.to(kind), inputs.pop(f"{side}_bias", None), 1.0, 0.0)


def _counts(loss: RowLoss, mask: Tensor | None, states: Tensor) -> Tensor:
    """How much each row counts in what ``loss.reduce`` makes of them."""
    keep = states.new_ones(states.shape[:-1], dtype=torch.float32)
    if mask is not None:
        keep = keep * over_rows(mask, keep)
    if loss.reduction == "sum":
        return keep
    each = tuple(range(1, keep.dim()))
    number = keep.amax(each) if loss.reduction == "batchmean" and each else keep
    whole = number.sum()
    return keep / whole.where(whole > 0, 1)
