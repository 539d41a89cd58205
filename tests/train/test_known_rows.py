"""Training rows that a data set knows before it is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdgraph.spec.data import DATA
from kdgraph.train.data.fashion_mnist import SYSTEM

NEEDS: dict[str, tuple[str, object]] = {
    "digits": ("nothing", True),
    "fashion_mnist": ("dataset-fashion-mnist", SYSTEM.exists()),
    "garments": ("dataset-fashion-mnist", SYSTEM.exists()),
    "spoken_words": ("espeak-ng", shutil.which("espeak-ng")),
}


@pytest.mark.parametrize("use", NEEDS)
def test_they_are_those_that_come(use: str, require_system: Callable[[str, object], None]) -> None:
    require_system(*NEEDS[use])
    few = {"words": 2, "voices": 3} if use == "spoken_words" else {}
    data = DATA.get(use)(**few)
    assert data.known_rows() == len(data.load(Path()).train)


def test_what_is_read_from_files_knows_nothing() -> None:
    assert DATA.get("imagefolder")(path="images").known_rows() is None
