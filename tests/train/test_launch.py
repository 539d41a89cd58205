"""Who starts processes, what is refused before any is started, and who speaks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdgraph import load_spec
from kdgraph.errors import DataError, InputError
from kdgraph.train import launch, strategy
from kdgraph.train.launch import to_start
from kdgraph.train.ranks import Place, joined
from tests.train.conftest import SPEC


def started(monkeypatch: pytest.MonkeyPatch, world: int, here: int) -> None:
    """As in a process that torchrun has started."""
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": here}
    for name, value in names.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("devices", "nodes", "processes"), [
    (None, None, None), (1, None, None), (3, None, 3), (3, 1, 3), (None, 1, None),
])  # fmt: skip
def test_what_is_to_be_started(
    devices: int | None, nodes: int | None, processes: int | None
) -> None:
    assert to_start(devices, nodes) == processes


def test_several_machines_are_started_by_torchrun() -> None:
    with pytest.raises(DataError, match="torchrun --nnodes 2 --nproc-per-node 4"):
        to_start(4, 2)


def test_what_was_started_is_no_other_number(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, 4, 2)
    assert to_start(2, 2) is None
    with pytest.raises(DataError, match="--devices says 4, but torchrun has started 2 processes"):
        to_start(4, None)
    with pytest.raises(DataError, match="--nodes says 1"):
        to_start(None, 1)


def test_each_process_needs_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, 2, 2)
    assert Place.found("cpu") == Place(0, 2, torch.device("cpu"), 2)
    with pytest.raises(DataError, match="2 processes cannot share device 'cuda:1'"):
        Place.found("cuda:1")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(DataError, match="2 processes are on this machine, which has 1 GPUs"):
        Place.found("auto")


def test_processes_that_know_not_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    started(monkeypatch, 2, 2)
    with (
        pytest.raises(DataError, match=r"KD718.*not where they are"),
        joined(Place.found("cpu")),
    ):
        pass


def test_what_cannot_be_sharded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec({**SPEC, "stages": [{"name": "one"}]})
    strategy.check_strategy(spec, "ddp")
    with pytest.raises(DataError, match="there is one"):
        strategy.check_strategy(spec, "fsdp2")
    monkeypatch.setattr(strategy, "world", lambda: 2)
    with pytest.raises(DataError, match="cannot follow stages"):
        strategy.check_strategy(spec, "fsdp2")


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (RuntimeError("gloo/transport/tcp/pair.cc: Connection closed by peer"), True),
        (InputError.of("KD707", "edge 'label' is nan, although every tap is a number"), True),
        (InputError.of("KD706", "tap 'student.logits' holds nan"), False),
        (ValueError("of the user's own model"), False),
    ],
)
def test_who_knows_less_lets_others_speak_first(
    monkeypatch: pytest.MonkeyPatch, error: Exception, waits: bool
) -> None:
    said: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setattr(launch.time, "sleep", lambda _: said.append("waited"))
    monkeypatch.setattr(launch, "_is_first", lambda: said.append("asked"))
    with pytest.raises(SystemExit), launch.one_voice():
        raise error
    assert said == ["waited"] * waits + ["asked"]


def test_one_of_several_says_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "kdgraph", "train", "digits", "-o", str(tmp_path),
         "--devices", "2", "--device", "cpu", "--set", "train.optimizer.use=SDG"],
        env=os.environ, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("error[") == 1
    assert "torch has no optimiser 'SDG'" in done.stderr
    assert "Traceback" not in done.stderr
