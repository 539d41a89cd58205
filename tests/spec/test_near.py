"""Near matches, and where they send the reader."""

from __future__ import annotations

import pytest

from kdgraph.errors import KDGraphError, near
from kdgraph.spec.data import DATA
from kdgraph.spec.entry import ACTIONS, ADAPTERS, LOSSES, SIGNALS
from kdgraph.spec.steer import SCHEDULES
from kdgraph.spec.transforms import TRANSFORMS


@pytest.mark.parametrize(
    ("name", "choices", "said"),
    [
        ("taget", ["target", "image"], "did you mean 'target'?"),
        ("layer", ["layer1", "layer2"], "did you mean 'layer2' or 'layer1'?"),
        ("x", ["target", "image"], None),
        ("a", [], None),
    ],
)
def test_a_second_match_only_where_it_is_as_near(
    name: str, choices: list[str], said: str | None
) -> None:
    assert near(name, choices) == said


def test_registries_name_the_command_that_lists_them() -> None:
    kinds = (LOSSES, SIGNALS, ADAPTERS, ACTIONS, SCHEDULES, DATA, TRANSFORMS)
    words = ["losses", "signals", "adapters", "actions", "schedules", "data", "transforms"]
    assert [r.listing for r in kinds] == [f"`kdgraph list {word}`" for word in words]
    with pytest.raises(KDGraphError, match="`kdgraph list losses` shows every loss"):
        LOSSES.get("soft_taget")
