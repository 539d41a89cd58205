"""Starts processes that share a batch, and ends them whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from kdgraph.errors import KDGraphError
from kdgraph.verify._compare import Result
from kdgraph.verify._worker import FAILED, FOUND, JOBS, Job

_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                  "MASTER_PORT")  # fmt: skip


def together(jobs: Sequence[Job]) -> list[list[list[Result]]]:
    """What the processes of the first job's ``ranks`` found: by job, split and process.

    Raises:
        KDGraphError: KD733 with what the first process to fail says.
    """
    ranks = jobs[0].subject.ranks
    with tempfile.TemporaryDirectory(prefix="kdgraph-verify-") as name:
        folder = Path(name)
        torch.save(list(jobs), folder / JOBS)
        started: list[subprocess.Popen[bytes]] = []
        try:
            started.extend(_start(folder, rank) for rank in range(ranks))
            _wait(folder, started)
        finally:
            for process in started:
                process.kill()
                process.wait()
        found: list[list[list[Result]]] = torch.load(folder / FOUND, weights_only=False)
        return found


def _start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if name not in _OF_A_LAUNCHER}
    # what can be imported here can be imported there; "" is the working folder, in a notebook say
    env["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    command = [sys.executable, "-P", "-m", "kdgraph.verify._worker", str(folder), str(rank)]
    with (folder / f"said-{rank}").open("wb") as said:
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            start_new_session=True,  # Ctrl+C is for the command alone, which ends the others
        )  # fmt: skip


def _wait(folder: Path, started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all are done or one has failed."""
    while any(codes := [process.poll() for process in started]) or None in codes:
        failed = {rank: code for rank, code in enumerate(codes) if code}
        if failed:
            rank = _first(folder, list(failed))
            said = _said(folder, rank, failed[rank])
            raise KDGraphError.of("KD733", f"process {rank + 1} of {len(started)} failed: {said}")
        time.sleep(0.05)


def _first(folder: Path, failed: list[int]) -> int:
    """Who failed first: others then fail because it is gone."""
    files = {rank: folder / FAILED.format(rank) for rank in failed}
    killed = [rank for rank, file in files.items() if not file.exists()]
    return killed[0] if killed else min(failed, key=lambda rank: files[rank].stat().st_mtime_ns)


def _said(folder: Path, rank: int, code: int) -> str:
    told = folder / FAILED.format(rank)
    if told.exists():
        return str(json.loads(told.read_text(encoding="utf-8"))["said"])
    said = folder / f"said-{rank}"
    last = said.read_text(encoding="utf-8", errors="replace").strip() if said.exists() else ""
    ended = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{last.splitlines()[-1]} ({ended})" if last else ended
