"""Builds a book in children that are killed at random points, until one gets to the end.

    python -m tests.book.killed FOLDER KILLS SEED [--teachers]

With ``--teachers`` values come from a network over real samples, else from a function. Each
child is a fork that sends itself SIGKILL at a line of ``kdgraph/book`` or of the build run drawn
at random, so no handler runs and nothing is tidied up. Prints one line of JSON: how many children
were killed, the greatest number in one build, and how many builds that were.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from kdgraph.book import verify
from tests.book.small import content, plan, write

_PLACES = ("kdgraph/book/", "kdgraph/train/book.py", "kdgraph/train/shards.py")


class Interrupted(BaseException):
    """What Ctrl+C does, at any line."""


def killed() -> NoReturn:
    """Ends this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives that")


def interrupted() -> NoReturn:
    """Unwinds this process."""
    raise Interrupted


def traced(
    work: Callable[[], object], last: int | None = None, end: Callable[[], NoReturn] = killed
) -> int:
    """Does the work, and counts the lines it goes through; ``end`` is called at number ``last``."""
    count = 0

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if event == "line":
            count += 1
            if count == last:
                end()
        return line

    def call(frame: FrameType, event: str, arg: Any) -> Any:
        return line if any(p in frame.f_code.co_filename for p in _PLACES) else None

    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def in_child(work: Callable[[], object], last: int) -> bool:
    """Whether the work came to its end before it was killed."""
    child = os.fork()
    if child == 0:
        try:
            traced(work, last)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "a build that was not killed failed"
    return True


def build_with_kills(
    build: Callable[[Path], object], folder: Path, kills: int, chance: random.Random
) -> dict[str, int]:
    """Several builds, ``kills`` kills over all of them; each must end like an undisturbed one.

    Args:
        build: builds a book in a folder, or goes on with it.
        folder: for all of them.
        kills: how often a child is killed.
        chance: draws where.
    """
    lines = traced(lambda: build(folder / "whole"))
    expected = content(folder / "whole")
    killed = most = number = 0
    while killed < kills:
        number, here = number + 1, 0
        path = folder / f"killed-{number}"

        def work(path: Path = path) -> object:
            return build(path)

        while not in_child(work, chance.randint(1, lines)):
            killed, here = killed + 1, here + 1
        assert content(path) == expected, path
        most = max(most, here)
    return {"killed": killed, "most": most, "builds": number}


def with_function(folder: Path) -> Callable[[Path], object]:
    """Builds a book of eight shards whose values are a function of ids."""
    return lambda path: write(path, plan())


def with_teachers(folder: Path) -> Callable[[Path], object]:
    """Builds a book of six shards, whose teacher is compiled once for all builds."""
    from kdgraph.spec.read import load_spec
    from kdgraph.train.book import prepare
    from kdgraph.train.ranks import Place
    from tests.book.teachers import spec_in

    job = prepare(load_spec(spec_in(folder)), folder, Place(0, 1, torch.device("cpu")))
    header = replace(job.header, shard_rows=job.header.batch)
    return lambda path: replace(job, out=path, header=header).run()


def main() -> None:
    """Kills, resumes and compares; the last build of all is verified, too."""
    torch.set_num_threads(1)
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    build = (with_teachers if "--teachers" in sys.argv else with_function)(folder)
    found = build_with_kills(build, folder, kills, random.Random(seed))
    assert verify(folder / f"killed-{found['builds']}").sound
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
