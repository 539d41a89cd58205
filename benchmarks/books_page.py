"""Puts the figures of ``benchmarks/results/book*.json`` into the tables of ``docs/books.md``.

    python benchmarks/books_page.py

As ``performance_page.py`` does for its page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# where PYTHONSAFEPATH is set, the folder of a script is not on the path
sys.path.append(str(Path(__file__).parent))

from performance_page import refresh, where

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "books.md"
TITLES = {
    "replay": "a batch of teacher logits, as float16, and from a live ResNet-50 on 64x64 images",
    "replay_float32": "the same as float32",
    "step": "a training step of cifar/resnet8 on them, with the book and with the teacher",
    "reads": "a random batch of 1000 logits, as float16, and from torchdistill's cache",
    "reads_float32": "the same as float32",
    "size": "lengths of all files for a sample, as float16, and of torchdistill's cache",
    "size_blocks": "what the file system gives them",
}


def tables(results: Path) -> dict[str, str]:
    """The text of both tables, one part per machine."""
    named = ("book", speed), ("book_containers", containers)
    found = {}
    for name, table in named:
        files = sorted(results.glob(f"{name}-*.json"))
        if files:
            found[name] = "\n\n".join(table(json.loads(path.read_text())) for path in files)
    return found


def speed(told: dict[str, Any]) -> str:
    """The book against teacher and cache."""
    lines = [
        where(told["environment"]),
        "",
        "| case | book | other | | times better | target |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for case in told["cases"]:
        met = None if case["target"] is None else case["ratio"] >= case["target"]
        better = figure(case["ratio"]) + (" (missed)" if met is False else "")
        lines.append(
            f"| `{case['case']}`: {TITLES[case['case']]} | {figure(case['ours'])} "
            f"| {figure(case['theirs'])} | {case['unit']} | {f'**{better}**' if met else better} "
            f"| {figure(case['target']) if case['target'] else ''} |"
        )
    return "\n".join(lines)


def figure(value: float) -> str:
    """Three figures, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def containers(told: dict[str, Any]) -> str:
    """Containers beside each other."""
    facts = told["environment"]
    libraries = ("safetensors", "pyarrow", "zarr", "pylance")
    versions = ", ".join(f"{name} {facts[name]}" for name in libraries if name in facts)
    lines = [
        f"{versions}. {where(facts)}",
        "",
        "| container | ms a random batch of 64 | slowest twentieth | bytes a byte | MB/s written |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {c['case']} | {c['batch_ms']:.3g} | {c['batch_ms_p95']:.3g} "
        f"| {c['bytes_per_byte']:.4f} | {c['write_mb_s']:.0f} |"
        for c in told["cases"]
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(refresh(PAGE.read_text(), tables(ROOT / "benchmarks" / "results")))
