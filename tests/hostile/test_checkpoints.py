"""Checkpoints and books made to hurt, where training and export meet them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import kdgraph
from kdgraph.errors import KDGraphError
from tests.hostile.press import FINE
from tests.hostile.test_weights import Touch, deflated

pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from kdgraph.train import run

TRAIN = """\
data: {use: digits, batch_size: 8, limit: 16}
train: {epochs: 1, optimizer: {use: SGD, lr: 0.1}}
"""
LAST = "out/distilled/seed-0/last.ckpt"


def poisoned(path: Path) -> None:
    """Code beside what belongs there."""
    state = torch.load(path, weights_only=True)
    torch.save({**state, "more": Touch()}, path)


def other(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def instead(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda path: (path.unlink(), make(path))


CHECKPOINTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (poisoned, "cannot be read"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-300]), "cannot be read"),
    "no checkpoint": (lambda p: p.write_bytes(b"hello"), "cannot be read"),
    "a bomb of zeros": (deflated, "compressed"),
    "a pipe": (instead(os.mkfifo), "no regular file"),
    "a device": (instead(lambda p: p.symlink_to("/dev/zero")), "no regular file"),
    "a list": (lambda p: torch.save([1, 2], p), ""),
    "parts missing": (lambda p: other(p, dict.clear), ""),
    "weights missing": (lambda p: other(p, lambda s: s["distill"].clear()), ""),
    "words for weights": (
        lambda p: other(p, lambda s: s["distill"].update(dict.fromkeys(s["distill"], "x"))),
        "",
    ),
    "whole numbers for weights": (lambda p: other(p, whole), "fc.bias' is int8, not float32"),
}


BIAS = "models.student.fc.bias"


def nan(state: dict[str, Any]) -> None:
    state["distill"][BIAS][0] = float("nan")


def whole(state: dict[str, Any]) -> None:
    state["distill"][BIAS] = state["distill"][BIAS].to(torch.int8)


def circle(state: dict[str, Any]) -> None:
    state["distill"] = state


EXPORTED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a weight of nan": (nan, "KD417.*fc.bias' holds nan"),
    "what holds itself": (circle, "KD416.*no weights of a model 'student'"),
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec and a run of it that was broken off."""
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "spec.yaml").write_text(FINE + TRAIN)
    run(folder / "spec.yaml", out=folder / "out", steps=1, device="cpu")
    return folder


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint(
    name: str, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither training nor export runs what is in it, and both say what is wrong with it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(done / "out", "out")
    shutil.copy(done / "spec.yaml", ".")
    change, said = CHECKPOINTS[name]
    change(Path(LAST))
    with pytest.raises(KDGraphError, match=f"KD71.*{said}"):
        run("spec.yaml", out="out", resume=True, device="cpu")
    with pytest.raises(KDGraphError, match="KD41"):
        kdgraph.export("spec.yaml", LAST, "made.safetensors")
    assert not Path("made.safetensors").exists()
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", EXPORTED)
def test_weights_in_a_checkpoint_are_checked_as_others(
    name: str, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, said = EXPORTED[name]
    shutil.copy(done / LAST, "last.ckpt")
    other(Path("last.ckpt"), change)
    with pytest.raises(KDGraphError, match=said):
        kdgraph.export(done / "spec.yaml", "last.ckpt", "made.safetensors")
    assert not Path("made.safetensors").exists()
