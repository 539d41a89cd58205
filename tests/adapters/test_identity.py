from __future__ import annotations

import torch

from kdgraph.adapters.identity import Identity


def test_leaves_any_tensor_alone() -> None:
    student, teacher = (2, 3, 4, 4), (2, 9)
    x = torch.randn(student)
    assert Identity().build(student, teacher)(x) is x
    assert Identity().shape(student, teacher) == student
