"""Puts the figures of ``benchmarks/results/`` into the tables of ``docs/performance.md``.

    python benchmarks/performance_page.py

A table stands between two comments, ``<!-- NAME -->`` and ``<!-- end NAME -->``; the words around
it are written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
PICTURE = """<p align="center"><img src="images/compile_time.svg" width="640"
alt="Seconds of kdgraph.compile over the layers of each model, one line per family"></p>"""


def tables(results: Path) -> dict[str, str]:
    """The text of every table for which there are results, one part per machine."""
    found: dict[str, str] = {}
    named = ("vs_torchdistill", versus), ("compile_time", compile_time), ("kernels", kernels)
    for name, table in named:
        files = sorted(results.glob(f"{name}-*.json"))
        parts = [table(json.loads(path.read_text())) for path in files]
        if name == "compile_time" and parts:
            parts.append(PICTURE)
        if parts:
            found[name] = "\n\n".join(parts)
    return found


def versus(told: dict[str, Any]) -> str:
    """Ratios of one machine."""
    lines = [
        where(told["environment"]),
        "",
        "| case | kdgraph ms | torchdistill ms | ratio | 95 % | target | peak MB | ratio |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for case in told["cases"]:
        low, high = case["ratio_low"], case["ratio_high"]
        lines.append(
            f"| `{case['case']}`: {case['title']} | {case['ours_ms']:.1f} "
            f"| {case['theirs_ms']:.1f} | {against(case['ratio'], case['met'])} "
            f"| {low:.2f} to {high:.2f} | {case['target'] or ''} "
            f"| {case['ours_mb']:.0f} / {case['theirs_mb']:.0f} "
            f"| {against(case['memory_ratio'], case['memory_met'])} |"
        )
    return "\n".join(lines)


def compile_time(told: dict[str, Any]) -> str:
    """Seconds of one machine."""
    lines = [
        where(told["environment"]),
        "",
        "| pair | layers | seconds | of the processor | captures | passes | rest | nodes |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for pair in told["pairs"]:
        captures, passes = sum(pair["captures"].values()), sum(pair["passes"].values())
        lines.append(
            f"| {pair['pair']} | {pair.get('depth', '')} | {pair['seconds']:.2f} "
            f"| {pair['processor_seconds']:.2f} | {captures:.2f} | {passes:.2f} "
            f"| {pair['rest']:.2f} | {pair['nodes']} |"
        )
    return "\n".join(lines)


def kernels(told: dict[str, Any]) -> str:
    """Times of one GPU, and how many times as long the others take."""
    facts = told["environment"]
    others = list(dict.fromkeys(name for case in told["cases"] for name in case["others"]))
    lines = [
        f"{where(facts)} A large copy moves {facts['bytes'] / 1e12:.2f} TB/s, a large product of "
        f"bfloat16 takes {facts['flops'] / 1e12:.0f} TFLOP/s.",
        "",
        "| " + " | ".join(["case", "ms", "goal", "of floor", "peak MB", *others]) + " |",
        "| --- |" + " ---: |" * (4 + len(others)),
    ]
    for case in told["cases"]:
        if "ms" not in case:
            cells = ["wrong" if case["right"] is False else case["note"], *[""] * 3]
        else:
            goal, mb = case["goal_ms"], case["peak_mb"]
            met = None if goal is None else case["ms"] <= goal
            cells = [
                {True: "**{}**", False: "{} (missed)", None: "{}"}[met].format(f"{case['ms']:.3f}"),
                "" if goal is None else f"{goal:g}",
                f"{case['of_floor']:.0%}",
                "" if mb is None else f"{mb:.0f}",
            ]
        ratios = (case["others"].get(name, {}) for name in others)
        cells += [f"{r['ratio']:.2f}x" if "ratio" in r else r.get("note", "") for r in ratios]
        lines.append(f"| {case['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def where(facts: dict[str, Any]) -> str:
    """The machine, in a sentence."""
    versions = ", ".join(
        f"{name} {facts[name]}"
        for name in ("torch", "torchvision", "timm", "transformers", "torchdistill")
        if name in facts
    )
    precision = f", {facts['precision']}" if "precision" in facts else ""
    return (
        f"{facts['hardware']}, {facts['threads']} threads on {facts['cores']} cores{precision}; "
        f"{versions}, Python {facts['python']}; {facts['date'][:10]}; load of the machine at the "
        f"end {facts['load'][0]}."
    )


def against(ratio: float, met: bool | None) -> str:
    """A ratio, bold where it meets its target, and marked where it does not."""
    text = f"{ratio:.2f}"
    return text if met is None else f"**{text}**" if met else f"{text} (missed)"


def refresh(text: str, found: dict[str, str]) -> str:
    """The page with these tables in their places."""
    for name, table in found.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        pattern = f"({re.escape(start)}\n).*?({re.escape(end)})"
        text, count = re.subn(pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.S)
        if count != 1:
            raise SystemExit(f"the page has no place for {name!r}")
    return text


def main() -> int:
    """Rewrites the page."""
    PAGE.write_text(refresh(PAGE.read_text(), tables(ROOT / "benchmarks" / "results")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
