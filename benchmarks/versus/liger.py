"""Liger-Kernel on the same work: from raw logits, or states and heads, to the same number.

Its losses of logits take log-probabilities, so that the softmaxes are PyTorch's; it has no factor
of ``tau**2``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from versus.plain import wide


def installed() -> bool:
    """Whether it can be imported."""
    try:
        import liger_kernel.transformers  # noqa: F401  # it needs Triton and its own dependencies
    except ImportError:
        return False
    return True


def forward_kl(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """``LigerKLDIVLoss``."""
    from liger_kernel.transformers import LigerKLDIVLoss

    loss = LigerKLDIVLoss(reduction="batchmean", log_target=True)
    return loss(*(log_softmax(wide(x) / tau, -1) for x in (student, teacher))) * tau**2


def reverse_kl(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """``LigerJSD`` with ``beta=1``."""
    from liger_kernel.transformers import LigerJSD

    return LigerJSD(beta=1.0)(*(log_softmax(wide(x) / tau, -1) for x in (student, teacher))) * (
        tau**2
    )


def jensen_shannon(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """``LigerJSD``."""
    from liger_kernel.transformers import LigerJSD

    return LigerJSD(beta=0.5)(*(log_softmax(wide(x) / tau, -1) for x in (student, teacher))) * (
        tau**2
    )


def total_variation(student: Tensor, teacher: Tensor, *, tau: float) -> Tensor:
    """``LigerTVDLoss``."""
    from liger_kernel.transformers import LigerTVDLoss

    return LigerTVDLoss()(*((wide(x) / tau).softmax(-1) for x in (student, teacher)))


def linear_forward_kl(
    hidden: Tensor, weight: Tensor, hidden_t: Tensor, weight_t: Tensor, *, tau: float
) -> Tensor:
    """``LigerFusedLinearJSD`` with ``beta=0``."""
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=0.0, temperature=tau)
    return loss(hidden, weight, hidden_t, weight_t, None) * tau**2


def chunked_linear_forward_kl(
    hidden: Tensor, weight: Tensor, hidden_t: Tensor, weight_t: Tensor, *, tau: float
) -> Tensor:
    """``LigerFusedLinearJSDLoss`` with ``beta=0`` and without labels' cross-entropy."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, temperature=tau
    )
    labels = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    return loss(hidden, weight, hidden_t, weight_t, labels) * tau**2


def linear_kl_of_probabilities(
    hidden: Tensor, weight: Tensor, hidden_t: Tensor, weight_t: Tensor, *, tau: float
) -> Tensor:
    """``LigerFusedLinearKLDivLoss``, which has to be given the teacher's probabilities."""
    from liger_kernel.transformers import LigerFusedLinearKLDivLoss

    target = (wide(linear(hidden_t, weight_t)) / tau).softmax(-1)
    return LigerFusedLinearKLDivLoss(temperature=tau)(hidden, weight, target) * tau**2
