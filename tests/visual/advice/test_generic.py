"""What holds for every warning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdgraph.visual.advice import ADVICE


@pytest.mark.parametrize("name", ADVICE.names())
def test_it_has_a_code_and_a_test(name: str) -> None:
    advice = ADVICE.get(name)
    assert re.fullmatch(r"KD6\d\d", advice.code)
    assert Path(__file__).with_name(f"test_{name}.py").exists()
    assert advice.run.__doc__


def test_no_code_is_used_twice() -> None:
    codes = [advice.code for _, advice in ADVICE.items()]
    assert len(set(codes)) == len(codes)
