"""Builds that are killed: each ends with the very bytes of one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process")
def test_thirty_kills(tmp_path: Path) -> None:
    """With ``--teachers`` the same script kills a build in which a network runs."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.book.killed", str(tmp_path), "30", "0"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] >= 30
    assert found["most"] >= 2  # a resumed build was killed again
