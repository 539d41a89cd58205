from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdgraph.models.nets.no_init import NoInit


@pytest.mark.parametrize(
    "fill",
    [
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.zeros_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.init.xavier_uniform_,
        nn.init.trunc_normal_,
        lambda weight: nn.init.trunc_normal_(weight, std=1.0, a=0.1, b=0.2),
        lambda weight: nn.init.normal_(weight[:2]),
    ],
)
def test_parameters_are_left_alone_and_nothing_is_drawn(fill: Callable[[Tensor], Tensor]) -> None:
    weight = nn.Parameter(torch.full((4, 4), 7.0))
    before = torch.get_rng_state()
    with NoInit():
        fill(weight)
    assert torch.equal(weight, torch.full((4, 4), 7.0))
    assert torch.equal(torch.get_rng_state(), before)
    fill(weight)
    assert not torch.equal(weight, torch.full((4, 4), 7.0))


def test_buffers_get_their_values() -> None:
    with NoInit():
        norm = nn.BatchNorm2d(3)
        steps = torch.zeros(4).add_(2)
    assert torch.equal(norm.running_var, torch.ones(3))  # type: ignore[arg-type]
    assert steps.tolist() == [2, 2, 2, 2]
