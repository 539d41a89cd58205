"""The benchmark of books runs, on few rows; what it measures decides nothing here."""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "book.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_of_books", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reads(benchmark: Any, tmp_path: Path) -> None:
    rows = benchmark.reads(tmp_path, Namespace(rows=70, batch=8, rounds=1))
    found = {row["case"]: row for row in rows}
    assert set(found) == {"reads", "reads_float32", "size", "size_blocks"}
    for row in rows:
        assert {"case", "ours", "theirs", "ratio", "target"} <= row.keys()
        assert row["ratio"] == row["theirs"] / row["ours"]
    # 1000 logits of 2 bytes and a header, and twice 1000 of 4 bytes in a zip file
    assert 2000 < found["size"]["ours"] < 2100
    assert found["size"]["theirs"] > 8000
    assert found["reads"]["target"] == 10


def test_replay(benchmark: Any, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    rows = benchmark.replay(tmp_path, Namespace(images=4, batch=2, rounds=1))
    assert [row["case"] for row in rows] == ["replay", "replay_float32", "step"]
