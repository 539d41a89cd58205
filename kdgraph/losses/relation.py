"""Relation: distances and angles between samples are as they are for the teacher."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from kdgraph.losses._math import unit
from kdgraph.losses._work import Work
from kdgraph.losses.base import Loss, same_samples
from kdgraph.spec.entry import Ref, register_loss
from kdgraph.spec.shapes import Shape
from kdgraph.spec.types import NonNegative

if TYPE_CHECKING:
    from torch import Tensor


@register_loss
class Relation(Loss):
    """``distance * mean_ij h(d_s - d_t) + angle * mean_ijk h(c_s - c_t)``, h smooth L1 (beta 1).

    Relational distillation (RKD): Park et al. 2019 (arXiv 1904.05068). ``d_ij`` is the Euclidean
    distance of samples i and j, divided by the mean distance of two different samples (with
    gradient); ``c_ijk`` is the cosine of the angle at i between j and k. The means run over all
    B**2 pairs and B**3 triples, as in the authors' program. Features are vectors [B, D], tokens
    [B, L, D] or maps [B, C, H, W], flattened to one row per sample; the sides need only the
    same B. Differences take B * B * D and angles B**3 numbers of memory.

    The default weights 1 and 2 are the paper's ratio; CRD's benchmark has 25 and 50. Squared
    distances are at least 1e-12; two samples that coincide have cosine 0 with every other, and
    no gradient. With B = 1 the value is 0.

    Forms: ``gram`` takes both from inner products in float64, without differences or anything
    else that grows with B**3 or B * B * D. Samples count as coinciding there when they are closer
    than 3e-7 of their distance from the batch's mean, which float32 hardly tells from 0.
    """

    use: Literal["relation"] = "relation"
    student: Ref
    teacher: Ref
    distance: NonNegative = 1.0
    angle: NonNegative = 2.0

    def across_batch(self, student: Shape) -> bool:
        return True

    def shapes(self, *, student: Shape, teacher: Shape) -> None:
        same_samples(student, teacher)

    def forward(self, *, student: Tensor, teacher: Tensor) -> Tensor:
        from torch.nn.functional import smooth_l1_loss

        loss = student.new_zeros(())
        if self._form == "gram" and student.device.type != "mps":  # which has no float64
            from kdgraph.losses._pairs import Pairs, angle_gap

            one, other = Pairs(student), Pairs(teacher)
            if self.distance:
                d_s, d_t = (_scaled(p.distances()).to(loss.dtype) for p in (one, other))
                loss = loss + self.distance * smooth_l1_loss(d_s, d_t)
            if self.angle:
                loss = loss + self.angle * angle_gap(one, other)
            return loss
        s, t = _differences(student), _differences(teacher)
        if self.distance:
            loss = loss + self.distance * smooth_l1_loss(_distances(s), _distances(t))
        if self.angle:
            loss = loss + self.angle * smooth_l1_loss(_cosines(s), _cosines(t))
        return loss

    def forms(self, *, student: Shape, teacher: Shape) -> dict[str, Work]:
        from kdgraph.losses._pairs import gram_work, plain_work

        sizes = student[0], math.prod(student[1:]), math.prod(teacher[1:])
        angle = self.angle > 0
        return {"plain": plain_work(*sizes, angle=angle), "gram": gram_work(*sizes, angle=angle)}


def _differences(x: Tensor) -> Tensor:
    """[B, B, D]: ``x_j - x_i``. A Gram matrix would be smaller, but cancels for close samples."""
    flat = x.flatten(1)
    return flat.unsqueeze(0) - flat.unsqueeze(1)


def _distances(difference: Tensor) -> Tensor:
    return _scaled(difference.square().sum(2).clamp_min(1e-12).sqrt())


def _scaled(distance: Tensor) -> Tensor:
    """[B, B], 0 on the diagonal and 1 on average elsewhere."""
    distance = distance.tril(-1) + distance.triu(1)
    pairs = (distance > 0).sum().clamp_min(1)
    mean = distance.sum() / pairs
    return distance / mean.where(mean > 0, 1)


def _cosines(difference: Tensor) -> Tensor:
    """[B, B, B]: at sample i, between the directions to j and to k."""
    direction = unit(difference, 2)
    return direction @ direction.mT
