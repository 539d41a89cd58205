"""Results become tables of the page, between their comments."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_results() -> None:
    spec = importlib.util.spec_from_file_location("books_page", ROOT / "benchmarks/books_page.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.PAGE.read_text()
    found = page.tables(ROOT / "benchmarks" / "results")
    assert set(found) == {"book", "book_containers"}
    assert page.refresh(text, found) == text
