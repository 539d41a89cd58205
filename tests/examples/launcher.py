"""Runs scripts, each by one or several processes, as ``torchrun`` would: ``launcher.py JOBS``.

The libraries, which take longer to import than an example to run, are imported once: each process
of a script is a fork of this one. JOBS is JSON: rows of a name, a script, its arguments and a
number of processes, 0 for one that is no process group. What each prints goes to ``NAME.txt`` in
the current folder; printed here is, as JSON, the exit status of each job.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import accelerate  # noqa: F401
import lightning  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch.distributed.checkpoint  # noqa: F401
from transformers import Trainer  # noqa: F401

import kdgraph.compiler  # noqa: F401

LIMIT = 150  # seconds a job may take


def child(script: str, arguments: list[str], env: dict[str, str], out: Path) -> None:
    """Runs a script and ends the process."""
    status = 1
    try:
        with out.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(env)
        sys.argv = [script, *arguments]
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0) if not isinstance(stop.code, str) else 1
        sys.stderr.write(f"{stop.code}\n")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ranks(world: int) -> list[dict[str, str]]:
    """The environment of each process."""
    if not world:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    same = {
        "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "tests",
    }  # fmt: skip
    return [same | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def run(script: str, arguments: list[str], world: int, out: Path) -> int:
    """The worst exit status of the processes of a job; what hangs is killed."""
    left = set()
    for env in ranks(world):
        pid = os.fork()
        if not pid:
            child(script, arguments, env, out)
        left.add(pid)
    worst, end = 0, time.monotonic() + LIMIT
    while left:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            left.discard(pid)
            worst = max(worst, abs(os.waitstatus_to_exitcode(status)))
        elif time.monotonic() > end or worst:
            for one in left:
                os.kill(one, signal.SIGKILL)
            worst = worst or 124
            end = float("inf")
            time.sleep(0.1)
        else:
            time.sleep(0.02)
    return worst


if __name__ == "__main__":
    jobs = json.loads(sys.argv[1])
    sys.stdout.write(json.dumps({name: run(*job, Path(f"{name}.txt")) for name, *job in jobs}))
