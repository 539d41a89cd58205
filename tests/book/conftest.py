from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.book.small import write

if not (find_spec("lightning") and find_spec("sklearn")):
    collect_ignore = ["test_build.py"]  # which loads data and may train


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished book, to be read or copied."""
    path = tmp_path_factory.mktemp("book") / "whole"
    write(path)
    return path
