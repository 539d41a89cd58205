from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kdgraph.schedules.constant import Constant


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0, 1e9))
def test_never_moves(value: float, time: float) -> None:
    assert Constant(constant=value).at(epoch=time, iteration=time) == value
