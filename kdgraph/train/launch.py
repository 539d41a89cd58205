"""Starting several processes of a command, and letting one of them speak when it fails."""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from kdgraph.errors import DataError, KDGraphError

_FAILED = "kdgraph/failed"  # counts the processes that have failed
_PATIENCE = 5.0  # seconds in which others speak first
_LOST = ("gloo", "connection closed", "connection reset", "nccl", "socket", "tcpstore")


def to_start(devices: int | None, nodes: int | None) -> int | None:
    """How many processes are still to be started; None where this is one of them, or the only one.

    Args:
        devices: processes on each machine, as asked for.
        nodes: machines, as asked for.

    Raises:
        DataError: KD718 where what was started is something else, or cannot be started from here.
    """
    if "WORLD_SIZE" in os.environ:
        world = int(os.environ["WORLD_SIZE"])
        here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        for name, asked, found in (("devices", devices, here), ("nodes", nodes, world // here)):
            if asked is not None and asked != found:
                message = f"--{name} says {asked}, but torchrun has started {here} processes on "
                message += f"each of {world // here} machines"
                raise DataError.of("KD718", message, help=f"leave --{name} out")
        return None
    if nodes is not None and nodes > 1:
        message = f"nothing has started this command on {nodes} machines"
        help = f"on each: torchrun --nnodes {nodes} --nproc-per-node {devices or 'N'} "
        help += "--rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500 -m kdgraph train ..."
        raise DataError.of("KD718", message, help=help)
    return devices if devices is not None and devices > 1 else None


def start(processes: int, arguments: Sequence[str]) -> int:
    """Runs ``kdgraph`` with some arguments in several processes of this machine.

    Returns:
        The exit code of the first that failed, which has said why, or 0.

    Raises:
        DataError: KD718 where one was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):  # each of them has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, local_addr="localhost",
    )  # fmt: skip
    python = [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", "kdgraph"]
    try:
        elastic_launch(config, python[0])(*python[1:], *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            message = f"process {rank} was ended by {failure.signal_name()}"
            help = "was there not enough memory?" if failure.signal_name() == "SIGKILL" else None
            raise DataError.of("KD718", message, help=help) from error
        return failure.exitcode
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


@contextmanager
def one_voice() -> Iterator[None]:
    """Lets the first process that fails say why; the others, which fail for it, end in silence.

    One that has only lost another, or has the rows of another in a value that is no number, waits
    before it speaks: who knows more may still be at it, and one that was killed is told of by
    whoever started it, which ends this one.

    Raises:
        SystemExit: in the others.
        DataError: KD718 where another process has ended without a word.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ:
        yield
        return
    try:
        yield
    except BaseException as error:
        lost = isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _LOST)
        if isinstance(error, SystemExit):
            raise
        if lost or _is_hearsay(error):
            time.sleep(_PATIENCE)
        if not _is_first():
            known = lost or isinstance(error, KDGraphError | OSError)
            interrupted = isinstance(error, KeyboardInterrupt)
            raise SystemExit(130 if interrupted else 1 if known else 3) from None
        if lost:
            message = "another process has ended, or cannot be reached"
            raise DataError.of("KD718", message, help=f"torch says: {str(error)[:120]}") from error
        raise


def _is_hearsay(error: BaseException) -> bool:
    """Whether what is wrong may be wrong with the rows of another process."""
    codes = [d.code for d in error.diagnostics] if isinstance(error, KDGraphError) else []
    return codes == ["KD707"]


def _is_first() -> bool:
    """Whether no other process has failed before this one."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not declared there

    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
            timeout=timedelta(seconds=5), wait_for_workers=False,
        )  # fmt: skip
        return int(store.add(_FAILED, 1)) == 1
    except (RuntimeError, ValueError):  # who keeps it has failed before, or they never met
        return os.environ.get("RANK") == "0"
