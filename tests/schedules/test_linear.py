from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdgraph.schedules.linear import Linear

NUMBER = st.floats(allow_nan=False, allow_infinity=False)
POINT = st.floats(0, 1e6)


@given(NUMBER, NUMBER, st.lists(POINT, min_size=2, max_size=20), POINT, st.floats(1e-3, 1e6))
def test_monotone_within_and_exact_at_the_ends(
    first: float, last: float, times: list[float], start: float, length: float
) -> None:
    schedule = Linear(linear=(first, last), epochs=(start, start + length))
    low, high = min(first, last), max(first, last)
    values = [schedule.at(epoch=t, iteration=0) for t in sorted(times)]
    assert all(low <= v <= high for v in values)  # so never nan
    assert values == sorted(values, reverse=first > last)
    assert schedule.at(epoch=start, iteration=0) == first
    assert schedule.at(epoch=start + length, iteration=0) == last


def test_a_straight_line() -> None:
    schedule = Linear(linear=(1.0, 0.0), epochs=(10, 60))
    assert [schedule.at(epoch=e, iteration=0) for e in (0, 10, 22.5, 35, 60, 99)] == [
        1.0, 1.0, 0.75, 0.5, 0.0, 0.0,
    ]  # fmt: skip


def test_counts_iterations() -> None:
    schedule = Linear(linear=(2, 4), iterations=(0, 100))
    assert schedule.at(epoch=99, iteration=25) == pytest.approx(2.5)
