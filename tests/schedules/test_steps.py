from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kdgraph.schedules.steps import Steps

NUMBER = st.floats(allow_nan=False, allow_infinity=False)


def test_the_later_value_holds_at_a_point() -> None:
    schedule = Steps(steps=(6, 5.4, 4.86), epochs=(60, 160))
    times = (0, math.nextafter(60, 0), 60, 159.999, 160, 1e9)
    assert [schedule.at(epoch=t, iteration=0) for t in times] == [6, 6, 5.4, 5.4, 4.86, 4.86]


def test_zeros_are_exact() -> None:
    schedule = Steps(steps=(0, 1, 0), iterations=(10, 20))
    assert [schedule.at(epoch=0, iteration=t) for t in (9, 10, 19, 20)] == [0.0, 1.0, 1.0, 0.0]


@given(st.data())
def test_every_piece_is_constant(data: st.DataObject) -> None:
    points = sorted(data.draw(st.sets(st.floats(0, 1e6), min_size=1, max_size=6)))
    steps = tuple(data.draw(NUMBER) for _ in range(len(points) + 1))
    schedule = Steps(steps=steps, epochs=tuple(points))
    time = data.draw(st.floats(0, 2e6))
    piece = sum(time >= p for p in points)
    assert schedule.at(epoch=time, iteration=0) == steps[piece]
