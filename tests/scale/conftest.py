from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent
Ranks = Callable[[str, int], list[Any]]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """What each of several processes found that ran ``run()`` of a file here, once a session."""
    known: dict[tuple[str, int], list[Any]] = {}

    def found(cases: str, world: int) -> list[Any]:
        if (cases, world) not in known:
            out = tmp_path_factory.mktemp("ranks") / "found.pt"
            command = [
                sys.executable, "-P", "-m", "torch.distributed.run", "--standalone",
                f"--nproc-per-node={world}", str(HERE / "worker.py"), str(HERE / f"{cases}.py"),
                str(out),
            ]  # fmt: skip
            done = subprocess.run(
                command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
                text=True, timeout=400,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-4000:]
            known[cases, world] = torch.load(out, weights_only=False)
        return known[cases, world]

    return found


@pytest.fixture(scope="session")
def alone() -> Callable[[str], Any]:
    """What one process finds."""
    known: dict[str, Any] = {}

    def found(cases: str) -> Any:
        if cases not in known:
            known[cases] = importlib.import_module(f"tests.scale.{cases}").run()
        return known[cases]

    return found
