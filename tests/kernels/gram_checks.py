"""What the tests of losses over Gram matrices share: a kernel beside its loss in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdgraph.kernels.base import Kernel
from kdgraph.losses.base import RowLoss


def pair(shape: tuple[int, ...], gap: float = 0.1) -> tuple[Tensor, Tensor]:
    """Features of a student that is so far from its teacher; no channel has mean 0."""
    teacher = torch.randn(shape) * 2 + 0.5
    return teacher + gap * torch.randn(shape), teacher


def exact(loss: RowLoss, student: Tensor, teacher: Tensor, scale: float = 1) -> tuple[Tensor, ...]:
    """The rows of a loss and both gradients of their weighted sum, in float64."""
    s, t = (x.detach().double().requires_grad_() for x in (student, teacher))
    inputs: dict[str, Any] = {"student": s, "teacher": t}
    inputs |= {field: run() for field, run in loss.parts(**inputs).items()}
    rows = loss.rows(**inputs)
    return rows, *torch.autograd.grad(rows, (s, t), scale * weight(rows))


def found(
    kernel: Kernel, loss: RowLoss, student: Tensor, teacher: Tensor, scale: float = 1
) -> tuple[Tensor, ...]:
    """The same by a kernel, in what precision it gives."""
    s, t = (x.detach().requires_grad_() for x in (student, teacher))
    rows = kernel.run(loss, student=s, teacher=t)
    assert rows.dtype == torch.float32
    assert rows.shape == student.shape[:1]
    grads = torch.autograd.grad(rows, (s, t), scale * weight(rows))
    assert [g.dtype for g in grads] == [student.dtype, teacher.dtype]
    return rows, *grads


def weight(rows: Tensor) -> Tensor:
    """Another gradient for each sample."""
    return torch.linspace(0.5, 2, len(rows)).to(rows.dtype)


def assert_close(
    kernel: Kernel,
    loss: RowLoss,
    student: Tensor,
    teacher: Tensor,
    value: float = 1e-5,
    gradient: float = 1e-5,
    scale: float = 1,
) -> None:
    """Relative errors: of each value; of a gradient by its norm, and by its largest entry.

    Small gradients of float16 are rounded a lot unless they are scaled, as for a ``GradScaler``.
    """
    sides = student, teacher
    results = zip(found(kernel, loss, *sides, scale), exact(loss, *sides, scale), strict=True)
    (rows, wanted), *grads = results
    assert ((rows - wanted).abs() <= value * wanted).all(), (rows, wanted)
    for grad, slope in grads:
        error = grad.double() - slope
        assert error.norm() <= gradient * slope.norm(), error.norm() / slope.norm()
        assert error.abs().max() <= gradient * slope.abs().max()


def multiply_in_tf32(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Makes the interpreter multiply as the matrix units of a GPU do, by one or three products.

    It would have exact products of float32 otherwise. Three are made of numbers that Triton
    rounds; one takes what it is given, and the units cut that to 11 bits. How the units round
    their sums is not documented, and not imitated.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def short(x: np.ndarray) -> np.ndarray:
        """The nearest number of 11 bits."""
        return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)

    def cut(x: np.ndarray) -> np.ndarray:
        return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)

    def dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        x, y = (np.ascontiguousarray(z.data, dtype=np.float32) for z in (a, b))
        if times == 1:
            out = cut(x) @ cut(y)
        else:
            big_x, big_y = short(x), short(y)
            out = big_x @ big_y
            out = (short(x - big_x) @ big_y + big_x @ short(y - big_y)) + out
        return TensorHandle(out + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", dot)
