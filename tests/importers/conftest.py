from __future__ import annotations

from pathlib import Path

import pytest

from kdgraph.importers.base import Imported
from kdgraph.importers.torchdistill import Torchdistill
from tests.importers.files import Read


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """``read(text)``: what the importer makes of a file of this text."""

    def run(text: str) -> Imported:
        path = tmp_path / "toy.yaml"
        path.write_text(text, encoding="utf-8")
        return Torchdistill().read(str(path))

    return run
