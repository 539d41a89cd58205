from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from kdgraph.signals.number import Number


def test_a_constant_is_float32_and_moves_but_is_not_cast() -> None:
    module = nn.Sequential(Number(value=0.3).module()).double().to("meta")
    out = module[0](value=0.3)
    assert (out.device.type, out.dtype, out.shape) == ("meta", torch.float32, ())


def test_a_schedule_is_handed_on_as_it_arrives() -> None:
    entry = Number.model_validate({"value": {"linear": [1.0, 0.0], "epochs": [0, 10]}})
    now = torch.tensor(0.4)
    assert entry.module()(value=now) is now


def test_negative_numbers_are_fine() -> None:
    assert Number(value=-2.0).forward(value=-2.0) == -2.0


def test_the_name_of_a_signal_is_refused() -> None:
    with pytest.raises(ValidationError, match="name 'other' itself"):
        Number(value="other")
