from __future__ import annotations

from pathlib import Path

import pytest

from tests.book.small import write


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished book, to be read or copied."""
    path = tmp_path_factory.mktemp("book") / "whole"
    write(path)
    return path
