"""The recipes of CONTRIBUTING.md work as written: one file and one test each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Puts the new files beside the real ones, where discovery finds them.
CONFTEST = """
import importlib
from pathlib import Path

for folder in Path(__file__).with_name("kdgraph").iterdir():
    importlib.import_module(f"kdgraph.{folder.name}").__path__.append(str(folder))
"""


def write_examples(folder: Path) -> list[str]:
    """Writes every example under the name it is given; returns the names."""
    found = EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text())
    for name, code in found:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    return [name for name, _ in found]


def test_every_recipe_passes_its_test(tmp_path: Path) -> None:
    # The tests of a folder come along, so that those over every entry run over the new one too.
    for folder in ("losses", "signals", "adapters"):
        shutil.copytree(ROOT / "tests" / folder, tmp_path / "tests" / folder)
    names = write_examples(tmp_path)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    added = [Path(name).stem for name in names if name.startswith("kdgraph/")]
    for code in (Path(name) for name in names if name.startswith("kdgraph/")):
        assert f"tests/{code.parent.name}/test_{code.name}" in names
    # Without the ones that compile: loading the compiler takes longer than all others together.
    chosen = f"({' or '.join(added)}) and not compiles"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    options = ["--rootdir", tmp_path, "--import-mode=importlib", "-k", chosen]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, *options, "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_recipes_are_in_house_style(tmp_path: Path) -> None:
    names = write_examples(tmp_path)
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for action in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [*ruff, *action, *config, *names], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout.decode()
