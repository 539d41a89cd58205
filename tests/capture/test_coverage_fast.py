"""A dozen of the models of ``make coverage-models``."""

from __future__ import annotations

import fnmatch
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")


def load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "coverage_models.py"
    spec = importlib.util.spec_from_file_location("coverage_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_models"] = module
    spec.loader.exec_module(module)
    return module


coverage = load()


@pytest.fixture(scope="module", name="names")
def _names() -> list[str]:
    return list(coverage.zoo())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("pattern", "rung"), coverage.FAST.items())
def test_values_are_those_of_hooks(pattern: str, rung: str, names: list[str]) -> None:
    found = [name for name in names if fnmatch.fnmatch(name, pattern)]
    assert found
    for name in found:
        row: dict[str, Any] = coverage.check(name, ("fx", "export", "ports"))
        assert row["equal"], row
        assert row["rung"] == rung, row["declined"]
