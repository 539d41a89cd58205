"""What is loaded when: reading a spec must not wait for torch, nor a CPU-only run need Triton.

Which folder may import which is the contract in pyproject.toml (`make floors`). It reads the text
of the code and cannot tell an import at the head of a module from one inside a function; these
tests can.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ["torch", "torchvision", "timm", "transformers", "lightning", "sklearn", "triton"]
VOCABULARY = [
    "losses", "adapters", "signals", "schedules", "actions", "models", "importers", "train.data"
]  # fmt: skip

# Runs in a fresh interpreter: names the first module after whose import something heavy is loaded.
# "package.*" stands for its modules; a helper that does need torch starts with an underscore.
PROBE = """
import importlib, json, pkgutil, sys
names, heavy = json.loads(sys.argv[1])
for name in names:
    package, star, _ = name.partition(".*")
    module = importlib.import_module(package)
    if star:
        inside = pkgutil.iter_modules(module.__path__, prefix=f"{package}.")
        names += [m.name for m in inside if not m.name.rpartition(".")[2].startswith("_")]
    loaded = sorted(set(heavy) & set(sys.modules))
    if loaded:
        sys.exit(f"{name} loads {', '.join(loaded)}")
print(len(names))
"""


def probe(names: list[str], heavy: list[str]) -> int:
    """How many modules were imported; fails where one of them loads something heavy."""
    command = [sys.executable, "-c", PROBE, json.dumps([names, heavy])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_importing_kdgraph_loads_nothing_heavy() -> None:
    assert probe(["kdgraph", "kdgraph.errors", "kdgraph.registry"], HEAVY) == 3


@pytest.mark.parametrize("folder", ["spec", *VOCABULARY])
def test_the_language_loads_without_torch(folder: str) -> None:
    path = ROOT.joinpath("kdgraph", *folder.split("."))
    files = [f for f in path.glob("*.py") if not f.name.startswith("_")]
    assert probe([f"kdgraph.{folder}.*"], HEAVY) > len(files)


def test_the_command_line_starts_without_torch() -> None:
    assert probe(["kdgraph.cli.*"], HEAVY) > 1


def test_kernels_load_without_triton() -> None:
    assert probe(["kdgraph.kernels.*"], ["triton"]) >= 1
