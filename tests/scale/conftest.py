from __future__ import annotations

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
            folder = tmp_path_factory.mktemp("ranks")
            out = folder / "found.pt"
            command = [
                sys.executable, "-P", "-m", "torch.distributed.run", "--standalone",
                f"--nproc-per-node={world}", str(HERE / "worker.py"), str(HERE / cases), str(out),
            ]  # fmt: skip
            world_of_one = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
            env = {k: v for k, v in os.environ.items() if k not in world_of_one}
            done = subprocess.run(
                command, env=env | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                timeout=240,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-4000:]
            known[cases, world] = torch.load(out, weights_only=False)
        return known[cases, world]

    return found
