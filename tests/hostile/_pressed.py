"""Runs commands of kdgraph, each in a process of its own, and says what each took.

Started with the path of a file of cases; prints one line of JSON for each. All processes are forks
of this one, which has read a fine spec before, so that imports count for none of them.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_CPU, _WALL = 30, 600  # seconds until a case that computes, or one that waits, is ended
_SPACE = 6 << 30  # bytes of addresses, so that a case that asks for terabytes hurts nobody else


def _run(argv: list[str]) -> int:
    """The exit status of a command, as a shell would see it."""
    from kdgraph.cli.main import main

    try:
        main(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _child(case: dict[str, Any], out: int, err: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    if case.get("closed_stdin", True):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_AS, (_SPACE, _SPACE))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU))
    os.chdir(case["folder"])
    os.environ.update(case.get("environ", {}))
    code = 99
    try:
        code = _run(case["argv"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _pressed(case: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(case, out.fileno(), err.fileno())
        hung = False
        while not (ended := os.wait4(child, os.WNOHANG))[0]:
            if not hung and time.monotonic() - start > _WALL:
                os.kill(child, signal.SIGKILL)
                hung = True
            time.sleep(0.002)
        _, status, used = ended
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return {
        "code": os.waitstatus_to_exitcode(status),
        "hung": hung,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss << 10,
        "out": texts[0],
        "err": texts[1],
    }


def main() -> None:
    """Reads the cases, the fine one first, and prints what became of the others."""
    fine, *cases = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    devnull = os.open(os.devnull, os.O_WRONLY)
    kept = os.dup(1), os.dup(2)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)
    os.chdir(fine["folder"])
    warm = _run(fine["argv"])
    sys.stdout.flush()
    os.dup2(kept[0], 1)
    os.dup2(kept[1], 2)
    assert warm == 0, "the fine case is not fine"
    base = _pressed(fine)
    assert base["code"] == 0, base
    for case in cases:
        found = _pressed(case)
        found["over"] = found.pop("peak") - base["peak"]
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
