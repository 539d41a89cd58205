"""The results of the methods become a page; every method that ships has what it needs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kdgraph

ROOT = Path(__file__).parents[2]
METHODS = sorted(path.stem for path in (ROOT / "specs" / "methods").glob("*.yaml"))
HEADINGS = ["Formula", "Shapes", "Source", "Variants", "Spec", "Data", "Graph"]


@pytest.fixture(scope="module", name="page")
def _page() -> ModuleType:
    path = ROOT / "benchmarks" / "methods_page.py"
    spec = importlib.util.spec_from_file_location("methods_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(**students: list[float]) -> dict[str, Any]:
    return {
        "method": "some",
        "data": "digits",
        "seeds": 3,
        "teachers": {"teacher": {"metrics": {"accuracy": 0.97}, "parameters": 1000}},
        "students": {kind: {"accuracy": values} for kind, values in students.items()},
        "parameters": 10,
        "steps": 100,
        "processor_minutes": 0.5,
        "environment": {
            "hardware": "a machine",
            "threads": 1,
            "cores": 2,
            "torch": "2",
            "date": "2026-01-01",
        },
    }


def test_a_row_pairs_the_seeds(page: ModuleType) -> None:
    one = row(alone=[0.5, 0.5, 0.5], plain=[0.6, 0.7, 0.8], method=[0.7, 0.8, 0.9])
    assert page.line(one, "accuracy") == (
        "| [some](some.md) | accuracy | 0.9700 | 0.5000 ± 0.0000 | 0.7000 ± 0.1000 "
        "| 0.8000 ± 0.1000 | +0.1000 (SE 0.0000) |"
    )


def test_a_method_that_loses_shows_it(page: ModuleType) -> None:
    one = row(alone=[0.9], plain=[0.8], method=[0.7])
    assert page.line(one, "accuracy").endswith("| 0.9000 | 0.8000 | 0.7000 | -0.1000 |")


def test_errors_say_that_less_is_better(page: ModuleType) -> None:
    one = row(alone=[0.9], plain=[0.8], method=[0.7])
    one["students"] = {k: {"word_error_rate": v["accuracy"]} for k, v in one["students"].items()}
    assert "| word_error_rate (less is better) | none |" in page.line(one, "word_error_rate")


def test_the_page_shows_the_results(page: ModuleType) -> None:
    """``make methods`` writes both; neither is edited by hand."""
    results = ROOT / "benchmarks" / "results" / "methods.json"
    assert page.PAGE.read_text() == page.page(json.loads(results.read_text()))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_documented(method: str) -> None:
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text()
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == HEADINGS
    assert f"](../images/methods/{method}.svg)" in text
    assert (ROOT / "docs" / "images" / "methods" / f"{method}.svg").exists()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_baseline(method: str) -> None:
    plain = ROOT / "benchmarks" / "methods" / f"{method}_plain.yaml"
    shipped = ROOT / "specs" / "methods" / f"{method}.yaml"
    own, other = (kdgraph.load_spec(path) for path in (shipped, plain))
    # what the paper does although an expert would not, its baseline does as well
    assert [str(d) for d in kdgraph.check(plain) if not d.code.startswith("KD6")] == []
    assert own.train is not None
    assert other.train is not None
    assert (own.train.epochs, own.train.seed) == (other.train.epochs, other.train.seed)
