"""Ensemble: several teachers' logits made one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from kdgraph.signals.base import Signal
from kdgraph.spec.entry import Ref, Refs, register_signal
from kdgraph.spec.shapes import Shape, ShapeMismatch, class_dim, show
from kdgraph.spec.steer import Tau
from kdgraph.spec.types import NonNegative, Positive

if TYPE_CHECKING:
    from torch import Tensor


@register_signal
class Ensemble(Signal):
    """The weighted mean of several logits, of equal shape, again as logits.

    ``average: probabilities`` is ``tau * log(sum_m w_m softmax(z_m / tau))``, so that a loss at
    the same ``tau`` sees exactly the mean of the members' tempered distributions; give it the
    temperature of the edge that reads it. ``average: logits`` is ``sum_m w_m z_m``, a geometric
    mean of distributions, the same at every temperature. The ``weights`` (all equal, if left
    out), to the power of ``gamma``, are divided by their sum: with the members' accuracies, a
    ``gamma`` above 1 has the better ones guide more.

    With ``target``, class indices [B] or one per row, members count in each row by how well they
    know its label: ``w_m exp(-CE_m / theta)``, divided by the sum over the members, with the
    cross-entropies at temperature 1; constants for autograd. A row of ``ignore_index`` has the
    fixed weights. Both are readings, reconstructed, of the integration of soft targets that is
    told of in "Classification of Histopathologic Images of Breast Cancer by Multi-teacher
    Small-sample Knowledge Distillation" (ICAICE 2021).
    """

    gives = "logits"

    use: Literal["ensemble"] = "ensemble"
    of: Refs
    average: Literal["probabilities", "logits"] = "probabilities"
    weights: Annotated[tuple[NonNegative, ...], Field(strict=False)] | None = None
    gamma: Positive = 1.0
    tau: Tau = 1.0
    target: Ref | None = None
    theta: Positive = 1.0
    ignore_index: int = -100

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.weights is not None and sum(self.weights) == 0:
            raise PydanticCustomError("ensemble_weights", "some weight must be greater than 0")
        if self.average == "logits" and "tau" in self.model_fields_set:
            raise PydanticCustomError(
                "ensemble_tau", "'tau' has no effect on an average of logits; leave it out"
            )
        for key, needs in (("gamma", "weights"), ("theta", "target"), ("ignore_index", "target")):
            if key in self.model_fields_set and getattr(self, needs) is None:
                raise PydanticCustomError(
                    "ensemble_idle",
                    "'{key}' has no effect without '{needs}'; leave it out",
                    {"key": key, "needs": needs},
                )
        return self

    def shape(self, *, of: list[Shape], target: Shape | None = None) -> Shape:
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
        at = class_dim(first)
        if target is not None and target != first[:at] + first[at + 1 :]:
            raise ShapeMismatch(
                f"'target' {show(target)} must have one class index for each row of {show(first)}"
            )
        return first

    def forward(
        self, *, of: list[Tensor], tau: Tensor | float = 1.0, target: Tensor | None = None
    ) -> Tensor:
        import torch

        from kdgraph.signals._module import lined_up, wide

        raised = [w**self.gamma for w in self.weights or (1.0,) * len(of)]
        kept = [(wide(z), w / sum(raised)) for z, w in zip(of, raised, strict=True) if w > 0]
        members = torch.stack([z for z, _ in kept])
        dim = class_dim(tuple(of[0].shape))
        fixed = [math.log(share) for _, share in kept]
        logs = members.new_tensor(fixed).reshape(-1, *[1] * of[0].dim())
        if target is not None:
            logs = self._by_row(members, logs, target, dim)
        if self.average == "logits":
            shares = logs.exp()
            return (members * shares).where(shares > 0, 0).sum(0)
        tau = lined_up(tau, of[0])
        return ((members / tau).log_softmax(dim + 1) + logs).logsumexp(0) * tau

    def _by_row(self, members: Tensor, fixed: Tensor, target: Tensor, dim: int) -> Tensor:
        """The logarithms of the members' weights, [M, B, 1, ...], by the labels of the rows."""
        known = (target != self.ignore_index).unsqueeze(dim).unsqueeze(0)
        index = target.long().unsqueeze(dim).unsqueeze(0).where(known, 0)
        index = index.expand(len(members), *index.shape[1:])
        right = members.detach().log_softmax(dim + 1).gather(dim + 1, index) / self.theta
        scores = right.where(known, 0) + fixed
        # a label that no member thinks possible tells none from another
        return scores.where(scores.isfinite().any(0), fixed).log_softmax(0)
