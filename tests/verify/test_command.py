"""The command as its users meet it, and what it says when processes fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from kdgraph.cli.main import main
from kdgraph.errors import KDGraphError
from kdgraph.verify import _processes, ranks, resume
from kdgraph.verify._batches import tried
from kdgraph.verify._compare import gap
from kdgraph.verify._rows import splits
from kdgraph.verify._subject import Subject
from kdgraph.verify.base import NotApplicable
from tests.verify.conftest import NETS, spec_with


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, args), "--trust", NETS])


def test_the_table(file: Path) -> None:
    result = run(file, "--only", "teacher", "--only", "kernel")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "verify small"
    assert "check what is compared of absolute relative at tolerance result" in lines
    assert any(
        line.startswith("teacher teacher before = after 2 steps weights 0.0e+00 0.0e+00")
        and line.endswith("0 ok")
        for line in lines
    )
    assert any("not applicable" in line for line in lines)
    assert "first training batch of digits, B = 9; float64 on cpu" in lines


def test_a_difference_exits_with_1(
    file: Path, shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "together", lambda jobs: [shared[1]])
    result = run(file, "--only", "ranks", "--set", "losses.relation.scope=rank", "--format", "json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["holds"] is False
    (row,) = found["rows"]
    assert (row["check"], row["status"], row["why"]) == ("ranks", "differs", None)
    assert row["gaps"]["loss"]["at"] == "relation"
    assert row["gaps"]["loss"]["relative"] > row["tolerance"] == 1e-9


def test_a_wider_tolerance_lets_it_pass(
    file: Path, shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "together", lambda jobs: [shared[1]])
    scope = ("--set", "losses.relation.scope=rank")
    assert run(file, "--only", "ranks", *scope, "--tolerance", "9").exit_code == 0


def test_an_unknown_check(file: Path) -> None:
    result = run(file, "--only", "rank")
    assert result.exit_code == 1
    assert "unknown check 'rank'" in result.stderr
    assert "did you mean 'ranks'? `kdgraph list verify` shows every check" in result.stderr


def test_ctrl_c(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(resume, "trained", interrupted)
    result = run(file, "--only", "resume")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted"


SLEEPS = "import time; time.sleep(600)"
FAILS = """
import json, pathlib, sys
pathlib.Path(sys.argv[1], "failed-1.json").write_text(json.dumps({"said": "no room"}))
sys.exit(1)
"""


def test_a_process_that_fails_ends_the_others(
    small: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
        code = FAILS if rank else SLEEPS
        started.append(subprocess.Popen([sys.executable, "-c", code, str(folder)]))
        return started[-1]

    monkeypatch.setattr(_processes, "_start", start)
    with pytest.raises(KDGraphError, match="process 2 of 2 failed: no room"):
        _processes.together([ranks.job_of(small)])
    assert [process.poll() is None for process in started] == [False, False]


def test_processes_find_what_a_notebook_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: given.update(how))
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.chdir(tmp_path)
    _processes._start(tmp_path, 0)
    assert given["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path)


def test_data_that_is_not_at_hand_is_made_up(tmp_path: Path) -> None:
    from kdgraph import load_spec

    data = {"use": "imagefolder", "path": str(tmp_path / "none")}
    spec = load_spec(spec_with(("data", data), ("book", None)))
    found = tried(spec, 2, None, ())
    assert found.origin == "random batch, B = 16"
    assert found.note is not None
    assert found.note.startswith("the data cannot be had: ")
    assert found.batches[0]["label"].max() < 10


def test_splits() -> None:
    assert splits(64, 2) == [[32, 32], [42, 22]]
    assert splits(10, 4) == [[2, 3, 2, 3], [4, 3, 2, 1]]
    with pytest.raises(NotApplicable, match="2 rows are too few"):
        splits(2, 2)


def test_gaps() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([100.0])
    found = gap({"a": one + 0.01, "b": two}, {"a": one, "b": two})
    assert (found.at, found.relative) == ("a", pytest.approx(0.005, rel=1e-5))
    tiny = gap({"a": one * 1e-9, "b": two}, {"a": one * 2e-9, "b": two})
    assert tiny.relative < 1e-8, "nothing beside what is large"
    assert gap({"b": two}, {"a": one, "b": two}).relative == 1.0
    assert gap({"a": one * float("nan")}, {"a": one}).relative == float("inf")
    assert gap({"a": one}, {}).relative == float("inf")
    assert gap({"a": one / 0}, {"a": one / 0}).absolute == 0
