from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from kdgraph.cli.main import main

COMMANDS = [
    "book",
    "check",
    "compile",
    "draw",
    "explain",
    "export",
    "import",
    "init",
    "list",
    "schema",
    "taps",
    "train",
    "verify",
]

IMPORTED = Path(__file__).parents[1] / "importers" / "whole.yaml"
_SAYS_TORCH = """
import sys
from kdgraph.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("torch" in sys.modules, end.code, file=sys.stderr)
"""


def test_every_file_is_a_command() -> None:
    assert main.list_commands(click.Context(main)) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples(run: Callable[..., Result], command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    rows = result.stdout.splitlines()
    assert rows[rows.index("  Examples:") + 1].startswith(f"    kdgraph {command} ")


def test_help_of_all_speaks_of_completion_and_exit_codes(run: Callable[..., Result]) -> None:
    text = run("--help").stdout
    assert "_KDGRAPH_COMPLETE=bash_source" in text
    assert "Exit codes: 0 fine, 1" in text
    assert all(f"\n  {command} " in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["schema"], 0),
        *(([*["list"], kind], 0) for kind in ("losses", "signals", "adapters", "actions")),
        *(([*["list"], kind], 0) for kind in ("models", "schedules", "data")),
        (["list", "losses", "soft_target"], 0),
        (["check", "WRONG"], 1),
        (["import", "torchdistill", str(IMPORTED)], 0),
    ],
)
def test_starts_without_torch(
    wrong: Callable[[str, str], Path], args: list[str], code: int
) -> None:
    path = str(wrong("cross_entropy", "cross_entropi"))
    args = [path if a == "WRONG" else a for a in args]
    command = [sys.executable, "-c", _SAYS_TORCH, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == f"False {code}"


def test_wrong_usage_is_2(run: Callable[..., Result], spec: Path) -> None:
    assert run("chekc").exit_code == 2
    assert run("compile", spec).exit_code == 2
    assert run("draw", spec, "-o", "picture.pdf").exit_code == 2
    assert run("list", "lossez").exit_code == 2
    assert run("taps", "cifar/resnet8", "--input", "3by32").exit_code == 2
    assert run("taps", "cifar/resnet8", "--args", "width").exit_code == 2


def test_our_fault_is_3(
    run: Callable[..., Result], spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdgraph.train.explained.plan", None)
    monkeypatch.delenv("KDGRAPH_TRACEBACK", raising=False)
    result = run("explain", spec)
    assert result.exit_code == 3
    assert "error[KD599]: TypeError: 'NoneType' object is not callable" in result.stderr
    assert "KDGRAPH_TRACEBACK=1" in result.stderr
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("KDGRAPH_TRACEBACK", "1")
    assert "Traceback" in run("explain", spec).stderr


def test_a_stop_by_the_user_is_130(
    run: Callable[..., Result], spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdgraph.train.explained.plan", stopped)
    assert run("explain", spec).exit_code == 130


def test_a_place_that_cannot_be_written_is_the_users(
    run: Callable[..., Result], spec: Path
) -> None:
    result = run("draw", spec, "-o", spec / "picture.dot")
    assert result.exit_code == 1
    assert "error[KD799]" in result.stderr


def test_errors_are_coloured_on_a_terminal_only(wrong: Callable[[str, str], Path]) -> None:
    path = str(wrong("cross_entropy", "cross_entropi"))
    plain = CliRunner().invoke(main, ["check", path]).stderr
    colour = CliRunner().invoke(main, ["check", path], color=True).stderr
    assert "\x1b[" not in plain
    assert "\x1b[31m\x1b[1merror[KD201]\x1b[0m" in colour
    assert click.unstyle(colour) == plain


def test_completion_knows_names() -> None:
    found = CliRunner().invoke(
        main,
        env={
            "_KDGRAPH_COMPLETE": "bash_complete",
            "COMP_WORDS": "kdgraph list losses soft",
            "COMP_CWORD": "3",
        },
        prog_name="kdgraph",
    )
    assert "soft_target" in found.output
