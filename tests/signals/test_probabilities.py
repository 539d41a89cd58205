from __future__ import annotations

import numpy as np
import torch

from kdgraph.signals.probabilities import Probabilities


def test_golden_rows_at_a_temperature() -> None:
    z = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    out = Probabilities(of="teacher.logits").forward(of=z, tau=4.0)
    want = torch.tensor([[0.41922895161, 0.3264958358, 0.25427521259]], dtype=torch.float64)
    torch.testing.assert_close(out, want, atol=1e-11, rtol=0)


def test_classes_of_maps_are_second_and_samples_have_their_own_temperature() -> None:
    z = np.random.default_rng(0).normal(size=(2, 3, 2, 2))
    tau = np.array([1.0, 5.0])
    raised = np.exp(z / tau[:, None, None, None])
    out = Probabilities(of="teacher.logits").forward(
        of=torch.from_numpy(z), tau=torch.from_numpy(tau)
    )
    want = torch.from_numpy(raised / raised.sum(1, keepdims=True))
    torch.testing.assert_close(out, want, rtol=1e-12, atol=0)
