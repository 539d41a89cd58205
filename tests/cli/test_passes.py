"""Switching passes on and off from the command line, in every command that compiles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from kdgraph.errors import KDGraphError
from kdgraph.graph import DistillGraph
from kdgraph.passes.base import PASSES, Context, register_pass

Run = Callable[..., Result]

COMPILING = {
    "compile": ["-o", "OUT"],
    "draw": ["-o", "OUT.dot"],
    "explain": [],
    "train": ["-o", "OUT"],
}
every_command = pytest.mark.parametrize("command", COMPILING)


@pytest.fixture
def idle() -> Iterator[str]:
    """A pass that is off by default, changes nothing and says that it ran."""

    @register_pass("idle", after="attach_losses", default=False)
    def run(graph: DistillGraph, context: Context) -> DistillGraph:
        """``graph`` -> ``graph``."""
        context.did.append("idled")
        return graph

    yield "idle"
    del PASSES._entries["idle"]


def arguments(command: str, spec: Path, tmp_path: Path) -> list[str]:
    out = str(tmp_path / "out")
    return [command, str(spec), *(a.replace("OUT", out) for a in COMPILING[command])]


@every_command
@pytest.mark.parametrize("option", ["--without", "--also"])
def test_a_pass_that_is_not_there(
    run: Run, spec: Path, tmp_path: Path, command: str, option: str
) -> None:
    text = spec.read_text().replace("width: 0.25", "width: 0.25, in_channels: 1")
    text = text.replace("width: 0.5", "width: 0.5, in_channels: 1").replace("[B, 3, 16", "[B, 1, 8")
    text = text.replace("1, 8, 16]", "1, 8, 8]")
    spec.write_text(f"{text}data: {{use: digits}}\ntrain: {{epochs: 1, optimizer: {{use: SGD}}}}\n")
    result = run(*arguments(command, spec, tmp_path), option, "prone")
    assert result.exit_code == 1
    assert "error[KD202]: no optional pass is called 'prone'" in result.stderr
    assert "did you mean 'prune'?" in result.stderr
    assert not list((tmp_path / "out").glob("**/*.safetensors"))  # nothing was trained before


@every_command
def test_both_may_be_repeated(
    run: Run, spec: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def stop(path: str, **how: Any) -> None:
        given.update(how)
        raise KDGraphError.of("KD000", "far enough")

    for place in ("kdgraph.compile", "kdgraph.draw", "kdgraph.train.explain", "kdgraph.train.run"):
        monkeypatch.setattr(place, stop)
    options = ["--without", "prune", "--also", "a", "--without", "b", "--also", "c"]
    assert "far enough" in run(*arguments(command, spec, tmp_path), *options).stderr
    assert (given["without"], given["also"]) == (("prune", "b"), ("a", "c"))
    assert (given["set"], given["trust"]) == ((), ())


def test_explain_follows(run: Run, spec: Path, idle: str) -> None:
    options = ["--also", idle, "--without", "prune", "--format", "json"]
    passes = json.loads(run("explain", spec, *options).stdout)["passes"]
    found = {p["name"]: p["did"] for p in passes}
    assert found[idle] == ["idled"]
    assert "prune" not in found


def test_list_says_what_is_off_by_default(run: Run, idle: str) -> None:
    lines = {line.split()[0]: line for line in run("list", "passes").stdout.splitlines()}
    assert "Off by default" in lines[idle]
    assert "Off by default" not in lines["prune"]
    facts = {p["name"]: p for p in json.loads(run("list", "passes", "--format", "json").stdout)}
    assert facts[idle]["default"] is False
    assert facts["prune"]["default"] is True


def test_the_shell_completes_names() -> None:
    import click
    from click.shell_completion import ShellComplete

    from kdgraph.cli.main import main

    complete = ShellComplete(main, {}, "kdgraph", "_KDGRAPH_COMPLETE")
    found = complete.get_completions(["explain", "kd.yaml", "--without"], "pr")
    assert "prune" in [item.value for item in found]
    assert isinstance(main, click.Group)
