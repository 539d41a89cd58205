"""A test runs in the process that it is meant for, and is skipped, with the reason, in others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_interpreted(): ...

@pytest.mark.aot
def test_built(): ...

@pytest.mark.gpu
def test_run(): ...
"""


@pytest.mark.parametrize(
    ("variable", "runs", "reason"),
    [
        ("1", ["test_interpreted"], "run it without TRITON_INTERPRET"),
        ("0", ["test_built", "test_run"], "run it with TRITON_INTERPRET=1"),
    ],
)
def test_who_runs_what(tmp_path: Path, variable: str, runs: list[str], reason: str) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    aot:\n    gpu:\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rsp", "-p", "no:cacheprovider", "."],
        capture_output=True, text=True, cwd=tmp_path, check=True,
        env={**os.environ, "TRITON_INTERPRET": variable},
    )  # fmt: skip
    passed = [line.split("::")[1] for line in done.stdout.splitlines() if line.startswith("PASS")]
    assert passed == runs
    assert reason in done.stdout
