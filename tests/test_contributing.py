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

# The tests over every entry of a folder; some read what the entries' own test files declare.
GENERIC = [
    "losses/test_generic.py",
    "signals/test_signals.py",
    "adapters/test_adapters.py",
    "schedules/test_schedules.py",
    "models/test_base.py",
    "passes/test_every_pass.py",
    "train/transforms/test_transforms.py",
    "visual/advice/test_generic.py",
]

# Puts the new files beside the real ones, where discovery finds them. Of the tests that run once
# for each entry, those for the new ones are left, without the ones that compile: loading the
# compiler takes longer than all others together. Those that run once are left too: no list may be
# fixed.
CONFTEST = """
import importlib
from pathlib import Path

ROOT = Path(__file__).parent
ADDED = list(ROOT.glob("kdgraph/**/*.py"))
for folder in {path.parent for path in ADDED}:
    package = ".".join(folder.relative_to(ROOT).parts)
    importlib.import_module(package).__path__.append(str(folder))


def pytest_collection_modifyitems(items):
    def stays(item):
        new = any(path.stem in item.nodeid for path in ADDED)
        return (new or not hasattr(item, "callspec")) and "compiles" not in item.name

    items[:] = filter(stays, items)
"""


def write_examples(folder: Path) -> list[str]:
    """Writes every example under the name it is given; returns the names."""
    found = EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text())
    for name, code in found:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    return [name for name, _ in found]


def _mirror(code: Path) -> str:
    """The folder of tests for a file of the package."""
    deeper = {"transforms": "train/transforms", "advice": "visual/advice"}
    return next((path for name, path in deeper.items() if name in code.parts), code.parts[1])


def test_every_recipe_passes_its_test(tmp_path: Path) -> None:
    for folder in {name.partition("/")[0] for name in GENERIC}:
        shutil.copytree(ROOT / "tests" / folder, tmp_path / "tests" / folder)
    names = write_examples(tmp_path)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    added = [Path(name) for name in names if name.startswith("kdgraph/")]
    tests = [f"tests/{_mirror(code)}/test_{code.name}" for code in added]
    assert sorted([*tests, *map(str, added)]) == sorted(names)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    options = ["--rootdir", tmp_path, "--import-mode=importlib"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, *options, *tests, *(f"tests/{name}" for name in GENERIC)],
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
