from __future__ import annotations

from typing import Any

import pytest
import torch

from kdgraph.losses.probability_mse import ProbabilityMSE

LOGITS = True
VARIANTS = [{}, {"tau": 2.0}]
LOSS = ProbabilityMSE(student="student.logits", teacher="teacher.logits")

STUDENT = [(0.1, 0.5, -0.2), (0.3, 0.2, 0.1), (0.6, -0.1, 0.0)]
OTHER = [(0.0, 0.4, -0.1), (0.2, 0.4, 0.0), (0.5, 0.0, 0.1)]
TEACHER = [(0.0, 2.0, -1.0), (1.0, 1.0, 0.0), (3.0, 0.0, 0.0)]


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    ("student", "expected"), [(STUDENT, 0.17237760375616964), (OTHER, 0.2002415949342473)]
)
def test_known_values(
    student: Any, expected: float, dtype: torch.dtype, rel: float, value_of: Any
) -> None:
    sides = {
        "student": torch.tensor([student], dtype=dtype),
        "teacher": torch.tensor([TEACHER], dtype=dtype),
    }
    assert float(value_of(LOSS, **sides)) == pytest.approx(expected, rel=rel)


def test_temperature_and_mask(value_of: Any) -> None:
    """By hand: softmax of (0, ln 3) is (1/4, 3/4); at tau = 1/2 it is (1/10, 9/10)."""
    z = torch.tensor([[[0.0, torch.tensor(3.0).log()], [5.0, 1.0]]], dtype=torch.float64)
    even = torch.zeros_like(z)
    mask = torch.tensor([[True, False]])
    assert float(value_of(LOSS, student=z, teacher=even, mask=mask)) == pytest.approx(0.125)
    sharp = LOSS.model_copy(update={"tau": 0.5})
    assert float(value_of(sharp, student=z, teacher=even, mask=mask)) == pytest.approx(0.32)
