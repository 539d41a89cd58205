"""What a run prints and keeps."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from versus.cases import Case
from versus.machine import slug, told
from versus.sizes import Sizes
from versus.timing import Difference, Times

_progress = Console(stderr=True, highlight=False)


def progress(text: str) -> None:
    """A line to stderr."""
    _progress.print(text, soft_wrap=True)


def row(
    case: Case, equal: Difference, times: Times, ours_mb: float, theirs_mb: float
) -> dict[str, Any]:
    """The facts of one case; every ratio is theirs over ours."""
    ratio, low, high = times.ratio()
    memory = theirs_mb / ours_mb
    return {
        "title": case.title,
        "ours_ms": round(statistics.median(times.ours), 3),
        "theirs_ms": round(statistics.median(times.theirs), 3),
        "ratio": round(ratio, 3),
        "ratio_low": round(low, 3),
        "ratio_high": round(high, 3),
        "target": case.target,
        "met": None if case.target is None else ratio >= case.target,
        "ours_ms_least": round(min(times.ours), 3),
        "theirs_ms_least": round(min(times.theirs), 3),
        "rounds": len(times.ours),
        "ours_mb": round(ours_mb, 2),
        "theirs_mb": round(theirs_mb, 2),
        "memory_ratio": round(memory, 2),
        "memory_target": case.memory_target,
        "memory_met": None if case.memory_target is None else memory >= case.memory_target,
        "loss_difference": equal.loss,
        "gradient_difference": equal.gradient,
        "compiled": case.compiled,
        "notes": case.notes,
    }


def sentence(found: dict[str, Any]) -> str:
    """A row in one line."""
    return (
        f"  {found['ours_ms']:.1f} ms and {found['theirs_ms']:.1f} ms, ratio {found['ratio']:.2f} "
        f"({found['ratio_low']:.2f} to {found['ratio_high']:.2f}, {found['rounds']} rounds), "
        f"peak {found['ours_mb']:.0f} MB and {found['theirs_mb']:.0f} MB"
    )


def table(rows: list[dict[str, Any]]) -> None:
    """All rows, to stdout."""
    shown = Table(title="a step, kdgraph and torchdistill", title_justify="left")
    shown.add_column("case")
    for head in ("kdgraph ms", "torchdistill ms", "ratio", "95 %", "target", "", "MB", "MB ratio"):
        shown.add_column(head, justify="right")
    for r in rows:
        shown.add_row(
            r["case"],
            f"{r['ours_ms']:.1f}",
            f"{r['theirs_ms']:.1f}",
            f"{r['ratio']:.2f}",
            f"{r['ratio_low']:.2f}-{r['ratio_high']:.2f}",
            f"{r['target'] or ''}",
            {True: "[green]hit", False: "[red]miss", None: ""}[r["met"]],
            f"{r['ours_mb']:.0f} / {r['theirs_mb']:.0f}",
            f"{r['memory_ratio']:.1f}"
            + (f" of {r['memory_target']}" if r["memory_target"] else ""),
        )
    Console(width=None if Console().is_terminal else 120).print(shown)


def write(folder: Path, rows: list[dict[str, Any]], sizes: Sizes) -> Path:
    """One file per machine; returns its path."""
    precision = "bf16 autocast" if sizes.device.type == "cuda" else "float32"
    facts = {**told(sizes.device), "precision": precision, "sizes": sizes.describe()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"vs_torchdistill-{slug(facts['hardware'])}.json"
    path.write_text(json.dumps({"environment": facts, "cases": rows}, indent=2) + "\n")
    return path
