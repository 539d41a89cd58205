from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdgraph.schedules.cosine import Cosine

NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBER, NUMBER, st.floats(0, 2), st.floats(0, 1))
def test_within_monotone_and_exact_at_the_ends(
    first: float, last: float, time: float, more: float
) -> None:
    schedule = Cosine(cosine=(first, last), epochs=(0.5, 1.5))
    a, b = (schedule.at(epoch=t, iteration=0) for t in (time, time + more))
    assert min(first, last) <= a <= max(first, last)
    assert (a <= b) if first <= last else (a >= b)
    assert schedule.at(epoch=0.5, iteration=0) == first
    assert schedule.at(epoch=1.5, iteration=0) == last


@pytest.mark.parametrize("epoch", [0, 7, 15, 30, 44, 60])
def test_half_a_wave(epoch: int) -> None:
    schedule = Cosine(cosine=(1.0, 0.2), epochs=(0, 60))
    by_hand = 0.2 + 0.8 * (1 + math.cos(math.pi * epoch / 60)) / 2
    assert schedule.at(epoch=epoch, iteration=0) == pytest.approx(by_hand, rel=1e-14)
