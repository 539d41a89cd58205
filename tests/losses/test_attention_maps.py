from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from kdgraph.losses.attention_maps import AttentionMaps

VARIANTS: list[dict[str, Any]] = [{}, {"variant": "kl"}, {"heads": "mean"}]


def loss_of(**keys: Any) -> AttentionMaps:
    return AttentionMaps(student="student.mid", teacher="teacher.mid", **keys)


def test_against_numpy(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 4).double()
    expected = np.mean((student.numpy() - teacher.numpy()) ** 2)
    value = value_of(loss_of(), student=student, teacher=teacher)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    p, q = (
        np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (teacher.numpy(), student.numpy())
    )
    value = value_of(loss_of(variant="kl"), student=student, teacher=teacher)
    assert value.item() == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-10)


def test_other_numbers_of_heads(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 5, 4, 4).double()
    loss = loss_of(heads="mean")
    loss.shapes(student=(2, 3, 4, 4), teacher=(2, 5, 4, 4))
    expected = np.mean((student.numpy().mean(1) - teacher.numpy().mean(1)) ** 2)
    assert value_of(loss, student=student, teacher=teacher).item() == pytest.approx(expected)


def test_masked_keys_and_padded_queries(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 2, 3, 4, 4).double()
    for variant in ("mse", "kl"):
        few = value_of(loss_of(variant=variant), student=student[..., :3], teacher=teacher[..., :3])
        masked = [torch.cat([x[..., :3], torch.full_like(x[..., :1], -float("inf"))], -1)
                  for x in (student, teacher)]  # fmt: skip
        value = value_of(loss_of(variant=variant), student=masked[0], teacher=masked[1])
        torch.testing.assert_close(value, few)
    mask = torch.tensor([1, 1, 0, 0]).expand(2, 3, 4)
    value = value_of(loss_of(), student=student, teacher=teacher, mask=mask)
    torch.testing.assert_close(value, (student - teacher)[:, :, :2].square().mean())


def test_a_query_without_keys_costs_nothing(value_of: Callable[..., Any]) -> None:
    student, teacher = torch.randn(2, 1, 1, 2, 3).double()
    few = value_of(loss_of(variant="kl"), student=student[:, :, :1], teacher=teacher[:, :, :1])
    student[:, :, 1] = -float("inf")
    student.requires_grad_()
    value = value_of(loss_of(variant="kl"), student=student, teacher=teacher)
    value.backward()
    torch.testing.assert_close(2 * value, few)
    assert student.grad is not None
    assert student.grad.isfinite().all()
