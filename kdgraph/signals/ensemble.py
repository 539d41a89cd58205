"""Ensemble: several teachers' logits made one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Refs, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, show
from kdgraph.spec.steer import Tau
from kdgraph.spec.types import NonNegative

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Ensemble(Signal):
    """The weighted mean of several logits, of equal shape, again as logits.

    ``average: probabilities`` is ``tau * log(sum_m w_m softmax(z_m / tau))``, so that a loss at
    the same ``tau`` sees exactly the mean of the members' tempered distributions; give it the
    temperature of the edge that reads it. ``average: logits`` is ``sum_m w_m z_m``, a geometric
    mean of distributions, the same at every temperature. The ``weights`` (all equal, if left
    out) are divided by their sum.
    """

    use: Literal["ensemble"] = "ensemble"
    of: Refs
    average: Literal["probabilities", "logits"] = "probabilities"
    weights: Annotated[tuple[NonNegative, ...], Field(strict=False)] | None = None
    tau: Tau = 1.0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.weights is not None and sum(self.weights) == 0:
            raise PydanticCustomError("ensemble_weights", "some weight must be greater than 0")
        if self.average == "logits" and "tau" in self.model_fields_set:
            raise PydanticCustomError(
                "ensemble_tau", "'tau' has no effect on an average of logits; leave it out"
            )
        return self

    def shape(self, *, of: list[Shape]) -> Shape:
        first = of[0]
        # here and not when it is read: a tap of repeated calls stands for several members
        if self.weights is not None and len(self.weights) != len(of):
            raise ShapeMismatch(f"{len(self.weights)} weights for {len(of)} members")
        for ref, other in zip(self.of, of, strict=True):
            if other != first:
                raise ShapeMismatch(
                    f"all members must have equal shapes, but {self.of[0]} is {show(first)} and "
                    f"{ref} is {show(other)}"
                )
        return first

    def forward(self, *, of: list[Tensor], tau: Tensor | float = 1.0) -> Tensor:
        import torch

        from kdgraph.signals._module import wide

        weights = self.weights or (1.0,) * len(of)
        shares = [w / sum(weights) for w in weights]
        members = [(wide(z), share) for z, share in zip(of, shares, strict=True) if share > 0]
        if self.average == "logits":
            return torch.stack([z * share for z, share in members]).sum(0)
        if isinstance(tau, torch.Tensor):  # per sample [B], or 0-dim
            tau = tau.reshape(*tau.shape, *[1] * (of[0].dim() - tau.dim()))
        dim = class_dim(tuple(of[0].shape))
        logs = [(z / tau).log_softmax(dim) + math.log(share) for z, share in members]
        return torch.stack(logs).logsumexp(0) * tau
