"""What the products of fused heads count as: torch's counter, which loads Triton, is told here."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from kdgraph.kernels import _linear_ops as _linear_ops  # the operators have to be there


@register_flop_formula(torch.ops.kdgraph.linear_soft_target)
def _flops(
    student: Any, weight: Any, _: Any, teacher: Any, other: Any, *rest: Any, **__: Any
) -> int:
    classes = min(weight[0], other[0])
    mine, its = (2 * math.prod(hidden) * classes for hidden in (student, teacher))
    return int(mine * (1 + sum(rest[-1][:2])) + its)


@register_flop_formula(torch.ops.kdgraph.linear_sparse_soft_target)
def _flopssparse(student: Any, weight: Any, *rest: Any, **_: Any) -> int:
    return int(2 * math.prod(student) * weight[0] * (1 + sum(rest[-1][:2])))
