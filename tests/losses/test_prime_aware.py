from __future__ import annotations

import numpy as np
import pytest
import torch

from kdgraph.losses.prime_aware import PrimeAware

ZERO_AT_EQUAL = False  # the logarithm of the variance is left, and wants to fall
LOSS = PrimeAware(student="link.student", teacher="link.teacher")


def test_it_starts_as_squared_error() -> None:
    student, teacher = torch.randn(2, 4, 3).double()
    value = LOSS.module(student=(4, 3), teacher=(4, 3))(student=student, teacher=teacher)
    expected = (student - teacher).square().mean().item()
    assert value.item() == pytest.approx(expected / (1 + 1e-6), rel=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (4, 2, 3)])
def test_against_numpy(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    (s, t), weight, bias = random.normal(size=(2, *shape)), random.normal(size=(3, 3)), [1, 0, -2]
    module = LOSS.module(student=shape, teacher=shape).double()
    with torch.no_grad():
        module.get_parameter("expects").copy_(torch.from_numpy(weight))
        module.get_parameter("bias").copy_(torch.tensor(bias))
    v = np.einsum("...i,ji->...j", s, weight) + bias
    expected = ((t - s) ** 2 / (1e-6 + np.exp(v)) + v).mean()
    student = torch.from_numpy(s).requires_grad_()
    value = module(student=student, teacher=torch.from_numpy(t))
    assert value.item() == pytest.approx(expected, rel=1e-10)
    (grad,) = torch.autograd.grad(value, student)
    of_v = 1 - (t - s) ** 2 * np.exp(v) / (1e-6 + np.exp(v)) ** 2
    want = 2 * (s - t) / (1e-6 + np.exp(v)) + of_v @ weight  # v follows the student as well
    np.testing.assert_allclose(grad.numpy(), want / s.size, rtol=1e-9)


def test_a_sample_that_is_far_off_is_asked_of_less() -> None:
    """After the map has learned, the same difference pulls less where the student expects it."""
    student = torch.tensor([[1.0], [-1.0]]).repeat(20, 1)
    teacher = student + torch.tensor([[3.0], [0.3]]).repeat(20, 1)
    module = LOSS.module(student=(40, 1), teacher=(40, 1))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        module(student=student, teacher=teacher).backward()
        optimizer.step()
    with torch.no_grad():
        v = student[:2] @ module.get_parameter("expects").mT + module.get_parameter("bias")
    # the best variance of each is its squared error
    torch.testing.assert_close(v.exp(), torch.tensor([[9.0], [0.09]]), rtol=0.05, atol=0)
