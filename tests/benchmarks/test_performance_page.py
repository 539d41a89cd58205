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


def test_the_page_shows_the_results(page: ModuleType) -> None:
    """``make bench`` writes both; neither is edited by hand."""
    text = page.PAGE.read_text()
    assert page.refresh(text, page.tables(ROOT / "benchmarks" / "results")) == text
