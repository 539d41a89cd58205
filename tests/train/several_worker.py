"""One of several processes that train together: ``several_worker.py JOBS.json``.

Runs each job in turn and writes what its rank found beside the file with the jobs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from kdgraph import KDGraphError, train
from kdgraph.train import build_book, checkpoint, launch
from kdgraph.train.keep import Keeper
from kdgraph.train.ranks import Place, joined, meet, rank
from kdgraph.train.report import report


class Killed(BaseException):
    """What no code catches."""


def dies(place: str) -> Any:
    """Lets every process die when the second checkpoint is written; gives what undoes that."""
    save, real = Keeper.save, (checkpoint._remove, vars(checkpoint)["meet"])
    calls: list[int] = []
    if place == "before":
        _at_call(2, Keeper, "save", calls)
    elif rank() == 0:  # the old one has made room, and the new one is in its place
        checkpoint._remove = _where(lambda p: p.name == ".last.ckpt.old" and p.exists(), real[0])
    else:  # which wait for the first by then
        _at_call(4, checkpoint, "meet", calls)

    def revive() -> None:
        Keeper.save = save  # type: ignore[method-assign]
        for name, value in zip(("_remove", "meet"), real, strict=True):
            setattr(checkpoint, name, value)

    return revive


def _at_call(number: int, owner: Any, name: str, calls: list[int]) -> None:
    real = getattr(owner, name)

    def fatal(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return real(*args)

    setattr(owner, name, fatal)


def _where(fatal: Any, real: Any) -> Any:
    def call(path: Path) -> None:
        if fatal(path):
            raise Killed
        real(path)

    return call


def run(job: dict[str, Any]) -> dict[str, Any]:
    """What one job found, or how it ended."""
    if job.pop("book", False):
        built = build_book(**job, trust=["several_nets"], device="cpu")
        return {"computed": built.computed, "finished": built.finished}
    revive = dies(job.pop("dies")) if "dies" in job else lambda: None
    try:
        found = train.run(**job, trust=["several_nets"], device="cpu")
    except Killed:
        return {"killed": True}
    except KDGraphError as error:
        return {"error": str(error)}
    finally:
        revive()
    return {
        "metrics": found.runs[0].metrics,
        "val": found.runs[0].val,
        "steps": found.runs[0].steps,
    }


def main(path: Path) -> None:
    sys.path.insert(0, str(path.parent))
    torch.set_num_threads(1)
    nothing = {"kdgraph_scene": 1, "name": "", "versions": {}, "legs": []}
    vars(report)["scene"] = lambda reports: nothing  # as in tests of one process
    with launch.one_voice(), joined(Place.found("cpu")):
        found = {}
        for name, job in json.loads(path.read_text()).items():
            found[name] = run(job)
            meet()
        path.with_name(f"{path.stem}-{rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
