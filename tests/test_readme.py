"""What the README shows is true: its spec, its Python and its error messages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from yaml import safe_load

import kdgraph

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, start: str) -> str:
    """The fenced block of a language that begins with some words."""
    found = re.search(rf"^```{language}\n({re.escape(start)}.*?)^```", README, re.M | re.S)
    assert found, f"no {language} block that starts with {start!r}"
    return found[1]


def test_the_spec_is_the_one_that_ships() -> None:
    shown = safe_load(block("yaml", "# specs/digits.yaml"))
    shipped = safe_load((ROOT / "specs" / "digits.yaml").read_text(encoding="utf-8"))
    assert shown == {k: v for k, v in shipped.items() if k not in ("data", "train")}


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python", "import torch"), "README.md", "exec"), {})
    assert (tmp_path / "student.safetensors").is_file()


def test_the_errors_are_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = (ROOT / "specs" / "digits.yaml").read_text(encoding="utf-8")
    spec = spec.replace("student.logits, target", "student.logit, target")
    spec = spec.replace("tau: 4, weight", "tau: 4, wieght")
    (tmp_path / "pair.yaml").write_text(spec, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    printed = "\n".join(str(d) for d in kdgraph.check("pair.yaml", shapes=False))
    assert printed + "\n" == block("", "pair.yaml:")
