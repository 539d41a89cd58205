"""Builds that are killed: each ends with the very bytes of one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")


def kills(folder: Path, *args: str) -> dict[str, int]:
    """What ``tests/book/killed.py`` found."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.book.killed", str(folder), *args],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_thirty_kills(tmp_path: Path) -> None:
    found = kills(tmp_path, "30", "0")
    assert found["killed"] >= 30
    assert found["most"] >= 2  # a resumed build was killed again


def test_kills_while_teachers_run(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("sklearn")
    assert kills(tmp_path, "3", "0", "--teachers")["killed"] >= 3
