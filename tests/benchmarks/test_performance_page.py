"""Results become tables of the page, between their comments."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", name="page")
def _page() -> ModuleType:
    path = ROOT / "benchmarks" / "performance_page.py"
    spec = importlib.util.spec_from_file_location("performance_page", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_stand_where_they_belong(page: ModuleType) -> None:
    text = "before\n<!-- a -->\nold\n\nold\n<!-- end a -->\nafter\n"
    expected = "before\n<!-- a -->\nnew\n<!-- end a -->\nafter\n"
    assert page.refresh(text, {"a": "new"}) == expected
    assert page.refresh(expected, {"a": "new"}) == expected


def test_a_missing_place_is_told(page: ModuleType) -> None:
    with pytest.raises(SystemExit, match="no place for 'b'"):
        page.refresh("<!-- a -->\n<!-- end a -->\n", {"b": "new"})


def test_missed_targets_are_marked(page: ModuleType) -> None:
    assert [page.against(2.0, met) for met in (True, False, None)] == [
        "**2.00**",
        "2.00 (missed)",
        "2.00",
    ]


def test_a_kernel_that_is_wrong_or_slow_is_told(page: ModuleType) -> None:
    facts = {"hardware": "a GPU", "threads": 1, "cores": 2, "python": "3", "date": "2026-11-21"}
    facts |= {"load": [0.0], "bytes": 4.3e12, "flops": 790e12}
    fast = {"title": "a", "right": True, "ms": 0.5, "goal_ms": 0.6, "of_floor": 0.7, "peak_mb": 3}
    slow = fast | {"title": "b", "ms": 0.7, "others": {}}
    fast["others"] = {"PyTorch": {"ratio": 3.0}, "Liger": {"note": "out of memory"}}
    wrong = {"title": "c", "right": False, "others": {}}
    found = page.kernels({"environment": facts, "cases": [fast, slow, wrong]}).splitlines()
    assert found[2] == "| case | ms | goal | of floor | peak MB | PyTorch | Liger |"
    assert found[4] == "| a | **0.500** | 0.6 | 70% | 3 | 3.00x | out of memory |"
    assert found[5] == "| b | 0.700 (missed) | 0.6 | 70% | 3 |  |  |"
    assert found[6] == "| c | wrong |  |  |  |  |  |"


def test_the_page_shows_the_results(page: ModuleType) -> None:
    """``make bench`` writes both; neither is edited by hand."""
    text = page.PAGE.read_text()
    assert page.refresh(text, page.tables(ROOT / "benchmarks" / "results")) == text
