from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import kdgraph
from kdgraph.signals.margin_relu import MarginReLU
from kdgraph.spec.shapes import ShapeMismatch

SIGNAL = MarginReLU(of="teacher.mid")


def test_known_value() -> None:
    x = torch.tensor([[1.0, 2.0, -1.0], [-1.0, 3.0, -3.0], [-3.0, 0.0, -2.0]])
    # margins -2, none, -2
    want = [[1.0, 2.0, -1.0], [-1.0, 3.0, -2.0], [-2.0, 0.0, -2.0]]
    assert SIGNAL.forward(of=x).tolist() == want


@pytest.mark.parametrize("shape", [(5, 3), (4, 5, 3), (4, 3, 2, 5)])
def test_against_numpy(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=shape)
    channels = np.moveaxis(x, 1 if len(shape) == 4 else -1, 0)
    want = np.stack([np.maximum(c, c[c < 0].mean()) for c in channels])
    want = np.moveaxis(want, 0, 1 if len(shape) == 4 else -1)
    np.testing.assert_allclose(SIGNAL.forward(of=torch.from_numpy(x)).numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 3, 2, 5)])
def test_what_is_outside_the_mask_moves_no_margin(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    channels = x.movedim(1 if len(shape) == 4 else -1, -1)
    mask = torch.rand(channels.shape[:-1]) < 0.6
    mask[0], mask[1] = True, False
    kept = SIGNAL.forward(of=channels[mask])  # the mean of these rows alone
    for left_out in (0.0, -50.0, float("nan")):
        channels[~mask] = left_out
        found = SIGNAL.forward(of=x, mask=mask).movedim(1 if len(shape) == 4 else -1, -1)
        torch.testing.assert_close(found[mask], kept)
    whole = SIGNAL.forward(of=x.nan_to_num(0), mask=torch.ones(4))
    assert torch.equal(whole, SIGNAL.forward(of=x.nan_to_num(0)))
    assert not SIGNAL.forward(of=-torch.ones(shape), mask=torch.zeros(4)).any()


def test_padding_moves_nothing_through_a_spec() -> None:
    shape = {"shape": ["B", "L", 3], "dtype": "float64"}
    spec = {
        "kdgraph": 1, "name": "padded",
        "batch": {"x": shape, "y": shape, "lengths": {"shape": ["B"], "dtype": "int64"}},
        "models": {
            "student": {"input": "x", "taps": {"mid": "output"}},
            "teacher": {"input": "y", "taps": {"mid": "output"}},
        },
        "signals": {
            "there": {"use": "sequence_mask", "lengths": "lengths", "like": "teacher.mid"},
            "margin": {"use": "margin_relu", "of": "teacher.mid", "mask": "there"},
        },
        "losses": {"mid": {
            "use": "partial_l2", "student": "student.mid", "teacher": "margin", "mask": "there",
        }},
    }  # fmt: skip
    models = {name: nn.Linear(3, 3, bias=False).double() for name in ("student", "teacher")}
    step = kdgraph.compile(spec, models=models)
    given = {n: torch.randn(2, 4, 3, dtype=torch.float64) for n in ("x", "y")}
    given |= {"lengths": torch.tensor([4, 2])}
    before = step(**given).loss
    for name in ("x", "y"):
        given[name][1, 2:] = -30.0
    assert torch.equal(step(**given).loss, before)


@pytest.mark.parametrize("mask", [(), (5,), (4, 3), (4, 5, 3)])
def test_masks_of_another_shape_are_refused(mask: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match="mask"):
        SIGNAL.shape(of=(4, 5, 3), mask=mask)


def test_numbers_per_sample_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="features"):
        SIGNAL.shape(of=(8,))
