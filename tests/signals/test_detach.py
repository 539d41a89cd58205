from __future__ import annotations

import torch

from kdgraph.signals.detach import Detach


def test_same_values_no_gradient() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    out = Detach(of="student.logits").module()(of=x)
    assert torch.equal(out, x)
    assert not out.requires_grad
